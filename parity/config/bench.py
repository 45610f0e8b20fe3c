"""What `mlp-parity bench` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.config.network import Source
from parity.device import Device


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Source):
    """Measure how fast each way of training is: rows in turn, against a floor and the peak.

    Every row runs in a process of its own; rounds are interleaved, figures are medians, and what
    scatters too much is not printed. Ctrl-C keeps the rounds so far.

    Examples:

    mlp-parity bench --quick

    mlp-parity bench --width 16 256 1024 4096 --rounds 7

    mlp-parity bench --rows floor "jax scratch" "torch mlp" --batch 64 256 1024

    mlp-parity bench --aligned
    """

    rows: tuple[str, ...] = ()
    """Which rows; by default all that fit the sizes asked for."""
    width: tuple[int, ...] = (256,)
    """Of the hidden layers; several make a sweep."""
    depth: tuple[int, ...] = (1,)
    """Number of hidden layers; several make a sweep."""
    batch: tuple[int, ...] = (256,)
    """Examples in a batch; several make a sweep."""
    aligned: bool = False
    """Instead of --width, widths at and beside 256 and 1024: do powers of two pay?"""
    precision: Literal["highest", "tf32", "bf16"] = "highest"
    """Of matrix products, on devices that have a faster one: float32, TF32 or bfloat16. With
    `compile` highest is highest, and the default is tf32 on a GPU and bf16 on a TPU."""
    device: Device | None = None
    """Where to run: cpu, cuda or tpu; by default the frameworks choose."""
    rounds: int = 9
    """Epochs of each row, after two to warm up."""
    quick: bool = False
    """The five rows that matter most: under a minute."""
    json: Path | None = None
    """File for the figures, in the place of bench.json in the folder below."""
    out: Path = Path("bench")
    """Folder for bench.json and the pictures."""
