"""What the ladder asks of a framework: one protocol, in NumPy.

Parameters are named arrays oriented [in, out], under the names that their own model gives them;
batches are (inputs, labels). jax_side.py and torch_side.py fulfil it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlp_core.history import History
from mlp_core.schedule import Schedule

Arrays = dict[str, np.ndarray]

SIDES = ("jax", "torch")

REPRODUCIBLE_EXAMPLES = 20_000


@dataclass(frozen=True)
class Examples:
    """Where both sides get their batches from: Fashion-MNIST, or arrays of the user's own.

    source: what mlp_core.fashion_mnist.load takes; or (X, y) or (X, y, X_val, y_val), float32
    inputs and integer labels. limit: at most so many training examples, the first ones. validated:
    whether there is a validation set, if the source has one.
    """

    source: Any = None
    batch_size: int = 256
    seed: int = 0
    limit: int | None = None
    validated: bool = True

    @property
    def arrays(self) -> tuple[np.ndarray, ...] | None:
        return self.source if isinstance(self.source, tuple) else None

    def schedule(self, count: int, train: bool) -> Schedule:
        """Of a set that has so many examples."""
        count = min(count, self.limit) if train and self.limit is not None else count
        return Schedule(count, self.batch_size, self.seed, shuffle=train)

    @property
    def reproducible(self) -> "Examples":
        """What the reproducible epoch takes: two thirds of its time would show no other fault."""
        return replace(self, limit=REPRODUCIBLE_EXAMPLES, validated=False)


@dataclass(frozen=True)
class Evaluation:
    """What one batch gives: logits [batch, classes], mean loss in nats, gradient of the loss by
    each parameter, and the parameters after one step of the model's own optimiser."""

    logits: np.ndarray
    loss: np.ndarray
    gradients: Arrays
    step: Arrays

    def part(self, level: str) -> Arrays:
        """The logits, loss, gradients or step, by name of the leaf."""
        value = getattr(self, level)
        return value if isinstance(value, dict) else {level: value}


@dataclass(frozen=True)
class Reference:
    """What an evaluation should give: its float64 value, and how far rounding may move it.

    bound: always. likely: unless rounding errors conspire (Higham & Mary 2019). kinks: how many
    decisions rounding may turn, such as signs in a ReLU, by source line; the bounds allow for them.
    """

    value: Evaluation
    bound: Evaluation
    likely: Evaluation
    kinks: dict[str, int]


@dataclass(frozen=True)
class Pullback:
    """Logits [batch, classes], and the gradient of sum(logits * cotangent) by each parameter and
    by the inputs: no loss takes part, so integers stay integers."""

    logits: np.ndarray
    gradients: Arrays
    inputs: np.ndarray


@dataclass(frozen=True)
class Run:
    """What a training run gives: its history, and the final parameters."""

    history: History
    params: Arrays


@runtime_checkable
class Side(Protocol):
    """A model in one framework, at one precision; a copy, so that the user's is not touched."""

    name: str
    dtype: str

    def params(self) -> Arrays: ...

    def load(self, params: Mapping[str, np.ndarray]) -> None:
        """Replace the parameters, rounding them to the side's precision."""

    def batches(self, train: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches of the first epoch as this side's own pipeline makes them, in float32."""

    def stream(self, epochs: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The training batches of whole epochs in a row, as this side's own pipeline makes them."""

    def evaluate(self, X: np.ndarray, y: np.ndarray) -> Evaluation: ...

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        """With these parameters; the loaded ones stay."""

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        """Train by the side's own Trainer, from the loaded parameters, which stay as they are.

        update_scale multiplies every update: 1 + 1e-9 is a fault of known size.
        """

    def not_reproducible(self) -> list[str]:
        """Why the model can't train in reproducible arithmetic; empty if it can."""

    def reproducible_epoch(self) -> Run:
        """One epoch in reproducible arithmetic, without validation, from the loaded parameters."""

    def about(self) -> dict[str, Any]: ...
