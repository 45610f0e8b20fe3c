"""What a command line may give, and what it may not: refused before anything is imported."""

import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

FLOAT32 = 3.4028234663852886e38  # the largest

# (least, most) by name, in every command. Of a seed both frameworks use 32 bits: 0 and 2^32 would
# be the same.
RANGES: dict[str, tuple[float | int, float | int | None]] = {
    "epochs": (1, 1_000_000),
    "hiddens": (1, None),
    "inputs": (1, None),
    "outputs": (2, None),
    "lr": (0, FLOAT32),
    "batch_size": (1, None),
    "seed": (0, 2**32 - 1),
    "sigma": (0, FLOAT32),
    "clip": (0, FLOAT32),
    "checkpoint_every": (1, None),
    "devices": (1, 1024),
    "unit_devices": (1, 1024),
    "processes": (1, 65_536),
    "copy_epochs": (1, 1_000_000),
    "seed_epochs": (1, 1_000_000),
    "rounds": (1, 1_000_000),
    "width": (1, None),
    "depth": (1, 1000),
    "batch": (1, None),
}


def check(config: Any, **least: float | int) -> None:
    """Refuse numbers out of range and names that aren't UTF-8, all at once: ValueError.

    least: of numbers that have no entry in RANGES, for this command; or as config.LEAST.
    """
    least = getattr(config, "LEAST", {}) | least
    ranges = RANGES | {name: (number, None) for name, number in least.items()}
    wrong = []
    for name, value in _given(config):
        if isinstance(value, (str, Path)):
            if not _is_text(str(value)):
                wrong.append(f"{name} = {_shown(str(value))}, expected a name in UTF-8")
        elif name in ranges and not isinstance(value, bool):
            low, high = ranges[name]
            # So that NaN is refused too.
            if not (value >= low and (value < math.inf if high is None else value <= high)):
                expected = f"at least {low}" if high is None else f"{low} to {high:,}"
                if value == math.inf:
                    expected += ", and finite"
                if high == FLOAT32:
                    expected = f"{low} to {high:.3g}, the largest float32"
                wrong.append(f"{name} = {value}, expected {expected}")
    if wrong:
        raise ValueError("; ".join(wrong))


def check_last_seed(config: Any, last: int) -> None:
    """Refuse seeds that go beyond the range where they count up from the one given: ValueError."""
    high = RANGES["seed"][1] or 0
    if last > high:
        raise ValueError(f"seed = {config.seed}: the last one would be {last:,}, above {high:,}")


def _given(config: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(config):
        value = getattr(config, field.name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                yield field.name, one


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
