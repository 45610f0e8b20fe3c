"""What `mlp-parity bits` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.config.checkpoint import Checkpointed
from parity.config.network import Perceptron


@dataclass(frozen=True, kw_only=True)
class BitsConfig(Perceptron, Checkpointed):
    """Train in reproducible arithmetic and print hashes that any machine can check.

    JAX and Torch, one device or eight, any thread count: every loss and weight has the same bits.
    Exits with 0 if they have, 1 if they differ, 2 if it can't tell. One side needs no other
    framework: it is compared with the published hashes, which the default run has.

    Examples:

    mlp-parity bits

    mlp-parity bits --side jax --devices 8 --data sample

    mlp-parity bits --model mlp --hiddens 128 64 --epochs 1 --locate

    mlp-parity bits --integers --side jax --data sample
    """

    side: Literal["jax", "torch", "both"] = "both"
    """Which frameworks."""
    model: Literal["scratch", "mlp"] = "scratch"
    """Explicit parameters, or the framework's layers."""
    epochs: int = 10
    """Passes over the training set."""
    devices: int = 1
    """Of JAX: each batch is shared out over so many, simulated on the CPU, in each process."""
    unit_devices: int = 1
    """Of JAX: the hidden units are cut in so many parts as well; with --devices 2 it takes twice as
    many devices."""
    processes: int = 1
    """How many train together, started by torchrun or srun; each takes a part of every batch."""
    integers: bool = False
    """JAX without float64, as on a device that lacks it: int8 products and 32-bit integers. Torch
    has float64 on the CPU and on CUDA, needs it, and goes on using it."""
    locate: bool = False
    """Also repeat both runs step by step, and name the first operation and element that differ."""
    out: Path | None = None
    """Folder for bits.json and the weights; by default nothing is written."""
