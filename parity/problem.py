"""What is compared: a pair of models, the data, and how both are trained. NumPy only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from mlp_core.schedule import Schedule
from parity.config import CheckConfig
from parity.trees import Arrays, Tree, length

DEFAULTS = CheckConfig()
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
    batch_size: int = DEFAULTS.batch_size
    seed: int = DEFAULTS.seed
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
    mode: "train" or "eval"; None: as the models are given.
    """

    loss: Loss = None
    optimizer: tuple[Any, Any] | None = None
    lr: float = DEFAULTS.lr
    accumulate: int = 1
    mode: Literal["train", "eval"] | None = None
    infer: bool = False  # no targets: outputs alone are compared

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


PLAIN = Training()


@dataclass(frozen=True)
class Problem:
    """One question: are these two models the same? What `check` takes, see there.

    torch, jax: the models. initial: (seed -> a new Torch model, seed -> a new JAX model), whose
    initial weights are compared as distributions.
    """

    torch: Any
    jax: Any
    examples: Examples
    training: Training = PLAIN
    weights: Weights = None
    state: Mapping[str, str] | None = None
    known: Sequence[Known] = ()
    initial: tuple[Callable[[int], Any], Callable[[int], Any]] | None = None
    epochs: int = DEFAULTS.epochs
    certify: bool = DEFAULTS.certify
