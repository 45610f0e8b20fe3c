"""What `mlp-parity compile` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from parity import defaults
from parity.config.network import Source


@dataclass(frozen=True, kw_only=True)
class CompileConfig(Source):
    """Compile the epoch that JAX's Trainer runs for a device that this machine lacks.

    Reports memory a device, what a step launches, collectives, operands of products, time of
    compilation. Compiled for a device is not run on one. TPUs need libtpu, which the extra `tpu`
    brings, NVIDIA's GPUs what the extra `cuda13` brings; neither needs the device. Exits with 2 if
    a target could not be compiled for, or has too little memory.

    Examples:

    mlp-parity compile

    mlp-parity compile --target tpu-v5p:4x4x8 --hiddens 16384 --batch-size 65536

    mlp-parity compile --target h100:1x1x8 --precision highest --out compiled

    mlp-parity compile --kernel fused
    """

    target: tuple[str, ...] = ("tpu-v5e:2x2", "tpu-v6e:2x2", "tpu-v5p:2x2x1", "h100:1x1x1")
    """Chips and their arrangement, as tpu-v5e:2x2, tpu-v5p:4x4x8, tpu-v6e:16x16, h100:1x1x8."""
    devices: int = 1
    """Of a target: each batch is shared out over so many, one by default, as in training; 0 takes
    all that the target has."""
    hiddens: tuple[int, ...] = (256,)
    """Widths of the hidden layers."""
    lr: float = defaults.LEARNING_RATE
    """Learning rate."""
    batch_size: int = defaults.BATCH_SIZE
    """Examples in a batch; the last of an epoch may have fewer."""
    model: Literal["scratch", "mlp"] = "scratch"
    """Explicit parameters, or the framework's layers."""
    arithmetic: Literal["native", "reproducible"] = "native"
    """Float32, or the one whose bits are the same everywhere."""
    precision: Literal["default", "high", "highest"] = "default"
    """Of products: bfloat16 on a TPU and TF32 on a GPU by default, three passes of them with
    "high", float32 with "highest". `bench` names what is used: there default is bf16 or tf32."""
    kernel: Literal["scan", "fused"] = "scan"
    """A scan over any model's steps, or one TPU kernel an epoch, three of a GPU a step."""
    images: Literal["floats", "bytes"] = "floats"
    """Floats in [0, 1], or bytes, whose products take three passes of bfloat16."""
    out: Path | None = None
    """Folder for compile.json, compile.md and the compiled program's text; by default nothing is
    written."""

    LEAST: ClassVar = {"devices": 0}
