"""What is compared: a pair of models, the data, and how both are trained. NumPy only."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from mlp_core.schedule import Schedule
from parity import defaults
from parity.device import NAMES
from parity.trees import Arrays, Tree, length, only

REPRODUCIBLE_EXAMPLES = 20_000
LOSSES = ("cross_entropy", "mse", "bce_with_logits")

Weights = Mapping[str, str] | Callable[[Arrays], Any] | Literal["guess"] | None
Loss = str | tuple[Callable[..., Any], Callable[..., Any]] | None


class Known(NamedTuple):
    """A difference that the user knows and accepts: at this level, of this leaf, for a reason.

    level: its name, "*" for all. leaf: a part of the compared leaf's name; "" is every leaf.
    """

    level: str
    leaf: str
    reason: str


@dataclass(frozen=True)
class Examples:
    """Where both sides get their batches from: Fashion-MNIST, or arrays of the user's own.

    source: what mlp_core.fashion_mnist.load takes; or (inputs, targets) or (inputs, targets,
    validation inputs, validation targets), trees of arrays [examples, ...]. limit: at most so many
    training examples, the first ones. validated: whether there is a validation set, if the source
    has one.
    """

    source: Any = None
    batch_size: int = defaults.BATCH_SIZE
    seed: int = defaults.SEED
    limit: int | None = None
    validated: bool = True

    @property
    def arrays(self) -> tuple[Tree, ...] | None:
        return self.source if isinstance(self.source, tuple) else None

    def part(self, train: bool) -> tuple[Tree, Tree] | None:
        """(inputs, targets) of the user's own arrays; None where there are none."""
        arrays = self.arrays
        if arrays is None or not (train or len(arrays) == 4):
            return None
        return arrays[:2] if train else arrays[2:]

    def schedule(self, count: int, train: bool) -> Schedule:
        """Of a set that has so many examples."""
        count = min(count, self.limit) if train and self.limit is not None else count
        return Schedule(count, self.batch_size, self.seed, shuffle=train)

    @property
    def steps(self) -> int | None:
        """Batches an epoch, of the user's own arrays."""
        part = self.part(train=True)
        return None if part is None else len(self.schedule(length(part[0]), train=True))

    @property
    def reproducible(self) -> "Examples":
        """What the reproducible epoch takes: two thirds of its time would show no other fault."""
        return replace(self, limit=REPRODUCIBLE_EXAMPLES, validated=False)


