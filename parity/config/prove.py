"""What `mlp-parity prove` takes."""

from dataclasses import dataclass
from typing import Literal

from mlp_core.activations import Activation
from parity import defaults
from parity.config import numbers


@dataclass(frozen=True)
class ProveConfig:
    """Prove that both training steps are the same function of all inputs and weights.

    Both graphs are evaluated on the same random elements of finite fields; no data are read and
    nothing is compiled. Exits with 0 if they are identical, 1 if they differ, 2 if it can't tell.

    Examples:

    mlp-parity prove

    mlp-parity prove --activation gelu --hiddens 8 6 --model mlp

    mlp-parity prove --inputs 784 --hiddens 256 --outputs 10
    """

    model: Literal["both", "scratch", "mlp"] = "both"
    """Which pair: explicit parameters, layers of the frameworks, or both."""
    inputs: int = 7
    """Numbers in an example. What is proved holds for these sizes; small ones take less time."""
    hiddens: tuple[int, ...] = (5,)
    """Widths of the hidden layers."""
    outputs: int = 4
    """Classes."""
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    lr: float = defaults.LEARNING_RATE
    """Learning rate."""
    seed: int = defaults.SEED
    """Of the random elements."""

    def __post_init__(self) -> None:
        numbers.check(self)
