"""What `mlp-parity convert` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from parity.config import numbers


@dataclass(frozen=True)
class ConvertConfig:
    """Rewrite a safetensors file of MLP weights in another layout, to the same bits.

    Reads any layout: W1 b1 ..., a Torch state_dict, Flax kernels.

    Examples:

    mlp-parity convert torch.safetensors flax.safetensors --to flax
    """

    source: Positional[Path]
    """File to read."""
    target: Positional[Path]
    """File to write."""
    to: Literal["scratch", "torch", "flax"] = "scratch"
    """Layout to write: W [in, out]; Torch's weight [out, in]; Flax's kernel [in, out]."""

    def __post_init__(self) -> None:
        numbers.check(self)
