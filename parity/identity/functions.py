"""exp, log, roots, powers, maxima, and functions of which only a symmetry is known."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import scipy.special

from parity.identity import degree, roots, signs
from parity.identity.field import Algebra, Array
from parity.identity.number import UNKNOWN, Field, Undecided, refuse_nan
from parity.identity.reals import MIDDLE, Reals


def exp(of: Algebra, x: Field) -> Field:
    """exp(a + b) = exp(a) exp(b): part k is an exponent modulo the next prime, so one is used up.

    exp(log(x)) = x, for every x that isn't 0; exp(-inf) = 0.
    """
    if isinstance(of, Reals):
        return of.exp(x)
    refuse_nan(x)
    if x.const is not None:
        return _of_constant(of, np.exp, x)
    parts, doubt = {}, {(k + (k >= 0), why) for k, why in x.doubt}
    for k, v in x.parts.items():
        if k + 1 < of.length:
            prime = of.primes[k + 1]
            q = of.primes[k].p
            found = prime.exponential(v * (of.scale[k] % q) % q)
            if x.units is not None and k in x.units:
                u = x.units[k]
                found = np.where(u & 1, prime.p - found, found)
                if (u & UNKNOWN).any():
                    doubt.add((k + 1, "exp of a part of a logarithm"))
            parts[k + 1] = found
    sign = signs.POSITIVE
    if x.inf is not None:
        if (x.inf > 0).any():
            raise Undecided("exp(inf)")
        sign |= signs.ZERO
        parts = {k: np.where(x.inf < 0, 0, v) for k, v in parts.items()}
    rough = roots.turned(x.rough, 1)
    return of.whole(Field(parts, sign, rough=rough, doubt=frozenset(doubt), degree=degree.ONE))


def _of_constant(of: Algebra, f: Any, *xs: Field) -> Field:
    with np.errstate(all="ignore"):
        return of.rounded(np.asarray(f(*(x.const for x in xs))))


def log(of: Algebra, x: Field) -> Field:
    """log(a b) = log(a) + log(b), log(exp(x)) = x; a part k for each part k + 1 of x."""
    if isinstance(of, Reals):
        return of.log(x)
    if x.inf is not None:
        raise Undecided("log(inf)")
    if x.const is not None:
        return _of_constant(of, np.log, x)
    parts, units = {}, {}
    for k in x.parts:
        if k > 0:
            parts[k - 1], units[k - 1] = of._log_part(x.parts[k], k - 1)
    doubt = frozenset((k - (k >= 0), why) for k, why in x.doubt if k)
    made = of._made(parts, (Field(x.parts, doubt=doubt),), signs.ANY, np.log, units)
    return replace(made, rough=roots.turned(x.rough, -1), degree=degree.ONE)


def sqrt(of: Algebra, x: Field) -> Field:
    """sqrt(a b) = sqrt(a) sqrt(b), sqrt(x x) = |x|; its square is x, by `root`."""
    return of.power_of_root(x, 1)


def rsqrt(of: Algebra, x: Field) -> Field:
    """1 / sqrt(x)."""
    return of.power_of_root(x, -1)


def power(of: Algebra, x: Field, y: Field) -> Field:
    """x^y: by multiplication for constant integers, by roots for halves, else exp(y log x)."""
    if y.const is not None:
        each, back = np.unique(y.const, return_inverse=True)
        if (2 * each == np.rint(2 * each)).all() and (np.abs(each) < 2**20).all():
            if len(each) == 1:
                return _of_half(of, x, float(each[0]), np.broadcast_shapes(x.shape, y.shape))
            found = x
            for i, n in enumerate(each):
                shape = np.broadcast_shapes(x.shape, y.shape)
                found = of.chosen(back.reshape(y.shape) == i, _of_half(of, x, n, shape), found)
            return found
    if x.const is not None and y.const is not None:
        return _of_constant(of, np.power, x, y)
    if isinstance(of, Reals):
        return exp(of, of.mul(y, log(of, x)))
    parts, p = {}, of.primes
    for k, v in x.parts.items():
        if k > 0 and k - 1 in y.parts:
            exponent = _logarithm(of, v, k) * y.parts[k - 1] % p[k - 1].p
            parts[k] = p[k].exponential(exponent)
    made = of._made(parts, (x, y), signs.POSITIVE, np.power, None)
    rough = roots.joined(roots.turned(y.rough, 1), x.rough, made.shape)
    return replace(made, rough=rough, degree=degree.ONE)


def _logarithm(of: Algebra, v: Array, k: int) -> Array:
    found, _ = of._log_part(v, k - 1)
    return found * (of.scale[k - 1] % of.primes[k - 1].p) % of.primes[k - 1].p


def _of_half(of: Algebra, x: Field, n: float, shape: tuple[int, ...]) -> Field:
    whole = of.power(x, int(n)) if n == int(n) else of.power_of_root(x, int(2 * n))
    return whole if shape == x.shape else of.moved(lambda v: np.broadcast_to(v, shape), whole)


# --- by signs ------------------------------------------------------------------------------------


def sign(of: Algebra, x: Field) -> Field:
    """-1, 0, 1."""
    return of.lift(compared(of, x, 0.0).astype(np.float64))


def absolute(of: Algebra, x: Field) -> Field:
    """x sign(x)."""
    if not x.sign & signs.NEGATIVE:
        return x
    found = of.mul(x, sign(of, x))
    return replace(found, sign=signs.NOT_NEGATIVE if x.sign & signs.ZERO else signs.POSITIVE)


def maximum(of: Algebra, a: Field, b: Field) -> Field:
    """a where a - b isn't below 0, else b."""
    return of.chosen(compared(of, a, b) >= 0, a, b)


