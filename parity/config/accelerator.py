"""What `mlp-parity accelerator` takes."""

from dataclasses import dataclass
from pathlib import Path

from parity.config import numbers
from parity.config.network import Source
from parity.device import Device


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig(Source):
    """Try everything on a device that this machine has, most valuable first, in a given time.

    What there is; the ladder on the device; precision and determinism; bits against the published
    hashes; speed. Every stage runs in a process of its own and is written when it ends: a run that
    is cut off keeps what it has, and a stage that fails is recorded and the next begins. Ends with
    a page and a Markdown table. Exits with 0 if all stages ended well, 1 if one did not.

    Examples:

    mlp-parity accelerator

    mlp-parity accelerator --device cuda --minutes 8 --out /tmp/h100

    mlp-parity accelerator --device cpu --data sample --small
    """

    device: Device | None = None
    """Which: cpu, cuda or tpu; by default what JAX finds."""
    minutes: float = 8.0
    """For all stages together; what isn't done by then is stopped, and keeps what it has."""
    small: bool = False
    """One epoch, few sizes: to see that it works."""
    out: Path = Path("accelerator")
    """Folder for a folder of each stage, accelerator.json, index.html and DEVICE.md."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers.check(self, minutes=0.01)
