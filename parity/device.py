"""Where models compute, by the name that a user gives."""

import functools
import subprocess
from typing import Literal

Device = Literal["cpu", "cuda", "tpu"]
NAMES: tuple[Device, ...] = ("cpu", "cuda", "tpu")


@functools.cache
def driver() -> str:
    """NVIDIA's driver, by nvidia-smi: its version, or "unknown"."""
    asked = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        said = []
    return said[0] if said else "unknown"


class DeviceMissing(ValueError):
    """A device that isn't there; the message says what is."""
