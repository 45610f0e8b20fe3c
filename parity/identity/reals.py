"""Real numbers in the place of a field: intervals, in which a difference that shows is proved.

A value's parts are the middles and the radii of intervals, in float64, and labels: numbers with the
same label are the same, wherever they were moved. What the fields find to be
different is looked for here, on random numbers of many sizes: two intervals that are apart are a
witness, whatever laws the fields lack.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from parity.identity import signs
from parity.identity.field import Algebra, Array
from parity.identity.literals import constant
from parity.identity.number import BadDraw, Field, Plain

MIDDLE, RADIUS, LABEL = 0, 1, 2
U = 2.0**-52  # twice the unit roundoff: room for the roundings of radii
LEAST = 2.0**-1070  # below it numbers are rounded to multiples of 2^-1074
DECADES = (0, 7, 1, 3, 14)  # that a draw lies above 1, or below, or neither; trial by trial
STEEPEST = 1.2  # erf's slope at 0 is 2 / sqrt(pi); that of the others is at most 1


class Reals(Algebra):
    """Draws real numbers. What may not be defined has an infinite radius, from which no difference
    is told; a comparison of intervals that meet is a bad draw."""

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng((self.seed, 1))
        self.decades = DECADES[self.seed % len(DECADES)]
        self.doubts = set()
        self._count = 1  # what is blank has the label 0, and is 0
        self._literals: dict[float, int] = {}  # type: ignore[assignment]

    # --- values ----------------------------------------------------------------------------------

    def draw(self, shape: tuple[int, ...]) -> Field:
        """Normal numbers, of a size that is drawn too."""
        size = 10.0 ** (self.decades * int(self.rng.integers(-1, 2)))
        return self._of(self.rng.standard_normal(shape) * size)

    def held(self, shape: tuple[int, ...]) -> Field:
        """As `draw`, but none is negative: of statistics and moments some are variances."""
        return self._of(np.abs(self.draw(shape).parts[MIDDLE]))

    def lift(self, x: Any) -> Field:
        """What a literal stands for, within its distance from the float that it is."""
        if isinstance(x, Field):
            return x
        given = np.asarray(x, np.float64)
        each, back = np.unique(given, return_inverse=True)
        off = np.array([_off(float(c)) for c in each]).reshape(-1)[back].reshape(given.shape)
        names = [self._literals.setdefault(float(c), -1 - len(self._literals)) for c in each]
        label = np.array(names, np.float64)[back].reshape(given.shape)
        return self._of(given, off, signs.of_values(given), given, label)

    def rounded(self, x: Array) -> Field:
        """A constant that a function gave."""
        return self._of(x, 4 * U * np.abs(x) + LEAST, signs.of_values(x), x)

    # --- sums and products -----------------------------------------------------------------------

    def add(self, a: Field, b: Field) -> Field:
        (x, d), (y, e) = _both(a, b)
        return self._rounded(x + y, d + e, (a, b), np.add)

    def neg(self, a: Field) -> Field:
        return self._exactly(-a.parts[MIDDLE], a.parts[RADIUS], (a,), np.negative)

    def difference(self, a: Field, b: Field) -> Field:
        """a - b, for a comparison: that of what is the same is 0."""
        (x, d), (y, e) = _both(a, b)
        same = (np.isinf(x) & (x == y)) | (a.parts[LABEL] == b.parts[LABEL])
        found = np.where(same, 0, x - y)
        exact = same | np.isinf(x) | np.isinf(y)
        return self._of(found, np.where(exact, 0, d + e + U * np.abs(found)))

    def mul(self, a: Field, b: Field) -> Field:
        (x, d), (y, e) = _both(a, b)
        off = np.abs(x) * e + np.abs(y) * d + d * e
        lost = np.where((x == 0) | (y == 0), 0, LEAST)
        return self._rounded(x * y, off + lost, (a, b), np.multiply)

    def inverse(self, a: Field) -> Field:
        x, d = _both(a)[0]
        off = np.where(np.abs(x) > d, d / (np.abs(x) * (np.abs(x) - d)), np.inf)
        return self._rounded(1 / x, off + LEAST, (a,), lambda c: 1 / c)

    def power(self, a: Field, n: int) -> Field:
        if n == 1:
            return a
        if n < 0:
            return self.inverse(self.power(a, -n))
        x, d = _both(a)[0]
        high = (np.abs(x) + d) ** n
        off = high - np.abs(x) ** n + 2 * (n + 1) * U * high
        return self._rounded(x**n, off + np.where(x == 0, 0, LEAST), (a,), lambda c: c**n)

    def power_of_root(self, x: Field, n: int) -> Field:
        if n % 2 == 0:
            return self.power(x, n // 2)
        v, d = _both(x)[0]
        off = np.where((v > d) | ((v == 0) & (d == 0)), np.sqrt(v) - np.sqrt(v - d), np.inf)
        root = self._rounded(np.sqrt(v), off, (x,), np.sqrt)
        return self.power(root, n)

    # --- rearrangements, and sums of products ----------------------------------------------------

    def moved(self, f: Plain, *xs: Field) -> Field:
        middle, radius, label = (
            np.asarray(f(*(x.parts[k] for x in xs))) for k in (MIDDLE, RADIUS, LABEL)
        )
        const = np.asarray(f(*(x.const for x in xs))) if _constant(xs) else None
        return self._of(middle, radius, signs.ANY, const, label)

    def linear(self, f: Plain, x: Field) -> Field:
        v, d = _both(x)[0]
        off = np.asarray(f(d)) + x.size * U * np.asarray(f(np.abs(v)))
        return self._rounded(np.asarray(f(v)), off, (x,), f)

    def bilinear(self, f: Plain, a: Field, b: Field) -> Field:
        (x, d), (y, e) = (_both(one)[0] for one in (a, b))
        size_x, size_y = np.abs(x), np.abs(y)
        off = np.asarray(f(size_x, e)) + np.asarray(f(d, size_y)) + np.asarray(f(d, e))
        off = off + max(a.size, b.size) * (U * np.asarray(f(size_x, size_y)))
        lost = LEAST * np.asarray(f((x != 0) * 1.0, (y != 0) * 1.0))
        return self._rounded(np.asarray(f(x, y)), off + lost, (a, b), f)

    def sign_of(self, x: Field) -> Array:
        """Raises BadDraw where it can't be told."""
        v, d = _both(x)[0]
        if not ((np.abs(v) > d) | ((v == 0) & (d == 0))).all():
            raise BadDraw("a comparison within rounding")
        return np.sign(v).astype(np.int8)

    # --- functions -------------------------------------------------------------------------------

    def exp(self, x: Field) -> Field:
        v, d = _both(x)[0]
        found, none = np.exp(v), v == -np.inf
        off = found * np.expm1(d) + 4 * U * found + LEAST
        return self._rounded(found, np.where(none & (d == 0), 0, off), (x,), np.exp)

    def log(self, x: Field) -> Field:
        v, d = _both(x)[0]
        found = np.log(v)
        off = np.where(v > d, -np.log1p(-d / v) + 4 * U * np.abs(found) + U, np.inf)
        return self._rounded(found, off, (x,), np.log)

    def keyed(self, x: Field, f: Callable[[Any], Any]) -> Field:
        """f: tanh, sin, cos or erf."""
        v, d = _both(x)[0]
        found = f(v)
        return self._rounded(found, STEEPEST * d + 8 * U * np.abs(found) + LEAST, (x,), f)

    # --- inside ----------------------------------------------------------------------------------

    def _of(
        self,
        middle: Any,
        radius: Any = 0.0,
        sign: int = signs.ANY,
        const: Any = None,
        label: Any = None,
    ) -> Field:
        middle = np.asarray(middle, np.float64)
        radius = np.broadcast_to(np.asarray(radius, np.float64), middle.shape)
        if label is None:
            label = self._count + np.arange(middle.size, dtype=np.float64).reshape(middle.shape)
            self._count += middle.size
        return Field({MIDDLE: middle, RADIUS: radius, LABEL: label}, sign, const)

    def _rounded(self, middle: Any, radius: Any, given: tuple[Field, ...], f: Plain) -> Field:
        middle = np.asarray(middle)
        if not any(np.isinf(x.parts[MIDDLE]).any() for x in given):  # one that was not written
            radius = np.where(np.isinf(middle), np.inf, radius)
        off = radius + np.where(np.isinf(middle), 0, U * np.abs(middle))
        return self._exactly(middle, off, given, f)

    def _exactly(self, middle: Any, radius: Any, given: tuple[Field, ...], f: Plain) -> Field:
        const = np.asarray(f(*(x.const for x in given))) if _constant(given) else None
        return self._of(middle, radius, signs.ANY, const)


def apart(a: Field, b: Field) -> Array:
    """Which elements can't be the same number, in no rounding of them."""
    (x, d), (y, e) = _both(a, b)
    with np.errstate(all="ignore"):
        return np.isfinite(x) & np.isfinite(y) & (np.abs(x - y) > (d + e) * (1 + 1e-9))


def _both(*xs: Field) -> list[tuple[Array, Array]]:
    return [(x.parts[MIDDLE], x.parts[RADIUS]) for x in xs]


def _constant(xs: tuple[Field, ...]) -> bool:
    return bool(xs) and all(x.const is not None for x in xs)


def _off(x: float) -> float:
    """How far what a literal stands for may be from it."""
    if not np.isfinite(x) or x == int(x):
        return 0.0
    c = constant(x)
    if c.root or c.halves or c.log:  # within 4 ulp of it
        return 8 * U * abs(x)
    return 0.0 if Fraction(x) == c.ratio else abs(float(c.ratio) - x) + 2 * U * abs(x)
