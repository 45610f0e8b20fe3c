"""Where models compute, by the name that a user gives."""

from typing import Literal

from parity.exits import Refused

Device = Literal["cpu", "cuda", "tpu"]
NAMES: tuple[Device, ...] = ("cpu", "cuda", "tpu")


class DeviceMissing(Refused, ValueError):
    """A device that isn't there; the message says what is."""
