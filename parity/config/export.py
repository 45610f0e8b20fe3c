"""What `mlp-parity export` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from mlp_core.activations import Activation
from parity.config import numbers


@dataclass(frozen=True)
class ExportConfig:
    """Write a trained perceptron as programs that need no code of ours, and check what was written.

    model.jax-export is JAX's, of any batch size, for the CPU, CUDA, ROCm and TPUs; model.onnx is
    Torch's, and needs the extra `onnx`. Both are loaded back, and their logits judged by the same
    rounding bound as in the ladder, on this machine. Exits with 1 if they differ.

    Examples:

    mlp-parity export runs/latest/weights.safetensors

    mlp-parity export weights.safetensors --model scratch --activation tanh --formats jax
    """

    weights: Positional[Path]
    """A safetensors file of any layout, as `train` writes it."""
    model: Literal["scratch", "mlp"] = "mlp"
    """Explicit parameters, or the frameworks' layers."""
    activation: Activation = "relu"
    """Of the hidden layers, as it was trained."""
    formats: tuple[Literal["jax", "onnx"], ...] = ("jax", "onnx")
    """What to write."""
    out: Path = Path("export")
    """Folder for model.jax-export, model.onnx and export.json."""

    def __post_init__(self) -> None:
        numbers.check(self)
