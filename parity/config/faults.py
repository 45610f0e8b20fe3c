"""What `mlp-parity faults` takes."""

from dataclasses import dataclass
from pathlib import Path

from parity.config import numbers


@dataclass(frozen=True)
class FaultsConfig:
    """Plant faults that porters make, and show which level of the ladder catches each.

    Also judges random honest networks, which must raise no alarm. Exits with 0 if every fault is
    caught where it can show first, 1 if one slips through or an honest network is called faulty.

    Examples:

    mlp-parity faults

    mlp-parity faults --only optimiser --clean 0
    """

    only: str = ""
    """A kind of fault, a level, or a fault's name; by default the whole catalogue."""
    clean: int = 1000
    """Random honest networks to judge."""
    out: Path = Path("faults")
    """Folder for faults.json and faults.png."""

    def __post_init__(self) -> None:
        numbers.check(self, clean=0)
