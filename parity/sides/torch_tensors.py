"""Every tensor that Torch's training step makes, as data: operation, module, the user's line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch._decomp import decomposition_table
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from parity.sides.side import Batch, Evaluation
from parity.sides.tensors import Fingerprint, Graph, window
from parity.sides.torch_lines import user_line
from parity.sides.torch_side import TorchSide

# What these give has no number of their operands'.
_MADE_UP = {"_local_scalar_dense", "empty", "empty_like", "new_empty", "zeros_like",
            "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "rand_like"}  # fmt: skip
# Operations of many steps in one: run a second time step by step, as Torch itself defines them, so
# that each step may find its partner.
_FUSED = {"addmm", "baddbmm", "addmv", "native_layer_norm", "native_layer_norm_backward",
          "native_group_norm", "native_group_norm_backward", "native_batch_norm",
          "native_batch_norm_backward", "gelu", "gelu_backward", "silu", "silu_backward",
          "_log_softmax", "_log_softmax_backward_data", "_softmax", "_softmax_backward_data",
          "_safe_softmax", "nll_loss_forward", "nll_loss_backward", "nll_loss2d_forward",
          "nll_loss2d_backward", "mse_loss", "mse_loss_backward", "huber_loss",
          "huber_loss_backward", "smooth_l1_loss", "smooth_l1_loss_backward",
          "binary_cross_entropy_with_logits", "binary_cross_entropy",
          "binary_cross_entropy_backward", "elu", "elu_backward", "leaky_relu",
          "leaky_relu_backward", "softplus", "softplus_backward", "sigmoid_backward",
          "tanh_backward", "addcmul", "addcdiv", "lerp", "linalg_vector_norm", "logsumexp",
          "threshold_backward", "hardtanh", "hardtanh_backward", "embedding_dense_backward",
          "_fused_rms_norm", "_fused_rms_norm_backward", "var_mean", "std",
          "log_sigmoid_forward", "log_sigmoid_backward", "glu", "glu_backward", "mish", "hardswish",
          "mean", "var", "upsample_bilinear2d", "upsample_bicubic2d"}  # fmt: skip


def torch_tensors(
    side: TorchSide, batches: Sequence[Batch], start: Any = None, infer: bool = False
) -> tuple[Graph, Evaluation]:
    """The graph of the last of some training steps, and what the step gave.

    The first is taken from what the side holds, and the last, if there are several, from start:
    (parameters, state, optimiser state). infer: the forward pass alone, of the last batch. The
    model is the user's own, and is left as it was.
    """
    recorder = Recorder(side)
    if infer:
        with recorder.watching():
            outputs = side.forward(batches[-1][0])
        found = Evaluation(outputs, np.zeros(()), {}, {})
    elif start is None:
        with recorder.watching():
            found = side.evaluate(*batches[-1])
    else:
        with side.training():
            side.restart(side.params(), side.state(), {}, first=True)
            count = getattr(side._optimizer, "count", 1)
            for batch in batches[:-1]:
                side.step(*[batch] * count)
            side.restart(*start)
            with recorder.watching():
                taken = side.step(*[batches[-1]] * count)
            gradients = side._gradients()
        found = Evaluation({}, taken.loss, gradients, taken.params, taken.state, taken.memory)
    recorder.find_results(found)
    return recorder.graph, found


class Recorder(TorchDispatchMode):
    """While it lasts, notes every tensor that an operation gives or changes."""

    def __init__(self, side: TorchSide) -> None:
        super().__init__()
        self.graph = Graph("torch")
        self._side = side
        self._paths = {id(module): name for name, module in side._inner.named_modules()}
        self._within: list[str] = []
        self._places: dict[int, tuple[str, str]] = {}  # of forward operations, by sequence number
        # A view is known by where it lies; written to, it's another tensor.
        self._numbers: dict[tuple[Any, ...], tuple[int, int]] = {}
        self._writes: dict[int, list[int]] = {}
        self._backward_seen = False
        self._inside = ""
        self._storages: dict[int, str] | None = None
        self._own: dict[str, dict[str, int]] = {"gradients": {}, "step": {}}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        def enter(module: torch.nn.Module, args: Any) -> None:
            if not self._within:
                self._backward_seen = False
            path = self._paths.get(id(module))
            self._within.append(
                path if path is not None else (self._within[-1] if self._within else "")
            )

        def leave(module: torch.nn.Module, args: Any, out: Any) -> None:
            if self._within:
                self._within.pop()

        hooks = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema.arguments
        given = {a.name: x for a, x in zip(schema, args, strict=False)} | kwargs
        written = [
            given[a.name]
            for a in schema
            if a.alias_info is not None and a.alias_info.is_write and a.name in given
        ]
        tensors = {n: [t for t in tree_leaves(x) if _usable(t)] for n, x in given.items()}
        before = {n: [self._number(t) for t in ts] for n, ts in tensors.items()}
        scalars = [float(x) for x in tree_leaves((args, kwargs)) if type(x) in (int, float)]
        name = str(func.overloadpacket).removeprefix("aten.")
        steps = self._steps(func, name, args, kwargs)
        out = func(*args, **kwargs)
        module, line, phase = self._place()
        changed = [t for t in tree_leaves(written) if _usable(t)]
        made = [t for t in tree_leaves(out) if _usable(t)]
        results = changed or made
        lists = name.startswith("_foreach") and len(results) > 1
        for i, t in enumerate(results):
            inputs = [
                n
                for numbers in before.values()
                for n in ([numbers[i]] if lists and len(numbers) == len(results) else numbers)
            ]
            if name in ("zero_", "fill_", "copy_"):  # nothing is left of what was there
                inputs = inputs[1:]
            inputs = inputs if i >= len(steps) or steps[i] is None else [steps[i]]
            number = self.graph.add(
                name,
                inputs,
                _value(t),
                module=module,
                line=line,
                phase=phase,
                moves=func.is_view,
                scalars=scalars,
                depends=self._reached(name, inputs, line),
                # What a fused operation keeps for its backward pass is a step of it.
                inside=self._inside or (name if i and steps else ""),
                settings=_window(*args) if name == "convolution" else (),
            )
            storage = t.untyped_storage()._cdata
            if changed:
                self._writes.setdefault(storage, []).append(number)
                if name_ := self._named().get(storage):
                    self._own["step"][name_] = number
            node: Any = torch._C._current_autograd_node()
            if node is not None and hasattr(node, "variable") and not self._inside:
                if name_ := self._named().get(node.variable.untyped_storage()._cdata):
                    self._own["gradients"].setdefault(name_, number)
            self._numbers[_key(t)] = number, len(self._writes.get(storage, ()))
        return out

    def _steps(self, func: Any, name: str, args: Any, kwargs: Any) -> list[Any]:
        """Numbers of what a fused operation gives, when it is run step by step."""
        plain = name.removesuffix("_") if name not in ("_", "__") else name
        if plain not in _FUSED and plain not in _BY_STEPS:
            return []
        if name == "convolution" and args[2] is None or plain in _ADDED and not kwargs:
            return []
        same: Any = getattr(getattr(torch.ops.aten, plain, None), func._overloadname, None)
        which: Any = _BY_STEPS.get(plain) or decomposition_table.get(same)
        if which is None:
            return []

        def own(t: Any) -> Any:
            if not _usable(t):
                return t
            number, copy = self._number(t), t.detach().clone()
            self._numbers[_key(copy)] = number, 0
            self._writes.pop(copy.untyped_storage()._cdata, None)
            copies.append(copy)
            return copy

        copies: list[torch.Tensor] = []
        outside, self._inside = self._inside, self._inside or name
        try:
            given = tree_map(own, (args, kwargs))
            with self:
                found = which(*given[0], **given[1])
        except (RuntimeError, TypeError, NotImplementedError):
            return []
        finally:
            self._inside = outside
        return [self._number(t) if _usable(t) else None for t in tree_leaves(found)]

    def find_results(self, found: Evaluation) -> None:
        """Which tensors are the parts of an Evaluation: the last with the same numbers."""
        latest: dict[bytes, int] = {}
        for t in self.graph.tensors:
            latest[t.fingerprint.key] = self.graph.origin(t.number)
        for part in ("logits", "loss", "gradients", "step", "state"):
            leaves = found.part(part)
            self.graph.results[part] = {}
            for name, leaf in leaves.items():
                number = latest.get(Fingerprint.of(np.asarray(leaf)).key)
                if number is None:  # a leaf that the side shows otherwise than Torch holds it
                    origins = self._side.own_names(name)
                    own = self._own.get(part, {})
                    number = next((own[n] for n in origins if n in own), None)
                if number is not None:
                    self.graph.results[part][name] = number

    def _reached(self, name: str, inputs: list[int], line: str) -> bool | None:
        """Whether what was given reaches a tensor; None: if it reaches its operands."""
        if name == "lift_fresh":  # of an array: the user's, or a batch
            return not line
        return False if name in _MADE_UP or not inputs else None

    def _named(self) -> dict[int, str]:
        """{storage: name} of parameters and buffers."""
        if self._storages is None or not self._within and not self._backward_seen:
            inner, side = self._side._inner, self._side
            both = (*inner.named_parameters(), *inner.named_buffers())
            held = (*side._params.items(), *side._buffers.items())
            self._storages = {t.untyped_storage()._cdata: n for n, t in (*held, *both)}
        return self._storages

    def _number(self, t: torch.Tensor) -> int:
        key, storage = _key(t), t.untyped_storage()._cdata
        writes = self._writes.get(storage, [])
        number, seen = self._numbers.get(key, (None, 0))
        if number is not None and seen == len(writes):
            return number
        if number is None and not writes:
            given = self._named().get(storage, "input")
            number = self.graph.add("given", (), _value(t), given=given, depends=True)
        else:  # an operation wrote to a part of it, or to what it's a part of
            inputs = [*([number] if number is not None else []), *writes[seen:]]
            module, line, phase = self._place()
            number = self.graph.add(
                "written", inputs, _value(t), module=module, line=line, phase=phase
            )
        self._numbers[key] = number, len(writes)
        return number

    def _place(self) -> tuple[str, str, str]:
        """(module, the user's line, phase) of the operation at hand."""
        node: Any = torch._C._current_autograd_node()
        if node is not None:
            self._backward_seen = True
            module, line = self._places.get(node._sequence_nr(), ("", ""))
            return module, line or user_line(__file__, "torch_tensors"), "backward"
        module = self._within[-1] if self._within else ""
        line = user_line(__file__, "torch_tensors")
        if self._within or not self._backward_seen:
            last = torch.autograd._get_sequence_nr() - 1  # of the node that autograd just made
            self._places.setdefault(last, (module, line))
            return module, line, "forward"
        return module, line, "optimiser"


def _window(x: Any, weight: Any, bias: Any, *how: Any) -> tuple[Any, ...]:
    """Settings of a convolution, as JAX has them; a transposed one turns its kernel round."""
    stride, padding, dilation, transposed, more, groups = how
    axes = weight.ndim - 2
    stride, padding, dilation, more = (
        list(x) * (axes // len(x)) for x in (stride, padding, dilation, more)
    )
    one = [1] * axes
    if not transposed:
        return window(stride, [(p, p) for p in padding], dilation, one, groups)
    wide = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    both = [(w - p, w - p + m) for w, p, m in zip(wide, padding, more, strict=True)]
    return (*window(one, both, dilation, stride, groups), "turned round")


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor]:
    """softmax(q k^T scale + mask) v, which Torch computes without these steps."""
    weights = _weights(q, k, is_causal, attn_mask, scale)
    return (weights @ _for_each(q, v),)


def _for_each(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The keys or values of every query: neighbouring heads may share them."""
    return k if k.shape[1] == q.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def _of_shared(k: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A gradient of every query's keys or values as that of the shared ones."""
    if k.shape[1] == gradient.shape[1]:
        return gradient
    return gradient.unflatten(1, (k.shape[1], -1)).sum(2)


def _weights(
    q: torch.Tensor,
    k: torch.Tensor,
    is_causal: bool,
    mask: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    scores = (q @ _for_each(q, k).transpose(-2, -1)) * (
        q.shape[-1] ** -0.5 if scale is None else scale
    )
    if is_causal:
        blocked = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(blocked, -torch.inf)
    if mask is not None:
        blocked = mask.logical_not() if mask.dtype == torch.bool else mask == -torch.inf
        added = scores if mask.dtype == torch.bool else scores + mask
        scores = added.masked_fill(blocked, -torch.inf)
    return torch.ops.aten._softmax(scores, -1, False)


def _attention_backward(
    out_gradient: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    logsumexp: torch.Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, ...]:
    weights = _weights(q, k, is_causal, attn_mask, scale)
    of_v = weights.transpose(-2, -1) @ out_gradient
    of_weights = out_gradient @ _for_each(q, v).transpose(-2, -1)
    of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, q.dtype)
    of_products = of_scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    of_k = of_products.transpose(-2, -1) @ q
    return of_products @ _for_each(q, k), _of_shared(k, of_k), _of_shared(v, of_v)


def _convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *how: Any
) -> tuple[torch.Tensor]:
    product = torch.ops.aten.convolution(x, weight, None, *how)
    return (product + bias.reshape(-1, *[1] * (weight.ndim - 2)),)


def _added(x: Any, y: Any, *, alpha: float = 1) -> tuple[torch.Tensor]:
    return (x + y * alpha,)


def _taken_off(x: Any, y: Any, *, alpha: float = 1) -> tuple[torch.Tensor]:
    return (x - y * alpha,)


_ADDED = {"add": _added, "sub": _taken_off}
_BY_STEPS = _ADDED | {
    "convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
}


def _usable(t: Any) -> bool:
    return isinstance(t, torch.Tensor) and not t.is_complex() and t.layout == torch.strided


def _key(t: torch.Tensor) -> tuple[Any, ...]:
    return (t.untyped_storage()._cdata, t.storage_offset(), tuple(t.shape), t.stride(), t.dtype)


def _value(t: torch.Tensor) -> np.ndarray:
    return t.detach().double().numpy() if t.is_floating_point() else t.detach().numpy()
