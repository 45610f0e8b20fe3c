"""Where models compute, by the name that a user gives."""

from typing import Literal

Device = Literal["cpu", "cuda", "tpu"]
NAMES: tuple[Device, ...] = ("cpu", "cuda", "tpu")


class DeviceMissing(ValueError):
    """A device that isn't there; the message says what is."""
