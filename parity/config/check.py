"""What `mlp-parity check` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity import defaults
from parity.config.network import AnyPerceptron


@dataclass(frozen=True, kw_only=True)
class CheckConfig(AnyPerceptron):
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
    certify: bool = defaults.CERTIFY
    """Whether every step of all epochs is judged by its own rounding bound."""
    out: Path = Path("report")
    """Folder of the report."""