def minimum(of: Algebra, a: Field, b: Field) -> Field:
    """a where a - b isn't above 0, else b."""
    return of.chosen(compared(of, a, b) <= 0, a, b)


def compared(of: Algebra, a: Any, b: Any) -> Array:
    """The sign of a - b."""
    a, b = of.lift(a), of.lift(b)
    found = of.sign_of(_difference(of, a, b))
    if isinstance(of, Reals):
        return found
    for one, other, turn in ((a, b, 1), (b, a, -1)):
        constant = other.const
        if one.const is None and constant is not None and constant.size:
            first = float(constant.flat[0])
            if (constant == first).all() and found.shape == one.shape:
                sign, above = turn * found, partial(_sign_above, of, one)
                found = turn * of.laws.order(first, sign, of.known_sign(one), above)
    return found


def _sign_above(of: Algebra, x: Field, constant: float) -> Array:
    top = max(x.parts)
    prime, c = of.primes[top], of.lift(constant)
    if top not in c.parts:
        return np.zeros(x.shape, np.int8)
    return prime.character((x.parts[top] - c.parts[top]) % prime.p)


def _difference(of: Algebra, a: Field, b: Field) -> Field:
    if isinstance(of, Reals):
        return of.difference(a, b)
    if a.inf is not None and b.inf is not None:
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = (of.moved(lambda v: np.broadcast_to(v, shape), x) for x in (a, b))
        if a.inf is not None and b.inf is not None:  # of equal infinities the difference is 0
            x, y = a.inf, b.inf
            same = x * y > 0
            a = replace(a, inf=np.where(same, 0, x).astype(np.int8))
            b = replace(b, inf=np.where(same, 0, y).astype(np.int8))
    return of.sub(a, b)


MAXIMUM = "a maximum of three or more"


def largest(of: Algebra, x: Field, least: bool = False) -> tuple[Field, Array]:
    """(maximum, its index) along the first axis; the first of equals."""
    best = of.moved(lambda v: v[0], x)
    index = np.zeros(best.shape, np.int64)
    for i in range(1, x.shape[0]):
        one = of.moved(lambda v, i=i: v[i], x)
        order = of.sign_of(_difference(of, one, best)) * (-1 if least else 1)
        best, index = of.chosen(order > 0, one, best), np.where(order > 0, i, index)
    if x.shape[0] > 2 and x.const is None and not isinstance(of, Reals):
        compared = len(of.ways)
        for i in range(x.shape[0]):
            one = of.moved(lambda v, i=i: v[i], x)
            order = of.sign_of(_difference(of, one, best)) * (-1 if least else 1)
            if (order > 0).any():  # random signs have no order that all agree on
                if of.choice and x.inf is None:
                    index = (index + of.choice) % x.shape[0]
                    best = of.moved(lambda v, at=index[None]: np.take_along_axis(v, at, 0)[0], x)
                del of.ways[compared:]
                return replace(best, doubt=best.doubt | {(-1, MAXIMUM)}), index
        del of.ways[compared:]
    return best, index


# --- functions without a law but symmetry --------------------------------------------------------


