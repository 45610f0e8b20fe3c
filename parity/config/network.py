"""Options that several commands take: the network of the book, its training, its data."""

from dataclasses import dataclass

from mlp_core.activations import Activation
from parity import defaults
from parity.config import numbers


@dataclass(frozen=True, kw_only=True)
class Source:
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""

    def __post_init__(self) -> None:
        numbers.check(self)


@dataclass(frozen=True, kw_only=True)
class Perceptron(Source):
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    lr: float = defaults.LEARNING_RATE
    """Learning rate."""
    batch_size: int = defaults.BATCH_SIZE
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = defaults.SEED
    """Of the initial weights and of the shuffles."""


@dataclass(frozen=True, kw_only=True)
class AnyPerceptron(Perceptron):
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    sigma: float | None = None
    """Spread of normal initial weights, biases 0; the default is the model's own way to draw."""
