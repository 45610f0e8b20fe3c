"""What the ladder asks of a framework: one protocol, in NumPy.

Parameters, gradients, state and optimiser state are named arrays under the names that both sides
share; a weight of a Linear is [in, out]. Inputs and targets are trees of arrays.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, get_type_hints, runtime_checkable

import numpy as np

from mlp_core.history import History
from parity.sides.memory import marked
from parity.trees import NOTHING, Arrays, Tree

SIDES = ("jax", "torch")
Batch = tuple[Tree, Tree]  # (inputs, targets)


F = TypeVar("F", bound=Callable[..., Any])


class ModelFails(ValueError):
    """A user's own code fails; says on which side, at what, and in its own words."""


def no_outputs(side: str, leaf: Any) -> ModelFails:
    """What is said of a leaf of a model's outputs that is no array."""
    kind, arrays = type(leaf), {"jax": "arrays", "torch": "tensors"}[side]
    return ModelFails(
        f"{side}: outputs: a {kind.__module__}.{kind.__qualname__}, expected {arrays}: one, or a "
        "dict, tuple, list or registered pytree of them"
    )


def told(doing: str) -> Callable[[F], F]:
    """A method of a side that runs a user's code: what that raises becomes ModelFails.

    An error that already says whose it is, by "jax: " or "torch: ", goes on as it is.
    """

    def decorated(method: F) -> F:
        @functools.wraps(method)
        def run(self: Any, *args: Any, **options: Any) -> Any:
            try:
                return method(self, *args, **options)
            except (ArithmeticError, AttributeError, LookupError, NameError, RuntimeError,
                    TypeError, ValueError, AssertionError) as error:  # fmt: skip
                said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                if isinstance(error, ModelFails) or str(error).startswith(("jax: ", "torch: ")):
                    raise
                raise ModelFails(
                    f"{self.name}: the model fails {doing}, in {self.dtype}: {said:.300}"
                ) from error

        return run  # type: ignore[return-value]

    return decorated


@dataclass(frozen=True)
class Evaluation:
    """What one batch gives.

    outputs: {"logits": [batch, classes]} of a model with one output, else its leaves by name.
    loss: its mean. gradients: of the loss by each parameter. step: the parameters after one step
    of the model's own optimiser. state: what else the model holds after it. memory: the
    optimiser's own state after it, "mu.W1".
    """

    outputs: Arrays
    loss: np.ndarray
    gradients: Arrays
    step: Arrays
    state: Arrays = field(default_factory=dict)
    memory: Arrays = field(default_factory=dict)

    @property
    def logits(self) -> np.ndarray:
        """The output of a model that has one."""
        (only,) = self.outputs.values()
        return only

    def part(self, level: str) -> Arrays:
        """The logits, loss, gradients, step (with the optimiser's state) or state, by leaf."""
        if level == "logits":
            return self.outputs
        if level == "step":
            return self.step | marked(self.memory)
        value = getattr(self, level)
        return value if isinstance(value, dict) else {level: value}


@dataclass(frozen=True)
class Taken:
    """One step of a training: the loss before it, and what it left behind."""

    loss: np.ndarray
    params: Arrays
    state: Arrays
    memory: Arrays


@dataclass(frozen=True)
class Narrowest:
    """The narrowest float that a forward pass computes: its type, and where. constant: whether none
    that narrow depends on inputs or parameters. whole: whether no product is in float64."""

    kind: str = "float64"
    where: str = ""
    constant: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Pullback:
    """Logits [batch, classes], and the gradient of sum(logits * cotangent) by each parameter and
    by the inputs: no loss takes part, so integers stay integers."""

    logits: np.ndarray
    gradients: Arrays
    inputs: np.ndarray


@dataclass(frozen=True)
class Run:
    """What a training run gives: its history, the final parameters, and the final state."""

    history: History
    params: Arrays
    state: Arrays = field(default_factory=dict)


@runtime_checkable
class Side(Protocol):
    """A model in one framework, at one precision: what every side can do. A saved model or a file
    of outputs may do no more. The user's model is left as it was."""

    name: str
    dtype: str

    def params(self) -> Arrays: ...

    def state(self) -> Arrays:
        """What the model holds besides its parameters, of floats: running means."""

    def load(
        self, params: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] = NOTHING
    ) -> None:
        """Replace the parameters, and such state as is given, rounded to the side's precision."""

    def batches(self, train: bool = True) -> Iterator[Batch]:
        """The batches of the first epoch as this side's own pipeline makes them, in float32."""

    def forward(self, inputs: Tree, training: bool = True) -> Arrays:
        """The outputs, in the mode of training or of validation."""

    def accuracy(self, logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray] | None:
        """(hits, their mean) as the model counts them; None if it doesn't."""

    def about(self) -> dict[str, Any]: ...


@runtime_checkable
class Differentiable(Side, Protocol):
    """A side that has gradients, and takes a step."""

    def evaluate(self, inputs: Tree, targets: Tree, step: bool = True) -> Evaluation:
        """One batch, and one step from it by an optimiser that remembers nothing yet; without the
        step, its parts behind the gradients are empty."""

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        """With these parameters; the loaded ones stay."""


@runtime_checkable
class Trainable(Differentiable, Protocol):
    """A side that trains, by its own Trainer and from its own batches."""

    def stream(self, epochs: int) -> Iterator[Batch]:
        """The training batches of whole epochs in a row, as this side's own pipeline makes them."""

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        """Train from the loaded parameters, which stay as they are.

        update_scale multiplies every update: 1 + 1e-9 is a fault of known size.
        """

    def not_reproducible(self) -> list[str]:
        """Why the model can't train in reproducible arithmetic; empty if it can."""

    def reproducible_epoch(self) -> Run:
        """One epoch in reproducible arithmetic, without validation, from the loaded parameters."""


CAPABILITIES: dict[str, type] = {
    "forward": Side,
    "gradient": Differentiable,
    "train": Trainable,
}


def lacks(side: Any, capability: str) -> bool:
    """Whether a side can't be asked for it. Not by isinstance: from Python 3.12 on that finds no
    method that a wrapper passes on by __getattr__."""
    wanted = CAPABILITIES[capability]
    named = (*dir(wanted), *get_type_hints(wanted))
    return not all(hasattr(side, name) for name in named if not name.startswith("_"))
