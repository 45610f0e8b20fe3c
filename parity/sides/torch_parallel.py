"""A model in DistributedDataParallel, at the precision of a side."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

SAME = "find_unused_parameters", "gradient_as_bucket_view", "static_graph"


def of_type(model: torch.nn.Module, kind: torch.dtype) -> torch.nn.Module:
    """Any other model as it is; a DistributedDataParallel around a copy of what it wraps.

    Its hooks stand where parameters gather their gradients, and Torch drops them when a parameter
    changes its type: then nothing is averaged any more, in silence. So the user's own is left as it
    is. The copy is wrapped by the same options and communication hooks; hooks on single tensors are
    lost.
    """
    if not isinstance(model, DistributedDataParallel):
        return model
    inner = copy.deepcopy(model.module)
    for tensor in (*inner.parameters(), *inner.buffers()):
        narrow = tensor.is_floating_point() and torch.finfo(tensor.dtype).bits < 32
        if tensor.is_floating_point() and not (narrow and kind == torch.float32):
            tensor.data = tensor.data.to(kind)
        if tensor.requires_grad:
            tensor.grad = None
    options = {name: getattr(model, name) for name in SAME}
    if not model.broadcast_buffers:
        options["broadcast_buffers"] = False
    made = DistributedDataParallel(
        inner, model.device_ids, process_group=model.process_group, **options
    )
    for hook, state in getattr(model, "_comm_hooks", ()):
        made.register_comm_hook(state, hook)
    made.training = model.training
    return made


def processes(model: torch.nn.Module) -> int:
    """How many processes a model is spread over."""
    if not isinstance(model, DistributedDataParallel):
        return 1
    return torch.distributed.get_world_size(model.process_group)


def plain_name(model: torch.nn.Module, name: str) -> str:
    """The name that what is wrapped gives a parameter: without "module."."""
    return name.removeprefix("module.") if isinstance(model, DistributedDataParallel) else name


def plainly_named(
    model: torch.nn.Module, function: Callable[[dict[str, Any]], Any]
) -> Callable[[dict[str, Any]], Any]:
    """A function of arrays by name, which gets them by their plain names."""
    if not isinstance(model, DistributedDataParallel):
        return function
    return lambda arrays: function({plain_name(model, n): a for n, a in arrays.items()})
