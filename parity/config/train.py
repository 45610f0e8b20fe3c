"""What `mlp-parity train` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlp_core.activations import Activation
from parity.config import numbers


@dataclass(frozen=True)
class TrainConfig:
    """Train one model on one side; writes weights, history and a picture of the curves.

    Ctrl-C keeps what has been measured, and the weights.

    Examples:

    mlp-parity train --side torch --model mlp

    mlp-parity train --side jax --model scratch --hiddens 512 256 --lr 0.05 --out runs/deep
    """

    side: Literal["jax", "torch"] = "jax"
    """Which framework."""
    model: Literal["scratch", "mlp"] = "mlp"
    """Explicit parameters, or the framework's layers."""
    epochs: int = 10
    """Passes over the training set."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    activation: Activation = "relu"
    """Of the hidden layers; "gelu" is the exact one, "gelu_tanh" its approximation by tanh."""
    sigma: float | None = None
    """Spread of normal initial weights, biases 0; the default is the model's own way to draw."""
    lr: float = 0.1
    """Learning rate."""
    batch_size: int = 256
    """Examples in a batch; the last of an epoch may have fewer."""
    seed: int = 0
    """Of the initial weights and of the shuffles."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 clips nothing."""
    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; the default is to look for it: `mlp-parity data`."""
    out: Path = Path("runs/latest")
    """Folder for weights.safetensors, history.json, history.csv, curve.png."""

    def __post_init__(self) -> None:
        numbers.check(self)