def keyed(of: Algebra, name: str, x: Field, parity: int = 0) -> Field:
    """A function of which nothing is known but f(-x) = parity f(x), if parity is 1 or -1."""
    if isinstance(of, Reals):
        return of.keyed(x, _KNOWN[name])
    if x.inf is not None:
        raise Undecided(f"{name}(inf)")
    refuse_nan(x)
    if x.const is not None:
        return _of_constant(of, _KNOWN[name], x)
    parts = {}
    for k, v in x.parts.items():
        p = of.primes[k].p
        turned = (v > p // 2) if parity else np.zeros(v.shape, bool)
        found = hashed(np.where(turned, p - v, v), of.key[k] ^ hash_of(name)) % p
        if parity < 0:
            found = np.where(v == 0, 0, np.where(turned, -found % p, found))
        parts[k] = found
    return of.whole(Field(parts, rough=x.rough, doubt=x.doubt, degree=degree.ONE))


def hash_of(name: str) -> int:
    """The same in every process."""
    return int.from_bytes(name.encode()[:7].ljust(7, b"\0"), "little")


_KNOWN = {"tanh": np.tanh, "sin": np.sin, "cos": np.cos, "erf": scipy.special.erf}


def hashed(x: Array, key: int) -> Array:
    """splitmix64."""
    with np.errstate(over="ignore"):
        z = x.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return ((z ^ (z >> np.uint64(31))) >> np.uint64(2)).astype(np.int64)


def tanh(of: Algebra, x: Field) -> Field:
    """Odd; or (exp(2x) - 1) / (exp(2x) + 1)."""
    if not of.fine:
        of.coarse = True
        return keyed(of, "tanh", x, -1)
    e, one = exp(of, of.add(x, x)), of.lift(1.0)
    return of.div(of.sub(e, one), of.add(e, one))


def logistic(of: Algebra, x: Field) -> Field:
    """(1 + tanh(x/2)) / 2, or 1 / (1 + exp(-x)): one rule for both."""
    if of.fine:
        return replace(of.inverse(of.add(of.lift(1.0), exp(of, of.neg(x)))), sign=signs.POSITIVE)
    half = of.lift(0.5)
    found = of.mul(half, of.add(of.lift(1.0), tanh(of, of.mul(half, x))))
    return replace(found, sign=signs.POSITIVE)


def softplus(of: Algebra, x: Field) -> Field:
    """log(1 + exp(x)); of real numbers above 0, x + log(1 + exp(-x)), for else exp overflows."""
    if not isinstance(of, Reals):
        return log(of, of.add(of.lift(1.0), exp(of, x)))
    above, zero = x.parts[MIDDLE] > 0, of.lift(0.0)
    low = of.chosen(above, of.neg(x), x)
    found = log(of, of.add(of.lift(1.0), exp(of, low)))
    return of.add(found, of.chosen(above, x, zero))


def shifted(of: Algebra, x: Field, axes: tuple[int, ...]) -> tuple[Field, Field | None]:
    """(x less its largest number, that number) where exp would overflow else: of real numbers."""
    if not isinstance(of, Reals):
        return x, None
    kept = [i for i in range(len(x.shape)) if i not in axes]
    middle = x.parts[MIDDLE].transpose([*kept, *axes])
    at = middle.reshape(*middle.shape[: len(kept)], -1).argmax(-1)[..., None]

    def largest(v: Array) -> Array:
        flat = v.transpose([*kept, *axes]).reshape(*middle.shape[: len(kept)], -1)
        return np.expand_dims(np.take_along_axis(flat, at, -1)[..., 0], axes)

    best = of.moved(largest, x)
    return of.sub(x, best), best


def erf(of: Algebra, x: Field) -> Field:
    """Odd."""
    return keyed(of, "erf", x, -1)


def method(name: str) -> Callable[..., Any]:
    """A method of whatever algebra there is, as a rule."""
    return lambda of, *xs: getattr(of, name)(*xs)


# Both frameworks call these the same.
SHARED: dict[str, Callable[..., Any]] = {
    "mul": method("mul"), "neg": method("neg"),
    "sin": lambda of, x: keyed(of, "sin", x, -1),
    "cos": lambda of, x: keyed(of, "cos", x, 1),
    "log1p": lambda of, x: log(of, of.add(of.lift(1.0), x)),
    "expm1": lambda of, x: of.sub(exp(of, x), of.lift(1.0)),
    "eq": lambda of, a, b: compared(of, a, b) == 0,
    "ne": lambda of, a, b: compared(of, a, b) != 0,
    "lt": lambda of, a, b: compared(of, a, b) < 0,
    "le": lambda of, a, b: compared(of, a, b) <= 0,
    "gt": lambda of, a, b: compared(of, a, b) > 0,
    "ge": lambda of, a, b: compared(of, a, b) >= 0,
}  # fmt: skip
