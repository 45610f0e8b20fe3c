"""What `mlp-parity train` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.config.checkpoint import Checkpointed
from parity.config.network import AnyPerceptron


@dataclass(frozen=True, kw_only=True)
class TrainConfig(AnyPerceptron, Checkpointed):
    """Train one model on one side; writes weights, history and a picture of the curves.

    Ctrl-C keeps what has been measured, and the weights. With --checkpoint nothing but the work
    since the last one is lost, whatever ends the process.

    Examples:

    mlp-parity train --side torch --model mlp

    mlp-parity train --side jax --model scratch --hiddens 512 256 --lr 0.05 --out runs/deep

    torchrun --nproc-per-node 2 -m parity.cli train --side torch --processes 2

    mlp-parity train --epochs 100 --checkpoint runs/long/checkpoints --resume --out runs/long

    mlp-parity train --side torch --track tensorboard:runs/torch
    """

    side: Literal["jax", "torch"] = "jax"
    """Which framework."""
    model: Literal["scratch", "mlp"] = "mlp"
    """Explicit parameters, or the framework's layers."""
    epochs: int = 10
    """Passes over the training set."""
    devices: int = 1
    """Of JAX: each batch is shared out over so many in each process; a CPU simulates them."""
    unit_devices: int = 1
    """Of JAX: the hidden units are cut in so many parts as well; with --devices 2 it takes twice as
    many devices."""
    processes: int = 1
    """How many train together, started by torchrun or srun; each takes a part of every batch."""
    clip: float = 0.0
    """Largest global norm of the gradient; 0 clips nothing."""
    kernel: Literal["scan", "fused"] = "scan"
    """Of JAX: a scan over any model's steps, or Pallas kernels for one hidden layer of ReLU."""
    images: Literal["floats", "bytes"] = "floats"
    """Of JAX: floats, or bytes, whose products take three passes of bfloat16."""
    at_nan: Literal["warn", "stop"] = "warn"
    """What a loss that isn't finite does: the exit code is 2, at the end or after that epoch."""
    out: Path = Path("runs/latest")
    """Folder for weights.safetensors, history.json, history.csv, curve.png, run.json."""
    track: tuple[str, ...] = ()
    """Trackers that get the run when it is over: tensorboard:FOLDER, wandb:PROJECT,
    mlflow:EXPERIMENT."""
