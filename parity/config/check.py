"""What `mlp-parity check` takes."""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from parity import defaults
from parity.config.checkpoint import Resumable
from parity.config.network import AnyPerceptron


@dataclass(frozen=True, kw_only=True)
class CheckConfig(AnyPerceptron, Resumable):
    """Confirm that the JAX and the Torch models agree, from the first input to the last weight.

    Writes a report and exits with 0 if they agree, 1 if they differ, 2 if it can't tell.

    Examples:

    mlp-parity check

    mlp-parity check --activation tanh --sigma 0.05

    mlp-parity check --epochs 1 --model scratch --data sample

    mlp-parity check --hiddens 128 64 --seed 7 --no-certify --out /tmp/report

    mlp-parity check --epochs 100 --checkpoint report/saved --resume

    mlp-parity check --torch shop.models:Theirs --jax shop.models:ours --data shop.data:batch

    A pair of your own, as module:name, from the current folder too: each a function or a class,
    which is called without arguments, or an object. --data is then what parity.check takes.
    """

    model: Literal["both", "scratch", "mlp"] = "both"
    """Which pair: explicit parameters, layers of the frameworks, or both."""
    epochs: int = defaults.EPOCHS
    """Length of the training curves."""
    kernel: Literal["scan", "fused"] = "scan"
    """What trains JAX's model in float32: a scan over its steps, or fused Pallas kernels."""
    images: Literal["floats", "bytes"] = "floats"
    """What JAX's model gets in float32: floats, or bytes, in products of three bfloat16 passes."""
    certify: bool = defaults.CERTIFY
    """Whether every step of all epochs is judged by its own rounding bound."""
    out: Path = Path("report")
    """Folder of the report."""
    torch: str | None = None
    """Your own Torch model, as module:name."""
    jax: str | None = None
    """Your own JAX model, as module:name; a class that asks for rngs gets them."""
    weights: str | None = None
    """Of your own models: a table, or a function of Torch's arrays, as module:name; or "guess"."""
    loss: str | None = None
    """cross_entropy, mse, bce_with_logits; or (Torch's, JAX's) functions, as module:name."""
    optimizer: str | None = None
    """(Torch parameters -> torch.optim..., optax transformation), as module:name."""
    mode: Literal["train", "eval"] | None = None
    """Of your own models while they train; the default is as they are given."""
    levels: tuple[str, ...] = ()
    """Those to climb, by name; the default is all."""
    checkpoint: Path | None = None
    """Folder where each level's result is kept once it is found."""
    resume: bool = False
    """Go on at the level where a check of the same question was killed; from the first if none
    was."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.torch is None) != (self.jax is None):
            raise ValueError("--torch and --jax make a pair: expected both or neither")
        changed = {f.name for f in fields(self) if getattr(self, f.name) != f.default}
        book, own = (("model", "hiddens", "activation", "sigma", "kernel", "images"),
                     ("weights", "loss", "optimizer", "mode"))  # fmt: skip
        if self.torch is not None and (wrong := changed.intersection(book)):
            raise ValueError(f"{_options(wrong)}: of the book's models, not of your own")
        if self.torch is None and (wrong := changed.intersection(own)):
            raise ValueError(f"{_options(wrong)}: of models of your own; name --torch and --jax")
        if self.torch is None and is_import(self.data):
            raise ValueError("--data module:name: for models of your own; name --torch and --jax")


def is_import(data: str | None) -> bool:
    """Whether data are named as module:name, and not as a folder."""
    return data is not None and ":" in data and not os.path.exists(data)


def _options(names: set[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names))
