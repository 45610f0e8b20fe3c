"""The Torch side as a port to plant faults in: which of its parts a fault can replace, and how.

JAX and the bounds stay as they are and are computed once; Torch is eager, so that a fault costs
milliseconds. A plant changes one object of one side, before the shared weights are loaded. It works
with the model's own tensors and their methods, and needs no import of Torch.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlp_core.schedule import Schedule
from mlp_core.weights import canonical_names
from parity.sides.pairs import Examples, TorchSide, TorchTrainer, book_pair
from parity.trees import NOTHING, Arrays

# A tensor of Torch; the type itself lives behind parity.sides.pairs.
Tensor = Any
Layers = list[tuple[Tensor, Tensor]]
Indices = Sequence[np.ndarray]


class Port(TorchSide):
    """A Torch side whose trainer and initial weights can be replaced; sigma: as MLP takes it."""

    trainer: type = TorchTrainer
    sigma: float | None = None

    def __init__(self, model: Any, *arguments: Any) -> None:
        super().__init__(deepcopy(model), *arguments)  # what is planted in it stays there

    def make_trainer(self, epochs: int) -> Any:
        return self.trainer(max_epochs=epochs, dtype=self.dtype)

    def layers(self) -> Layers:
        """(W [in, out], b) of each layer; views, through which gradients flow."""
        own = dict(self._inner.named_parameters())
        named = canonical_names(own)[1]
        count = len(named) // 2
        names = [named[f"W{i}"] for i in range(1, count + 1)]
        kernels = [own[name].T if name in self.turned else own[name] for name in names]
        return [(W, own[named[f"b{i}"]]) for i, W in enumerate(kernels, 1)]

    def initial(self, seed: int) -> Arrays:
        """The parameters W1 b1 ... of a new model with layers of Torch's, drawn under a seed."""
        theirs = book_pair("mlp", (256,), 0.1, seed, sigma=self.sigma)[1]
        named = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
        return {key: named[name] for key, name in canonical_names(named)[1].items()}


Plant = Callable[[Port], None]


def same(x: Any, *_: Any) -> Any:
    return x


# --- data ------------------------------------------------------------------------------------


def images(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """The images of both sets pass through `change`."""
    return arrays(lambda *a: tuple(change(x) if i % 2 == 0 else x for i, x in enumerate(a)))


def labels(change: Callable[[np.ndarray], np.ndarray]) -> Plant:
    """The labels of both sets pass through `change`."""
    return arrays(lambda *a: tuple(change(y) if i % 2 else y for i, y in enumerate(a)))


def arrays(change: Callable[..., tuple[np.ndarray, ...]]) -> Plant:
    """(X, y, X_val, y_val) pass through `change`."""

    def plant(port: Port) -> None:
        given = port.examples.arrays
        assert given is not None
        port.examples = replace(port.examples, source=change(*given))

    return plant


@dataclass(frozen=True)
class Reordered(Schedule):
    """Another way to cut epochs into batches: cut(the right schedule, epoch) -> indices."""

    cut: Callable[[Schedule, int], Indices] = lambda right, epoch: list(right.batches(epoch))

    def __len__(self) -> int:
        return len(self.cut(self._right(), 0))

    def batches(self, epoch: int) -> Any:
        return iter(self.cut(self._right(), epoch))

    def _right(self) -> Schedule:
        return Schedule(self.num_examples, self.batch_size, self.seed, self.shuffle)


@dataclass(frozen=True)
class Rescheduled(Examples):
    """Examples whose training (or validation) batches are cut by another rule."""

    cut: Callable[[Schedule, int], Indices] = lambda right, epoch: list(right.batches(epoch))
    of_training: bool = True

    def schedule(self, count: int, train: bool) -> Schedule:
        right = super().schedule(count, train)
        if train != self.of_training:
            return right
        own = (right.num_examples, right.batch_size, right.seed, right.shuffle)
        return Reordered(*own, cut=self.cut)


def batches(cut: Callable[[Schedule, int], Indices], train: bool = True) -> Plant:
    """Which examples make which batch, by `cut`."""

    def plant(port: Port) -> None:
        e = port.examples
        port.examples = Rescheduled(e.source, e.batch_size, e.seed, cut=cut, of_training=train)

    return plant


# --- weights ---------------------------------------------------------------------------------


def loaded(change: Callable[[Arrays], Mapping[str, np.ndarray]]) -> Plant:
    """The checkpoint is converted wrongly, once, when it is loaded."""

    def plant(port: Port) -> None:
        def load(params: Any, state: Any = NOTHING) -> None:
            del port.load  # what the side restores later is its own
            port.load(change(dict(params)))

        port.load = load  # type: ignore[method-assign]

    return plant


def drawn(change: Callable[[str, np.ndarray, int, np.random.Generator], np.ndarray]) -> Plant:
    """Initial parameters by change(name, the right ones, fan_in, generator)."""

    def plant(port: Port) -> None:
        honest = port.initial

        def initial(seed: int) -> Arrays:
            right, rng = honest(seed), np.random.default_rng(seed)
            return {
                name: change(name, array, right[f"W{name[1:]}"].size // len(right[f"b{name[1:]}"]),
                             rng)
                for name, array in right.items()
            }  # fmt: skip

        port.initial = initial  # type: ignore[method-assign]

    return plant
