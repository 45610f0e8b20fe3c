"""What `mlp-parity train` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.config.network import AnyPerceptron


@dataclass(frozen=True, kw_only=True)
class TrainConfig(AnyPerceptron):
    """Train one model on one side; writes weights, history and a picture of the curves.

    Ctrl-C keeps what has been measured, and the weights.

    Examples:

    mlp-parity train --side torch --model mlp

    mlp-parity train --side jax --model scratch --hiddens 512 256 --lr 0.05 --out runs/deep

    mlp-parity train --side torch --track tensorboard:runs/torch
    """

    side: Literal["jax", "torch"] = "jax"
    """Which framework."""
    model: Literal["scratch", "mlp"] = "mlp"
    """Explicit parameters, or the framework's layers."""
    epochs: int = 10
    """Passes over the training set."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 clips nothing."""
    out: Path = Path("runs/latest")
    """Folder for weights.safetensors, history.json, history.csv, curve.png."""
    track: tuple[str, ...] = ()
    """Trackers that get the run when it is over: tensorboard:FOLDER, wandb:PROJECT,
    mlflow:EXPERIMENT."""
