"""What a Torch training must keep to go on to the same bits, and how it is put back."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from mlp_core.checkpoint import CheckpointError
from mlp_core.packing import Arrays, restored, stored
from mlp_core.resuming import fingerprint

Facts = dict[str, Any]


class State:
    """See mlp_core.resuming.State.

    Of the model: parameters, buffers, extra state (Module.get_extra_state), and the numbers among
    its plain attributes. Of the optimiser: its state_dict. Of a loader and its sampler: their
    state_dict, if they have one, and the state of their own generator.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def held(self) -> tuple[Arrays, Facts]:
        self.trainer.read_figures()  # the losses until now
        arrays: Arrays = {}
        model = self.trainer.model
        state = {k: v for k, v in model.state_dict().items() if not _is_lazy(v)}
        facts = {
            "model": stored(state, arrays, "model", _array),
            "optimizer": stored(self.trainer.optim.state_dict(), arrays, "optimizer", _array),
            "attributes": stored(_numbers(model), arrays, "attributes", _array),
        }
        return arrays, facts

    def restore(self, arrays: Arrays, facts: Facts) -> None:
        trainer = self.trainer
        model = restored(facts["model"], arrays, _tensor)
        optimizer = restored(facts["optimizer"], arrays, _tensor)
        numbers = restored(facts["attributes"], arrays, _tensor)
        _check_fits(trainer.model, model)
        trainer.model.load_state_dict(model)
        trainer.optim.load_state_dict(optimizer)
        modules = dict(trainer.model.named_modules())
        for path, own in numbers.items():
            for name, number in own.items():
                if not isinstance(number, (bool, int, float)) or name not in vars(modules[path]):
                    raise ValueError(f"{path}.{name} = {number!r}")
                setattr(modules[path], name, number)

    def loaders(self) -> tuple[Arrays, Facts]:
        arrays: Arrays = {}
        found = {
            f"{which}{path}": _state_of(part)
            for which in ("train", "val")
            for path, part in _parts(getattr(self.trainer, f"{which}_dataloader"))
        }
        return arrays, {"state": stored(found, arrays, "loader", _array)}

    def restore_loaders(self, arrays: Arrays, facts: Facts) -> None:
        found = restored(facts["state"], arrays, _tensor)
        for which in ("train", "val"):
            for path, part in _parts(getattr(self.trainer, f"{which}_dataloader")):
                state = found[f"{which}{path}"]
                if "generator" in state:
                    part.generator.set_state(state["generator"])
                if "state_dict" in state:
                    part.load_state_dict(state["state_dict"])

    def generators(self) -> Arrays:
        states = {"cpu": torch.get_rng_state().numpy()}
        for i, gpu in enumerate(self.trainer.gpus):
            states[f"cuda {i}"] = torch.cuda.get_rng_state(gpu).numpy()
        return states

    def restore_generators(self, arrays: Arrays) -> None:
        torch.set_rng_state(_tensor(arrays["cpu"]))
        for i, gpu in enumerate(self.trainer.gpus):
            if f"cuda {i}" in arrays:  # not where it begins on a CPU and goes on on a GPU
                torch.cuda.set_rng_state(_tensor(arrays[f"cuda {i}"]), gpu)

    def rank(self) -> int:
        return self.trainer.shares.rank

    def gathered(self, number: int) -> list[int]:
        if self.trainer.shares.count == 1:
            return [number]
        found = [torch.zeros((), dtype=torch.int64) for _ in range(self.trainer.shares.count)]
        own = torch.tensor(number)
        gpus = self.trainer.gpus  # NCCL sends what lies on a GPU alone
        found = [tensor.to(gpus[0]) if gpus else tensor for tensor in found]
        torch.distributed.all_gather(found, own.to(gpus[0]) if gpus else own)
        return [int(tensor) for tensor in found]

    def settings(self) -> Facts:
        found = {"optimizer": type(self.trainer.optim).__qualname__}
        if data := _examples(getattr(self.trainer.train_dataloader, "dataset", None)):
            found["training data"] = fingerprint(tensor.numpy() for tensor in data)
        return found


def _check_fits(model: torch.nn.Module, state: Facts) -> None:
    """Raises CheckpointError with all names and shapes that do not fit; a lazy layer takes any."""
    wrong = []
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in state:
            if not _is_lazy(tensor):
                wrong.append(f"'{name}' is missing")
        elif isinstance(tensor, torch.Tensor) and not _is_lazy(tensor):
            given = state[name]
            if (given.shape, given.dtype) != (tensor.shape, tensor.dtype):
                got = f"{given.dtype} {tuple(given.shape)}"
                wrong.append(f"'{name}' is {got}, expected {tensor.dtype} {tuple(tensor.shape)}")
    wrong += [f"'{name}' is not in the model" for name in state if name not in own]
    if wrong:
        where = f"{type(model).__name__}: the checkpoint is of another model:"
        raise CheckpointError("\n  ".join([where, *wrong]))


def _numbers(model: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Counters and their like: plain numbers that a step may change."""
    found = {}
    for path, module in model.named_modules():
        own = {k: v for k, v in vars(module).items() if type(v) in (bool, int, float)}
        own.pop("training", None)  # the Trainer's to set
        if own:
            found[path] = own
    return found


def _parts(loader: Any) -> Iterator[tuple[str, Any]]:
    """A loader and what it draws its order from."""
    for path in ("", ".sampler", ".batch_sampler", ".batch_sampler.sampler"):
        part = loader
        for name in filter(None, path.split(".")):
            part = getattr(part, name, None)
        if part is not None:
            yield path, part


def _state_of(part: Any) -> Facts:
    state: Facts = {}
    if isinstance(generator := getattr(part, "generator", None), torch.Generator):
        state["generator"] = generator.get_state()
    if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
        state["state_dict"] = part.state_dict()
    return state


def _examples(dataset: Any) -> tuple[torch.Tensor, ...]:
    """The tensors of a data set that lies in memory, if that is what it is."""
    pair = getattr(dataset, "data", None), getattr(dataset, "targets", None)
    found: tuple[Any, ...] = getattr(dataset, "tensors", None) or pair
    return found if all(isinstance(tensor, torch.Tensor) for tensor in found) else ()


def _is_lazy(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and is_lazy(tensor)


def _array(leaf: Any) -> np.ndarray | None:
    if not isinstance(leaf, torch.Tensor):
        return None
    leaf = leaf.detach().cpu()
    if leaf.dtype == torch.bfloat16:
        import ml_dtypes

        return leaf.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return leaf.numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())
