"""What `mlp-parity trajectory` takes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parity.config import numbers
from parity.config.checkpoint import Checkpointed
from parity.config.network import AnyPerceptron


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig(AnyPerceptron, Checkpointed):
    """Certify every step of a training on both sides, and compare the runs on their own.

    Exits with 0 if they agree, 1 if they differ, 2 if too few seeds were run to tell.

    Examples:

    mlp-parity trajectory

    mlp-parity trajectory --epochs 1 --model scratch --precisions float32 float64

    mlp-parity trajectory --seeds 16 --seed-epochs 10 --out /tmp/trajectory
    """

    model: Literal["both", "scratch", "mlp"] = "both"
    """Which pair."""
    epochs: int = 10
    """Epochs whose every step is certified."""
    precisions: tuple[Literal["float32", "float64"], ...] = ("float32",)
    """In which precisions; float64 sees an update off by 1e-11."""
    copies: int = 32
    """JAX runs, one ulp apart at the start, that make the envelope; 0 leaves it out."""
    copy_epochs: int = 3
    """Epochs of the free runs."""
    seeds: int = 0
    """Seeds a side for the equivalence of final accuracy and loss; 0 leaves it out."""
    seed_epochs: int = 10
    """Epochs of each seed's run."""
    out: Path = Path("trajectory")
    """Folder of the report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers.check_last_seed(
            self, self.seed + 1000 * bool(self.seeds) + self.seeds
        )  # Torch's shuffles
        for name in ("copies", "seeds"):
            if (count := getattr(self, name)) != 0 and count < 3:
                raise ValueError(f"{name} = {count}, expected 0 or at least 3")
