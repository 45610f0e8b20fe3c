"""Numbers in a chain of finite fields, and their sums, products and rearrangements. NumPy only.

A value has a part for each prime that it still has: x mod p_0, x mod p_1, ... Sums, products and
quotients act on each part; what else there is lies in `functions`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np

from parity.identity import degree, roots, signs
from parity.identity.chain import Array, Prime, chain
from parity.identity.degree import Degree, Degrees
from parity.identity.inequalities import Inequalities
from parity.identity.literals import constant
from parity.identity.number import (
    ROUGH,
    UNKNOWN,
    BadDraw,
    Field,
    Plain,
    Unclean,
    Undecided,
    added_units,
    both_units,
    common,
    refuse_nan,
    same,
    unknown_units,
)

EXACT = 2**53  # integers below it are floats
NONE: roots.Rough = {}


@dataclass
class Algebra:
    """One draw: the primes, and everything that is random about it.

    fine: tanh and the logistic function are written by exp; else they are functions of which only
    their symmetries are known. clean: parts in which roots of one number, or of as many rows of
    numbers as there are examples, are to be those of squares.
    """

    seed: int = 0
    length: int = 4
    fine: bool = False
    choice: int = 0
    rng: np.random.Generator = field(init=False)
    primes: tuple[Prime, ...] = field(init=False)
    doubts: set[str] = field(default_factory=set)
    laws: Inequalities = field(default_factory=Inequalities)
    clean: frozenset[int] = frozenset()
    strict: bool = False  # whether they are
    rows: int = 0
    leaves: frozenset[tuple[int, ...]] = frozenset()  # shapes of parameters
    kept: list[Any] = field(default_factory=list)  # what was drawn in each step
    kept_before: list[Any] = field(default_factory=list)  # to be drawn again
    degrees: Degrees = field(default_factory=Degrees)
    ways: list[tuple[bool, ...] | None] = field(default_factory=list)  # signs met; None: known
    renewals: Any = None  # see `renewals`
    coarse: bool = False  # whether a function stood for one that `fine` writes by exp

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng((self.seed, self.length))
        self.primes = chain(self.length)
        self.scale = [int(self.rng.integers(1, q.p // 2)) for q in self.primes]  # exp(1) = 4^scale
        self.pi = [pow(int(self.rng.integers(2, q.p)), 2, q.p) for q in self.primes]
        self.key = [int(k) for k in self.rng.integers(1, 2**62, self.length)]
        self._literals: dict[float, list[int]] = {}
        self._lifted: dict[float, Field] = {}
        self._inverses: dict[float, Field] = {}  # of these

    # --- values ----------------------------------------------------------------------------------

    def held(self, shape: tuple[int, ...]) -> Field:
        """Random elements for statistics and moments."""
        return self.draw(shape)

    def draw(self, shape: tuple[int, ...]) -> Field:
        """Random elements."""
        parts = {k: self.rng.integers(0, q.p, shape) for k, q in enumerate(self.primes)}
        return Field(parts, degree=degree.ONE)

    def mark(self) -> Any:
        """To come back to, with another draw."""
        return len(self.ways), set(self.doubts)

    def back(self, kept: Any) -> None:
        """To where it was marked; what was drawn isn't drawn again."""
        count, self.doubts = kept
        del self.ways[count:]

    def again(self, choice: int = 0) -> "Algebra":
        """The same draw, for another evaluation that knows what this one has shown."""
        laws = self.laws.again()
        found = Algebra(self.seed, self.length, self.fine, choice, laws=laws)
        found.kept_before, found.renewals = self.kept[:], self.renewals
        return found

    def redraw(self, x: Field, rows: Array) -> Field:
        """The same, with new random elements in some rows."""
        new = self.draw(x.shape)
        parts = {k: np.where(_tall(rows, v.ndim), new.parts[k], v) for k, v in x.parts.items()}
        return replace(x, parts=parts)

    def lift(self, x: Any) -> Field:
        """A value that the program holds as it is, by what its literals stand for."""
        if isinstance(x, Field):
            return x
        given = np.asarray(x, np.float64)
        if not given.ndim and (one := float(given)) == one:
            if one not in self._lifted:
                self._lifted[one] = self._lift(given)
            return self._lifted[one]
        return self._lift(given)

    def _lift(self, given: Array) -> Field:
        inf = np.where(np.isinf(given), np.sign(given), 0)
        inf = np.where(np.isnan(given), 2, inf).astype(np.int8)
        finite = np.where(inf != 0, 0.0, given)
        if given.size > 1 and (finite == finite.flat[0]).all():
            each, back = finite.ravel()[:1], np.zeros(given.shape, np.int64)
        else:
            each, back = np.unique(finite, return_inverse=True)
        residues = np.array([self._literal(float(c)) for c in each]).reshape(len(each), -1)
        parts = {k: residues[:, k][back].reshape(given.shape) for k in range(self.length)}
        parts = {k: v for k, v in parts.items() if not (v < 0).any()}
        return Field(parts, signs.of_values(given), given, inf=inf if inf.any() else None)

    def _literal(self, x: float) -> list[int]:
        if x not in self._literals:
            self._literals[x] = [self._residue(x, k) for k in range(self.length)]
        return self._literals[x]

    def _residue(self, x: float, k: int) -> int:
        """-1: there is none, as of a logarithm modulo the last prime."""
        c, p = constant(x), self.primes[k].p
        if c.log:
            if k + 1 == self.length:
                return -1
            above = np.array([_modulo(c.ratio, self.primes[k + 1].p)])
            return int(self._log_part(above, k)[0][0])
        found = _modulo(abs(c.ratio), p) * pow(self.pi[k], c.halves if c.root else 0, p) % p
        if c.root:
            found = pow(found, ((p + 1) // 4) ** c.root, p)
        else:
            found = found * pow(self.pi[k], c.halves // 2, p) % p
        return found if c.ratio >= 0 else -found % p

    def _log_part(self, above: Array, k: int) -> tuple[Array, Array]:
        """(part k of the logarithm, 1 where it is of minus a square) of part k + 1."""
        prime = self.primes[k + 1]
        character = prime.character(above)
        if not character.all():
            raise BadDraw("log 0")
        found = prime.logarithm(np.where(character < 0, prime.p - above, above))
        q = self.primes[k].p
        return found * pow(self.scale[k] % q, -1, q) % q, (character < 0).astype(np.int8)

    # --- sums and products -----------------------------------------------------------------------

    def add(self, a: Field, b: Field) -> Field:
        """a + b."""
        parts = {k: (x + y) % self.primes[k].p for k, (x, y) in common(a, b)}
        inf = None
        if a.inf is not None or b.inf is not None:
            x, y = (np.zeros((), np.int8) if one.inf is None else one.inf for one in (a, b))
            refuse_nan(a, b)
            if np.any(x * y < 0):
                raise Undecided("inf - inf")
            inf = np.sign(x + y).astype(np.int8)
        return self._made(
            parts, (a, b), signs.ADD[a.sign][b.sign], np.add, added_units(a.units, b.units),
            degree.added(a.degree, b.degree), _rough(parts, a, b), inf,
        )  # fmt: skip

    def neg(self, a: Field) -> Field:
        """-a."""
        parts = {k: -x % self.primes[k].p for k, x in a.parts.items()}
        inf = None if a.inf is None else -a.inf
        sign = signs.neg(a.sign)
        return self._made(parts, (a,), sign, np.negative, a.units, a.degree, a.rough, inf)

    def sub(self, a: Field, b: Field) -> Field:
        """a - b."""
        return self.add(a, self.neg(b))

    def mul(self, a: Field, b: Field) -> Field:
        """a b."""
        parts = {k: x * y % self.primes[k].p for k, (x, y) in common(a, b)}
        sign = signs.MUL[a.sign][b.sign] & (signs.NOT_NEGATIVE if a is b else signs.ANY)
        if a.root and b.root and same(a.root[0], b.root[0]):
            return self.power_of_root(a.root[0], a.root[1] + b.root[1])
        made = self._made(
            parts, (a, b), sign, np.multiply, self._multiplied(a, b),
            degree.multiplied(a.degree, b.degree), _rough(parts, a, b),
        )  # fmt: skip
        if a.inf is not None or b.inf is not None:
            made = self._infinite_product(made, a, b)
        return made

    def _infinite_product(self, made: Field, a: Field, b: Field) -> Field:
        refuse_nan(a, b)
        zero = np.zeros((), np.int8)
        x, y = (zero if one.inf is None else one.inf for one in (a, b))
        inf = np.where(x != 0, x, 1) * np.where(y != 0, y, 1) * ((x != 0) | (y != 0))
        for one, other in ((x, b), (y, a)):
            if np.any(one) and other.inf is None:
                where = np.broadcast_to(one != 0, inf.shape)
                sign = np.broadcast_to(self.sign_of(other), inf.shape)
                if np.any(where & (sign == 0)):
                    raise Undecided("0 times infinity")
                inf = np.where(where, inf * sign, inf)
        return replace(made, inf=inf.astype(np.int8))

    def _multiplied(self, a: Field, b: Field) -> dict[int, Array] | None:
        if a.units is None and b.units is None:
            return None
        if a.units is not None and b.units is not None:
            return {k: np.maximum(*both) * UNKNOWN for k, both in both_units(a, b)}
        one, factor = (a, b) if a.units is not None else (b, a)
        assert one.units is not None
        if factor.const is not None and np.all(factor.const == np.rint(factor.const)):
            odd = np.rint(factor.const).astype(np.int64) % 2
            return {k: u % 2 * odd + u // 2 * UNKNOWN for k, u in one.units.items()}
        return unknown_units(one.units)

    def inverse(self, a: Field) -> Field:
        """1 / a."""
        if a.const is not None and not a.shape and self._lifted.get(one := float(a.const)) is a:
            if one not in self._inverses:
                self._inverses[one] = self._inverse(a)
            return self._inverses[one]
        return self._inverse(a)

    def _inverse(self, a: Field) -> Field:
        if a.root:
            return self.power_of_root(a.root[0], -a.root[1])
        refuse_nan(a)
        live = np.zeros((), bool) if a.inf is None else a.inf != 0
        if any(np.any((x == 0) & ~live) for x in a.parts.values()):
            raise BadDraw("1 / 0")
        parts = {k: self.primes[k].inverse(x) for k, x in a.parts.items()}
        if live.any():
            parts = {k: np.where(live, 0, x) for k, x in parts.items()}
        of = self._under(a, a.degree)
        return self._made(parts, (a,), a.sign, _reciprocal, unknown_units(a.units), of, a.rough)

    def div(self, a: Field, b: Field) -> Field:
        """a / b."""
        return self.mul(a, self.inverse(b))

    def power(self, a: Field, n: int) -> Field:
        """a^n for an integer."""
        if n == 1:
            return a
        if a.root:
            return self.power_of_root(a.root[0], a.root[1] * n)
        if n < 0:
            return self.inverse(self.power(a, -n))
        if a.inf is not None:
            raise Undecided("a power of infinity")
        parts = {k: self.primes[k].power(x, n) for k, x in a.parts.items()}
        sign = {0: signs.POSITIVE}.get(n, a.sign if n % 2 else signs.MUL[a.sign][a.sign])
        if n and n % 2 == 0:
            sign &= signs.NOT_NEGATIVE
        return self._made(
            parts, (a,), sign, lambda x: x**n, unknown_units(a.units),
            degree.power(a.degree, n), a.rough if n else {},
        )  # fmt: skip

    def power_of_root(self, x: Field, n: int) -> Field:
        """x^(n/2): a root, or a power of x, without roots multiplied by roots."""
        if n % 2 == 0:
            return self.power(x, n // 2)
        parts, rough = {}, {}
        for k, value in x.parts.items():
            prime = self.primes[k]
            parts[k] = prime.root(value) if n > 0 else prime.inverse_root(value)
            if x.const is None:
                root = parts[k] if n > 0 else parts[k] * value % prime.p
                if (lone := root * root % prime.p != value).any():
                    rough[k] = lone
        if n < 0 and any((v == 0).any() for v in x.parts.values()):
            raise BadDraw("1 / 0")
        self._refuse_rough(x, rough)
        sign = signs.NOT_NEGATIVE if x.sign & signs.ZERO else signs.POSITIVE
        made = self._made(parts, (x,), sign, np.sqrt if n > 0 else lambda c: 1 / np.sqrt(c), None)
        above = degree.ONE if x.const is None else degree.ZERO
        of = above if n > 0 else self._under(made, above)
        made = replace(made, rough=roots.joined(rough, x.rough, x.shape), degree=of)
        if n not in (1, -1):
            rest = self.power(x, (n - (1 if n > 0 else -1)) // 2)
            parts = {k: v * rest.parts[k] % self.primes[k].p for k, v in parts.items()}
            const = None if made.const is None or rest.const is None else made.const * rest.const
            of = degree.multiplied(of, rest.degree)
            made = replace(made, parts=parts, const=const, sign=sign, degree=of)
        return replace(made, root=(x, n))

    def _refuse_rough(self, x: Field, rough: Mapping[int, Array]) -> None:
        by_example = x.shape[:1] == (self.rows,) and x.shape not in self.leaves
        if self.strict and x.const is None and (x.size == 1 or by_example):
            lone = [rough[k] for k in self.clean if k in rough]
            if lone:
                raise Unclean(np.logical_or.reduce(lone))

    def _under(self, x: Field, of: Degree) -> Degree:
        """The degree of 1 / x, of which x has another."""
        if not of.excess and not of.below:
            return of
        top = max(x.parts)
        return self.degrees.inverse(of, x.size, np.sort(x.parts[top], axis=None).tobytes())

    # --- rearrangements, and sums of products ----------------------------------------------------

    def moved(self, f: Plain, *xs: Field) -> Field:
        """f puts elements of its arguments elsewhere."""
        ks = set.intersection(*(set(x.parts) for x in xs))
        parts = {k: _whole(f(*(x.parts[k].astype(np.float64) for x in xs))) for k in sorted(ks)}
        sign, doubt = 0, frozenset[tuple[int, str]]()
        for x in xs:
            sign, doubt = sign | x.sign, doubt | x.doubt
        rough = roots.moved(f, [(x.rough, x.shape) for x in xs])
        above = degree.added(*(x.degree for x in xs))
        const = units = inf = root = None
        if all(x.const is not None for x in xs):
            const = np.asarray(f(*(x.const for x in xs)))
        if any(x.units is not None for x in xs):
            all_units = [x.units or {k: np.zeros(x.shape, np.int8) for k in ks} for x in xs]
            units = {
                k: np.asarray(f(*(u[k].astype(np.float64) for u in all_units))).astype(np.int8)
                for k in ks
                if all(k in u for u in all_units)
            }
        if any(x.inf is not None for x in xs):
            each = [np.zeros(x.shape) if x.inf is None else x.inf.astype(np.float64) for x in xs]
            inf = np.asarray(f(*each)).astype(np.int8)
            inf = inf if inf.any() else None
        under = [x.root for x in xs if x.root]
        if len(under) == len(xs) and len({n for _, n in under}) == 1:
            root = self.moved(f, *(x for x, _ in under)), under[0][1]
        soft = any(x.soft for x in xs)
        return self.whole(Field(parts, sign, const, units, inf, root, rough, doubt, soft, above))

    def viewed(self, f: Plain, x: Field) -> Field:
        """As `moved`, where f takes numbers of any type and changes none."""
        parts = {k: f(v) for k, v in x.parts.items()}
        const, inf = (None if a is None else f(a) for a in (x.const, x.inf))
        units = None if x.units is None else {k: f(u) for k, u in x.units.items()}
        rough = {k: r for k, v in x.rough.items() if (r := f(v)).any()}
        root = None if x.root is None else (self.viewed(f, x.root[0]), x.root[1])
        inf = inf if inf is not None and inf.any() else None
        return replace(x, parts=parts, const=const, units=units, inf=inf, root=root, rough=rough)

    def chosen(self, mask: Array, a: Field, b: Field) -> Field:
        """a where mask, else b."""
        shape = np.broadcast_shapes(np.shape(mask), a.shape, b.shape)
        one = a if np.all(mask) else b if not np.any(mask) else None
        if one is not None and one.shape == shape:
            return one
        return self.moved(lambda x, y: np.broadcast_to(np.where(mask, x, y), shape), a, b)

    def linear(self, f: Plain, x: Field) -> Field:
        """f adds up elements of its argument, each as often as it likes."""
        self.laws.summed(x.parts)
        if x.inf is not None:
            raise Undecided("a sum of infinities")
        parts = {k: self._summed(f, v, k) for k, v in x.parts.items()}
        units = None
        if x.units is not None:
            units = {}
            for k, u in x.units.items():
                unsure = np.asarray(f((u // UNKNOWN).astype(float))) > 0
                odd = _whole(f((u % 2).astype(float))) % 2
                units[k] = (odd + UNKNOWN * unsure).astype(np.int8)
        sign = signs.ADD[x.sign][x.sign] | signs.ZERO
        return self._made(parts, (x,), sign, f, units, x.degree, roots.linear(f, x.rough))

    def _summed(self, f: Plain, v: Array, k: int) -> Array:
        p = self.primes[k].p
        if v.size <= EXACT // p:
            return _whole(f(v.astype(np.float64))) % p
        high, low = (_whole(f((v >> 15).astype(np.float64))), _whole(f((v % 2**15).astype(float))))
        return (high % p * 2**15 + low) % p

    def bilinear(self, f: Plain, a: Field, b: Field) -> Field:
        """f adds up products of an element of a with one of b; exact, for it is cut in digits."""
        if a.inf is not None or b.inf is not None:
            raise Undecided("a sum of infinities")
        parts = {}
        for k, (x, y) in common(a, b):
            parts[k] = _product(f, x, y, self.primes[k].p)
        each = signs.MUL[a.sign][b.sign]
        sign = signs.ADD[each][each] | signs.ZERO
        units = None
        if a.units is not None or b.units is not None:
            units = {k: np.full(v.shape, UNKNOWN, np.int8) for k, v in parts.items()}
        rough = roots.bilinear(f, a.rough, b.rough, a.shape, b.shape)
        of = degree.multiplied(a.degree, b.degree)
        return self._made(parts, (a, b), sign, f, units, of, rough)

    # --- signs -----------------------------------------------------------------------------------

    def sign_of(self, x: Field) -> Array:
        """-1, 0 or 1: a predicate of which only sign(a b) = sign a sign b, sign 3 = 1 are known.

        Where more is known of x, that is what it is.
        """
        refuse_nan(x)
        if x.const is not None:
            return np.sign(x.const).astype(np.int8)
        top = max(x.parts)
        if top != self.length - 1:
            self.doubts.add("the sign of what a logarithm gave")
        found = self.primes[top].character(x.parts[top])
        known = self.known_sign(x)
        allowed = [s for s, bit in ((-1, 1), (0, 2), (1, 4)) if known & bit]
        if allowed == [0, 1]:
            found = np.abs(found)
        elif allowed == [-1, 0]:
            found = -np.abs(found)
        elif len(allowed) == 1:
            found = np.full_like(found, allowed[0])
        elif top in x.rough and x.rough[top].any():
            self.doubts.add(f"the sign of {ROUGH}")
        met = tuple(bool((found == sign).any()) for sign in (-1, 0, 1))
        self.ways.append(met if len(allowed) == 3 else None)
        return found if x.inf is None else np.where(x.inf != 0, x.inf, found)

    def known_sign(self, x: Field) -> int:
        """Those that it can have, as bits."""
        top = max(x.parts)
        return x.sign & self.laws.sign(self.primes[top].p, top, x.parts[top])

    # --- inside ----------------------------------------------------------------------------------

    def _made(
        self,
        parts: dict[int, Array],
        given: Iterable[Field],
        sign: int,
        f: Plain,
        units: dict[int, Array] | None,
        of: Degree = degree.ZERO,
        rough: roots.Rough = NONE,
        inf: Array | None = None,
    ) -> Field:
        given = tuple(given)
        if not parts:
            raise Undecided(self.deeper)
        const = None
        if all(x.const is not None for x in given):
            with np.errstate(all="ignore"):
                const = np.asarray(f(*(x.const for x in given)))
            if any(x.soft for x in given):
                return replace(self.rounded(const), rough=rough, degree=of)
        doubt = frozenset[tuple[int, str]]().union(*(x.doubt for x in given))
        if units is not None and not any(u.any() for u in units.values()):
            units = None
        inf = inf if inf is not None and inf.any() else None
        shape = next(iter(parts.values())).shape
        if units is not None:
            units = {k: np.broadcast_to(u, shape) for k, u in units.items()}
        inf = None if inf is None else np.broadcast_to(inf, shape)
        if const is None:
            self.laws.known(parts, sign)
        return self.whole(
            Field(parts, sign, const, units, inf, rough=rough, doubt=doubt, degree=of)
        )

    def rounded(self, x: Array) -> Field:
        """A constant that a function gave which has no exact value here."""
        return replace(self.lift(x), soft=True)

    def whole(self, x: Field) -> Field:
        """Raises Undecided for a value without parts."""
        if not x.parts:
            raise Undecided(self.deeper)
        return x

    @property
    def deeper(self) -> str:
        """Why a value has no parts."""
        return f"exponentials nested deeper than {self.length - 1}"


def _modulo(x: Fraction, p: int) -> int:
    return x.numerator * pow(x.denominator, -1, p) % p


def _rough(parts: Mapping[int, Array], a: Field, b: Field) -> roots.Rough:
    """Of a sum or a product."""
    return roots.joined(a.rough, b.rough, next(iter(parts.values())).shape) if parts else NONE


def _product(f: Plain, x: Array, y: Array, p: int) -> Array:
    """f(x, y) modulo p: the smaller one is cut in digits, such that all sums are exact."""
    room = EXACT // (p * min(x.size, y.size))
    if room < 2**8:  # both are
        low, high = y % 2**15, y // 2**15
        return (_product(f, x, high, p) * 2**15 + _product(f, x, low, p)) % p if y.size else y
    base = 2 ** (room.bit_length() - 1)
    turned = x.size > y.size
    small, large = (y, x) if turned else (x, y)
    digits: list[Array] = []
    wide, rest = large.astype(np.float64), small
    while not digits or rest.any():
        rest, digit = rest // base, (rest % base).astype(np.float64)
        digits.append(_whole(f(wide, digit) if turned else f(digit, wide)))
    found = digits.pop() % p
    while digits:
        found = (found * base + digits.pop()) % p
    return found


def _tall(rows: Array, ndim: int) -> Array:
    return rows.reshape(-1, *(1,) * (ndim - 1))


def _whole(x: Any) -> Array:
    found = np.asarray(x)
    if found.dtype.kind == "f" and np.isnan(found.sum()):
        raise Undecided("an index outside of its array")
    return found.astype(np.int64)


def _reciprocal(x: Array) -> Array:
    return 1 / x
