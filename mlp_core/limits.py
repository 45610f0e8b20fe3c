"""What a training may be asked for, on every side: refused before anything is computed."""

import math
import numbers
import sys
from typing import Any

AT_NANS = ("warn", "stop", "ignore")


class NotFused(ValueError):
    """A training that jax_mlp.fused doesn't compute, and why."""

    def __init__(self, model: Any, why: str) -> None:
        super().__init__(
            f'kernel="fused": {type(model).__name__}: {why}; kernel="scan" takes any model'
        )


class NotBytes(ValueError):
    """A training that jax_mlp.image_bytes doesn't do on bytes, and why."""

    def __init__(self, model: Any, why: str) -> None:
        super().__init__(
            f'images="bytes": {type(model).__name__}: {why}; images="floats" takes any model'
        )


def whole(where: str, name: str, value: Any, least: int = 0) -> None:
    """Refuse anything but a whole number that is at least `least`. Raises TypeError, ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{where}: {name} = {value!r}, expected a whole number")
    if value < least:
        raise ValueError(f"{where}: {name} = {value}, expected at least {least}")


def not_negative(where: str, name: str, value: Any, most: float = sys.float_info.max) -> None:
    """Refuse anything but a number from 0 to `most`. Raises TypeError, ValueError.

    What is no plain number, as a traced rate or a schedule, is its user's own affair.
    """
    if isinstance(value, (str, bool)) or value is None:
        raise TypeError(f"{where}: {name} = {value!r}, expected a number")
    if not isinstance(value, numbers.Real):
        return
    if not 0 <= float(value) <= most:  # NaN is neither
        finite = "" if math.isinf(most) else "a finite number, "
        raise ValueError(f"{where}: {name} = {value}, expected {finite}at least 0")


def check_trainer(
    where: str, max_epochs: Any, num_gpus: Any, gradient_clip_val: Any, at_nan: Any
) -> None:
    """Refuse arguments of a Trainer. Raises TypeError, ValueError."""
    whole(where, "max_epochs", max_epochs)
    whole(where, "num_gpus", num_gpus)
    not_negative(where, "gradient_clip_val", gradient_clip_val, most=math.inf)
    if at_nan not in AT_NANS:
        raise ValueError(f"{where}: at_nan = {at_nan!r}, expected one of {AT_NANS}")
