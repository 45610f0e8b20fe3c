"""Same effective bits: what decides where no rounding bound can be had.

Two honest float32 computations of one formula leave its float64 value by similar distances; with
TF32's 11 bits for 24 one would by 2^13 times as much. The line is drawn half way, in bits. And what
rounding does in float32 it does in float64 2^29 times smaller, so the same line judges that too.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.comparison import Comparison, compare
from parity.sides.reference import ROUNDOFF
from parity.sides.side import SIDES

RATIO = 2.0 ** ((24 - 11) / 2)
FLOAT32 = ROUNDOFF["float32"]
FINER = ROUNDOFF["float64"] / FLOAT32


def same_bits(
    exact: np.ndarray,
    own: Mapping[str, np.ndarray],
    name: str,
    allowed: float = 0.0,
    ratio: float = RATIO,
) -> list[Comparison]:
    """float32: the distance of each side from the float64 values, against the other's.

    The least distance that counts is one rounding of the values. allowed: one that is in order,
    whatever the other side's. ratio: how many times as far a side may be as the other.
    """
    if any(x.shape != exact.shape for x in own.values()):
        return [compare(x, exact, name=name, sides=(s, "float64")) for s, x in own.items()]
    found = []
    apart = {s: distance(x, exact) for s, x in own.items()}
    for s, opposite in (SIDES, SIDES[::-1]):
        most = max(ratio * max(apart[opposite], FLOAT32 * _rms(exact)), allowed)
        found.append(compare(apart[s], 0.0, most, name=name, sides=(s, "expected")))
    return found


def distance(x: np.ndarray, exact: np.ndarray) -> float:
    """Root mean square of the differences; NaN where something isn't finite."""
    with np.errstate(invalid="ignore"):
        return _rms(x - exact)


def same_in_float64(
    exact: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray], name: str
) -> Comparison:
    """float64: elementwise, against what rounding did to the float32 values of both sides.

    exact, own: {side: the float64 values}, {side: the float32 ones}.
    """
    room = float64_room(exact, own)
    return compare(exact["jax"], exact["torch"], room, name=name, sides=SIDES)


def float64_room(exact: Mapping[str, np.ndarray], own: Mapping[str, np.ndarray]) -> float:
    """How far apart rounding may bring any two float64 values of these."""
    if len({x.shape for x in (*exact.values(), *own.values())}) > 1:
        return 0.0
    with np.errstate(invalid="ignore"):  # what isn't finite fails where it's compared
        apart = max(_largest(own[s] - exact[s]) for s in SIDES)
    return RATIO * FINER * max(apart, FLOAT32 * _largest(exact["jax"]))


def _largest(x: Any) -> float:
    return float(np.abs(x).max(initial=0.0))


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
