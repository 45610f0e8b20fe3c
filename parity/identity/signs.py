"""The signs that a number can have, as a set of bits: what is known of exp(x), x x and 3 > 0."""

from typing import Any

import numpy as np

NEGATIVE, ZERO, POSITIVE = 1, 2, 4
ANY, NOT_NEGATIVE = 7, 6
_SIGNS = {NEGATIVE: -1, ZERO: 0, POSITIVE: 1}
_BITS = {sign: bit for bit, sign in _SIGNS.items()}


def _of(mask: int) -> list[int]:
    return [sign for bit, sign in _SIGNS.items() if mask & bit]


def _sum(a: int, b: int) -> int:
    return ANY if a * b < 0 else _BITS[a or b]


def _table(each: object) -> list[list[int]]:
    def union(s: int, t: int) -> int:
        found = 0
        for a in _of(s):
            for b in _of(t):
                found |= each(a, b)  # type: ignore[operator]
        return found

    return [[union(s, t) for t in range(8)] for s in range(8)]


ADD = _table(_sum)
MUL = _table(lambda a, b: _BITS[a * b])


def neg(mask: int) -> int:
    """Of -x."""
    return MUL[mask][NEGATIVE]


def of_values(x: Any) -> int:
    """Of given numbers."""
    found = 0
    for sign, bit in _BITS.items():
        found |= bit if bool(np.any(np.sign(x) == sign)) else 0
    return found or ANY
