"""Signs that formulas have though no rule gives them: of what is also written so that one does.

A number that is, in the field, one whose sign is known (a sum of squares, a product of
exponentials) has its sign; n sum(x^2) >= sum(x)^2, for whatever was summed: E[x^2] - E[x]^2; and
what is above 2 is above -1. Part of it is known only when a draw was evaluated once: a second
evaluation, of the same draw, has it all.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, islice
from typing import Any

import numpy as np

from parity.identity import signs

Array = Any
LARGEST = 2**12  # elements of what is tried as x
AXES = 4


@dataclass
class Inequalities:
    """What one draw has shown so far; kept when the draw is evaluated once more."""

    signed: dict[bytes, int] = field(default_factory=dict)
    sums: dict[int, dict[bytes, Array]] = field(default_factory=dict)  # of each part
    # Of these, {(part, size): what _spreads gives}, and of how many of them that is.
    spreads: dict[tuple[int, int], set[bytes]] = field(default_factory=dict)
    spread: dict[tuple[int, int], int] = field(default_factory=dict)
    constants: tuple[float, ...] = ()  # that comparisons are known to use, in order
    met: set[float] = field(default_factory=set)  # by those of this evaluation

    def again(self) -> "Inequalities":
        """For the second evaluation."""
        return replace(self, constants=self.known_constants())

    @property
    def aware(self) -> bool:
        """Whether this evaluation knew all the constants from its start."""
        return self.met <= {*self.constants}

    def known_constants(self) -> tuple[float, ...]:
        """Of all evaluations so far, and their negatives: x compares with c as -x with -c."""
        both = {*self.constants, *self.met}
        return tuple(sorted({*both, *(-c for c in both)}))

    def known(self, parts: dict[int, Array], sign: int) -> None:
        """A sign that a rule gave."""
        if sign == signs.ANY or not parts:
            return
        for v in parts.values():
            key = v.tobytes()
            self.signed[key] = self.signed.get(key, signs.ANY) & sign or sign

    def summed(self, parts: dict[int, Array]) -> None:
        """Something that was added up."""
        for k, v in parts.items():
            if v.ndim and v.size <= LARGEST and v.ndim <= AXES:
                self.sums.setdefault(k, {})[v.tobytes()] = v

    def sign(self, p: int, part: int, v: Array) -> int:
        """Signs that v can have, modulo p."""
        for one, turn in ((v, False), (-v % p, True)):
            found = self.signed.get(one.tobytes())
            if found is None and self._is_spread(p, part, one):
                found = self.signed[one.tobytes()] = signs.NOT_NEGATIVE
            if found is not None:
                return signs.neg(found) if turn else found
        return signs.ANY

    def order(
        self, constant: float, sign: Array, known: int, of: Callable[[float], Array]
    ) -> Array:
        """The sign of a number less a constant, such that constants in order have signs in order.

        sign: by itself; of: the same of another constant; known: signs that the number can have. As
        many constants lie below it as by themselves do, or as its known sign leaves: so x and
        abs(x), where they are the same number, lie between the same constants.
        """
        if math.isinf(constant):
            return sign
        self.met.add(constant)
        if constant not in self.constants or len(self.constants) < 2 or sign.size > LARGEST:
            return sign
        below, at = np.zeros(sign.shape, np.int64), np.full(sign.shape, -1)
        for i, c in enumerate(self.constants):
            each = sign if c == constant else of(c)
            below += each > 0
            at = np.where(each == 0, i, at)
        least = 0 if known & signs.NEGATIVE else sum(c <= 0 for c in self.constants)
        less = 0 if known & signs.POSITIVE else sum(c >= 0 for c in self.constants)
        below = np.clip(below, least, len(self.constants) - less)
        below = np.where(at < 0, below, at)
        here = self.constants.index(constant)
        return np.where(at == here, 0, np.where(here < below, 1, -1))

    def _is_spread(self, p: int, part: int, v: Array) -> bool:
        """Whether v is n sum(x^2) - sum(x)^2 over some axes, or that over 1, n, n^2 or n (n - 1),
        for some x that was added up."""
        if not v.size:
            return False
        key, sums = (part, v.size), self.sums.get(part, {})
        known = self.spreads.setdefault(key, set())
        for x in islice(sums.values(), self.spread.get(key, 0), None):
            known.update(_spreads(p, x, v.size))
        self.spread[key] = len(sums)
        return v.tobytes() in known


def _spreads(p: int, x: Array, size: int) -> Iterator[bytes]:
    n = x.size // size
    if n < 2 or n * size != x.size:
        return
    for axes in _subsets(x.ndim):
        if math.prod(x.shape[a] for a in axes) == n:
            total, squares = x.sum(axes) % p, (x * x % p).sum(axes) % p
            spread = (n * squares - total * total) % p
            for over in (1, n, n * n, n * (n - 1)):
                yield (spread * pow(over, -1, p) % p).tobytes()


@cache
def _subsets(ndim: int) -> list[tuple[int, ...]]:
    return [axes for r in range(1, ndim + 1) for axes in combinations(range(ndim), r)]
