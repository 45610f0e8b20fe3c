"""What a literal stands for: a short decimal, a small ratio, a root, pi, or a logarithm."""

import math
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np


class Constant(NamedTuple):
    """ratio, or its root taken so many times, times pi^(halves/2); or the logarithm of ratio."""

    ratio: Fraction
    root: int = 0
    halves: int = 0
    log: bool = False


@lru_cache(maxsize=65536)
def constant(x: float) -> Constant:
    """The number that a float is written for.

    A decimal of up to 12 digits that gives it, in float64 or, if it is one, in float32; one of 8
    digits that it misses by what one subtraction from 1 rounds; p/q, q up to 1,000 (100); roots of
    such, or of them with pi (1/sqrt(2), sqrt(2/pi)); log 2 to log 1000. Else 11 digits of it.
    """
    if x == int(x) and abs(x) < 2**53:
        return Constant(Fraction(int(x)))
    for found in (_decimal(x, 6), _ratio(x, 1000), _decimal(x)):
        if found is not None:
            return Constant(found)
    sign = -1 if x < 0 else 1
    for halves in (0, -1, 1, -2, 2):
        rest = x * x / math.pi**halves
        found = _decimal(rest) or _ratio(rest, 1000)
        if found:
            found = Fraction(found)
            if halves % 2 == 0 and (exact := _square_root(found)) is not None:
                return Constant(sign * exact, halves=halves)
            if sign > 0:
                return Constant(found, 1, halves)
            return Constant(-found, 1, halves)
    if x > 0 and (found := _decimal(x**4) or _ratio(x**4, 1000)):
        return Constant(found, 2)
    n = round(math.exp(abs(x))) if abs(x) < 7 else 0
    if 2 <= n <= 1000 and _near(abs(x), math.log(n)):
        return Constant(Fraction(n) if x > 0 else Fraction(1, n), log=True)
    return Constant(Fraction(f"{x:.11g}"))


def _near(x: float, y: float) -> bool:
    return abs(x - y) <= 4 * math.ulp(x)


def _decimal(x: float, digits: int = 12) -> Fraction | None:
    with np.errstate(over="ignore"):
        single = np.float32(x)
        text = str(single) if float(single) == x else repr(x)
    if len(Decimal(text).as_tuple().digits) <= digits:
        return Fraction(text)
    if digits < 8:
        return None
    near = Fraction(f"{x:.8g}")
    off = abs(Fraction(x) - near)
    room = max(4 * math.ulp(x), min(1.2e-16, 1e-12 * abs(x)))
    return near if off <= Fraction(room) else None


def _ratio(x: float, largest: int) -> Fraction | None:
    near = Fraction(x).limit_denominator(largest)
    if near and _near(float(near), x):
        return near
    near = Fraction(x).limit_denominator(100)  # 3% of all float32 lie beside a p/1000
    return near if near and float(np.float32(float(near))) == x else None


def _square_root(x: Fraction) -> Fraction | None:
    top, bottom = math.isqrt(x.numerator), math.isqrt(x.denominator)
    return Fraction(top, bottom) if top**2 == x.numerator and bottom**2 == x.denominator else None