@dataclass(frozen=True)
class Training:
    """How a model is trained that doesn't know it itself.

    loss: one of LOSSES, or (Torch's, JAX's) functions (outputs, targets) -> scalar; None: the
    model's own, else cross-entropy for integer targets. optimizer: (Torch's: parameters ->
    torch.optim.Optimizer, or (Optimizer, LRScheduler); JAX's: an optax transformation); None: the
    model's own, else plain SGD at rate lr. accumulate: batches whose gradients make one step.
    mode: "train" or "eval"; None: as the models are given. gradient: JAX's own
    (parameters, *inputs, targets) -> (loss, gradients like the parameters), as a step over devices
    computes them; None: jax.grad of the loss. kernel: "scan" or "fused", and images: "floats" or
    "bytes", of jax_mlp.Trainer, for JAX's side in float32.
    """

    loss: Loss = None
    optimizer: tuple[Any, Any] | None = None
    lr: float = defaults.LEARNING_RATE
    accumulate: int = 1
    mode: Literal["train", "eval"] | None = None
    infer: bool = False  # no targets: outputs alone are compared
    gradient: Callable[..., Any] | None = None
    kernel: str = "scan"
    images: str = "floats"

    def __post_init__(self) -> None:
        if isinstance(self.loss, str) and self.loss not in LOSSES:
            raise ValueError(
                f"loss: '{self.loss}', expected one of {', '.join(LOSSES)}, or a pair of functions "
                "(outputs, targets) -> scalar, Torch's and JAX's"
            )
        if self.mode not in (None, "train", "eval"):
            raise ValueError(f"mode: {self.mode!r}, expected 'train', 'eval' or None")
        if self.accumulate < 1:
            raise ValueError(f"accumulate: {self.accumulate}, expected at least 1")
        if not isinstance(self.lr, (int, float)) or not math.isfinite(self.lr):
            raise ValueError(f"lr: {self.lr!r}, expected a finite number")
        if abs(self.lr) > float(np.finfo(np.float32).max):
            raise ValueError(f"lr: {self.lr!r}, expected a number that float32 holds")
        if self.loss is not None and not isinstance(self.loss, str):
            _check_pair(
                "loss",
                self.loss,
                "torch's function, jax's function",
                all(map(callable, self.loss)) if _is_pair(self.loss) else False,
            )
            homes = [getattr(f, "__module__", "").partition(".")[0] for f in self.loss]
            if homes[0] in ("optax", "jax") or homes[1] == "torch":
                raise ValueError(
                    "loss: (JAX's, Torch's) functions, expected them the other way round"
                )
        if self.optimizer is not None:
            known = (
                [hasattr(o, "init") and hasattr(o, "update") for o in self.optimizer]
                if _is_pair(self.optimizer)
                else []
            )
            if known[:1] == [True]:
                raise ValueError(
                    "optimizer: (JAX's, Torch's), expected them the other way round: "
                    "(parameters -> torch.optim..., optax transformation)"
                )
            _check_pair(
                "optimizer",
                self.optimizer,
                "parameters -> torch.optim.Optimizer, optax transformation",
                bool(known) and known[1] and callable(self.optimizer[0]),
            )

    def loss_name(self, model: Any) -> str:
        """Which of LOSSES a model is trained by; "" for a function."""
        if isinstance(self.loss, str):
            return self.loss
        return "" if self.loss or own_method(model, "loss") else "cross_entropy"

    def assumes_cross_entropy(self, model: Any) -> bool:
        """Whether nobody said what the loss is."""
        return not (self.loss or own_method(model, "loss") or own_method(model, "training_step"))

    def loss_function(
        self, model: Any, framework: int, named: Mapping[str, Callable[..., Any]]
    ) -> Callable[..., Any]:
        """(outputs, targets) -> loss. framework: of the pair, 0 is Torch's, 1 JAX's. A named one
        takes outputs of one leaf, {"logits": ...}, as that leaf."""
        if self.loss and not isinstance(self.loss, str):
            return self.loss[framework]
        if not (name := self.loss_name(model)):
            return model.loss
        return lambda outputs, targets: named[name](only(outputs), only(targets))


def own_method(model: Any, name: str) -> Callable[..., Any] | None:
    """A method of the user's own model; None where it has none."""
    method = getattr(model, name, None)
    return method if callable(method) else None


def _is_pair(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and len(given) == 2


def _check_pair(what: str, given: Any, expected: str, ok: bool) -> None:
    if not ok:
        items = given if isinstance(given, (tuple, list)) else (given,)
        got = ", ".join(type(item).__name__ for item in items)
        got = f"({got})" if isinstance(given, (tuple, list)) else got
        raise TypeError(f"{what}: {got}, expected a pair ({expected})")


PLAIN = Training()


@dataclass(frozen=True)
class Problem:
    """One question: are these two models the same? What `check` takes, see there.

    torch, jax: the models. initial: (seed -> a new Torch model, seed -> a new JAX model), whose
    initial weights are compared as distributions. device: "cpu", "cuda" or "tpu"; None: JAX's
    default, and where Torch's model lies.

        >>> from parity.checking import solve
        >>> from parity.problem import Examples
        >>> table = {"kernel": "weight", "bias": "bias"}
        >>> problem = Problem(theirs, ours, Examples((X, y), batch_size=6), weights=table)
        >>> print(solve(problem, levels=[LEVELS[0]]).word)
        agree
    """

    torch: Any
    jax: Any
    examples: Examples
    training: Training = PLAIN
    weights: Weights = None
    state: Mapping[str, str] | None = None
    known: Sequence[Known] = ()
    initial: tuple[Callable[[int], Any], Callable[[int], Any]] | None = None
    epochs: int = defaults.EPOCHS
    certify: bool = defaults.CERTIFY
    device: str | None = None

    def __post_init__(self) -> None:
        if self.device not in (None, *NAMES):
            raise ValueError(
                f"device: {self.device!r}, expected one of {', '.join(NAMES)}, or None"
            )
