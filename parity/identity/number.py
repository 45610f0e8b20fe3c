"""A number in a chain of finite fields, and what is known of it beside its residues. NumPy only."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.identity import degree, signs
from parity.identity.chain import Array
from parity.identity.degree import Degree

Plain = Callable[..., Any]  # of float64 arrays
ROUGH = "the root of what is no square"
UNKNOWN = 2  # beside a unit: it comes from a part of a logarithm


class Undecided(Exception):
    """What the fields can't express; the message names the operation."""


class BadDraw(Exception):
    """A draw on which an operation isn't defined, as a division by 0: draw again."""


class Unclean(BadDraw):
    """The root of what is no square, in a draw that should have none; where: of its elements."""

    def __init__(self, where: Array) -> None:
        super().__init__("a root of what is no square")
        self.where = where


@dataclass(frozen=True, eq=False)
class Field:
    """parts: {k: residues modulo the k-th prime}. sign: those that its numbers can have, as bits.

    const: the real numbers, if no draw reaches them. units: {k: 1 where exp of part k is minus a
    square, 2 where nobody knows}; logarithms of what is no square bring them. inf: 1 and -1 at
    infinities, 2 at a NaN. root: (x, n) where this is x^(n/2). soft: const was rounded, as cos(1)
    is. rough: {k: where it comes from the root of what is no square}, see `roots`. doubt:
    (part, or -1 for all; why a difference there proves nothing). degree: as a rational function.
    """

    parts: dict[int, Array]
    sign: int = signs.ANY
    const: Array | None = None
    units: dict[int, Array] | None = None
    inf: Array | None = None
    root: "tuple[Field, int] | None" = None
    rough: Mapping[int, Array] = field(default_factory=dict)
    doubt: frozenset[tuple[int, str]] = frozenset()
    soft: bool = False
    degree: Degree = degree.ZERO

    @property
    def shape(self) -> tuple[int, ...]:
        return next(iter(self.parts.values())).shape

    @property
    def size(self) -> int:
        return next(iter(self.parts.values())).size


def refuse_nan(*xs: Field) -> None:
    """Raises Undecided for one."""
    if any(x.inf is not None and (x.inf == 2).any() for x in xs):
        raise Undecided("a constant NaN")


def both_units(a: Field, b: Field) -> Iterable[tuple[int, tuple[Array, Array]]]:
    """(part, units of both), of parts whose units both have."""
    assert a.units is not None and b.units is not None
    return [(k, (u, b.units[k])) for k, u in a.units.items() if k in b.units]


def added_units(u: dict[int, Array] | None, v: dict[int, Array] | None) -> dict[int, Array] | None:
    """Those of a sum: exp of it is a product."""
    if u is None or v is None:
        return u or v
    both = [(k, u[k], v[k]) for k in u if k in v]
    return {k: ((a ^ b) & 1 | (a | b) & UNKNOWN).astype(np.int8) for k, a, b in both}


def unknown_units(units: dict[int, Array] | None) -> dict[int, Array] | None:
    """Those of what no law tells."""
    if units is None:
        return None
    return {k: np.where(u > 0, UNKNOWN, 0).astype(np.int8) for k, u in units.items()}


def common(a: Field, b: Field) -> Iterable[tuple[int, tuple[Array, Array]]]:
    """(k, part k of both), of those that both have."""
    return [(k, (x, b.parts[k])) for k, x in a.parts.items() if k in b.parts]


def same(a: Field, b: Field) -> bool:
    """Whether all parts are equal."""
    return a is b or (
        a.parts.keys() == b.parts.keys()
        and all(np.array_equal(v, b.parts[k]) for k, v in a.parts.items())
    )
