"""What `mlp-parity check` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlp_core.activations import Activation
from parity import defaults
from parity.config import numbers


@dataclass(frozen=True)
class CheckConfig:
    """Confirm that the JAX and the Torch models agree, from the first input to the last weight.

    Writes a report and exits with 0 if they agree, 1 if they differ, 2 if it can't tell.

    Examples:

    mlp-parity check

    mlp-parity check --activation tanh --sigma 0.05

    mlp-parity check --epochs 1 --model scratch --data sample

    mlp-parity check --hiddens 128 64 --seed 7 --no-certify --out /tmp/report
    """

    model: Literal["both", "scratch", "mlp"] = "both"
    """Which pair: explicit parameters, layers of the frameworks, or both."""
    epochs: int = defaults.EPOCHS
    """Length of the training curves."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    sigma: float | None = None
    """Spread of normal initial weights, biases 0; the default is the model's own way to draw."""
    lr: float = defaults.LEARNING_RATE
    """Learning rate."""
    batch_size: int = defaults.BATCH_SIZE
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = defaults.SEED
    """Of the initial weights and of the shuffles."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    certify: bool = defaults.CERTIFY
    """Whether every step of all epochs is judged by its own rounding bound."""
    out: Path = Path("report")
    """Folder of the report."""

    def __post_init__(self) -> None:
        numbers.check(self)
