"""Float64 numbers by integer operations: the bits of IEEE 754, where a device has no float64.

A TPU has none, and emulates it with other roundings. Its 64-bit integers, pairs of 32 to the
hardware, are exact. Each operation here gives the nearest float64, ties to even, as the hardware's
does elsewhere; so a formula written with operators has one result on either.

Left out: results below 2^-1022, which become wrong. Between float32 numbers none arise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int64, UInt64

Bits = UInt64[Array, "..."]

SIGN, NAN, INFINITY = (np.uint64(x << 48) for x in (0x8000, 0x7FF8, 0x7FF0))
HIDDEN = np.uint64(1 << 52)  # the bit of a mantissa that isn't written
WORD = np.uint64(2**32 - 1)
TOP = 62  # the highest bit of a mantissa before it is rounded; the lowest stands for all below


class Binary64:
    """An array of float64 numbers, held as their bits, with the operators of arrays."""

    dtype = np.dtype("float64")  # what they stand for
    __array_priority__ = 1000  # before NumPy's and JAX's own operators

    def __init__(self, bits: UInt64[Array, "..."]) -> None:
        self.bits = bits

    shape = property(lambda self: self.bits.shape)
    ndim = property(lambda self: self.bits.ndim)
    T = property(lambda self: type(self)(self.bits.T))

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, index: Any) -> "Binary64":
        return type(self)(self.bits[index])

    def reshape(self, *shape: int) -> "Binary64":
        return type(self)(self.bits.reshape(*shape))

    def ravel(self) -> "Binary64":
        return self.reshape(-1)

    def transpose(self, *axes: int) -> "Binary64":
        return type(self)(self.bits.transpose(*axes))

    def __add__(self, other: Any) -> "Binary64":
        return Binary64(_add(self.bits, bits_of(other)))

    __radd__ = __add__

    def __neg__(self) -> "Binary64":
        return Binary64(jnp.where(self.bits == NAN, NAN, self.bits ^ SIGN))

    def __sub__(self, other: Any) -> "Binary64":
        return self + -_number(other)

    def __rsub__(self, other: Any) -> "Binary64":
        return -self + other

    def __mul__(self, other: Any) -> "Binary64":
        other = _number(other)
        if isinstance(other, Power):
            both = isinstance(self, Power)
            return (Power if both else Binary64)(_shift(self.bits, other.bits))
        if isinstance(self, Power):
            return Binary64(_shift(other.bits, self.bits))
        return Binary64(_multiply(self.bits, other.bits))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> "Binary64":
        return Binary64(_divide(self.bits, bits_of(other)))

    def __rtruediv__(self, other: Any) -> "Binary64":
        return _number(other) / self

    def __abs__(self) -> "Binary64":
        return Binary64(self.bits & ~SIGN)

    def __lt__(self, other: Any) -> Bool[Array, "..."]:
        return _less(self.bits, bits_of(other))

    def __gt__(self, other: Any) -> Bool[Array, "..."]:
        return _less(bits_of(other), self.bits)

    def __le__(self, other: Any) -> Bool[Array, "..."]:
        return self.is_number() & _number(other).is_number() & ~(self > other)

    def is_number(self) -> Bool[Array, "..."]:
        return (self.bits & ~SIGN) <= INFINITY

    def is_finite(self) -> Bool[Array, "..."]:
        return (self.bits & ~SIGN) < INFINITY

    def max(self, axis: int, keepdims: bool = False) -> "Binary64":
        """NaN where there is one."""
        return Binary64(_from_order(_order(self.bits).max(axis, keepdims=keepdims)))

    def sum(self, axis: int) -> "Binary64":
        """Of integers of at most 2^53, so many that the sum is below 2^63: exact, then rounded."""
        total = from_integers(self.integers().sum(axis)).bits
        return Binary64(jnp.where(self.is_finite().all(axis), total, NAN))

    def round(self) -> "Binary64":
        """The nearest integer, ties to even."""
        return Binary64(_round(self.bits))

    def integers(self) -> Int64[Array, "..."]:
        """The integers that the numbers are, of at most 2^53; 0 for what isn't finite."""
        return _integers(self.bits)

    def square_root(self) -> "Binary64":
        return Binary64(_square_root(self.bits))


class Power(Binary64):
    """Powers of two, and 0 and infinity: to multiply by one is to add to an exponent."""

    def __rtruediv__(self, other: Any) -> "Binary64":
        # 2^-k for 2^k, infinity for 0 and the reverse: exponents add up to 2046, or to 2047.
        special = (self.bits == 0) | (self.bits == INFINITY)
        inverse = Power(jnp.where(special, INFINITY, np.uint64(2046 << 52)) - self.bits)
        return inverse * other


def _number(x: Any) -> Binary64:
    if isinstance(x, Binary64):
        return x
    value = np.float64(x)
    bits = jnp.asarray(value.view(np.uint64))
    power = value > 0 and np.frexp(value)[0] == 0.5
    return (Power if power else Binary64)(bits)


def bits_of(x: Any) -> UInt64[Array, "..."]:
    """The bits of a Binary64 or of a Python number."""
    return _number(x).bits


def select(where: Bool[Array, "..."], x: Any, y: Any) -> Binary64:
    return Binary64(jnp.where(where, bits_of(x), bits_of(y)))


def concatenate(parts: Sequence[Binary64], axis: int = 0) -> Binary64:
    return Binary64(jnp.concatenate([part.bits for part in parts], axis))


def fold(
    step: Callable[[Binary64, Binary64], Binary64], first: Binary64, numbers: Sequence[float]
) -> Binary64:
    """step(... step(first, numbers[0]) ..., numbers[-1]), compiled once for all."""
    bits = jnp.stack([bits_of(number) for number in numbers])

    def one(i: Any, value: Bits) -> Bits:
        return step(Binary64(value), Binary64(bits[i])).bits

    return Binary64(lax.fori_loop(0, len(numbers), one, first.bits))


def exponent_bits(x: Binary64) -> Int64[Array, "..."]:
    return (x.bits >> 52).astype(jnp.int64)


def power_of_two(exponent: Int64[Array, "..."]) -> Power:
    """2^(exponent - 1023), infinity for 2047."""
    return Power(exponent.astype(jnp.uint64) << 52)


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traced once for a shape, not at each of a formula's hundred operations."""
    return jax.jit(function, inline=False)


@jitted
def from_float32(x: Float[Array, "..."]) -> Bits:
    """Exact; what is below 2^-126 becomes +0."""
    bits = lax.bitcast_convert_type(x, jnp.uint32).astype(jnp.uint64)
    exponent, rest = (bits >> 23) & 0xFF, (bits & 0x7FFFFFFF) << 29
    wide = ((bits >> 31) << 63) | (rest + np.uint64(896 << 52))
    wide = jnp.where(exponent == 255, jnp.where(rest << 12 == 0, wide | INFINITY, NAN), wide)
    return jnp.where(exponent == 0, np.uint64(0), wide)


@jitted
def to_float32(x: Bits) -> Float[Array, "..."]:
    """The nearest number of 24 bits, ties to even; +0 if that is below 2^-126."""
    size = x & ~SIGN
    short = (size + np.uint64(2**28 - 1) + ((size >> 29) & 1)) >> 29
    narrow = jnp.minimum(short - np.uint64(896 << 23), np.uint64(255 << 23))
    narrow = jnp.where(size > INFINITY, np.uint64(0x7FC00000), narrow | ((x >> 63) << 31))
    bits = jnp.where(short < np.uint64(897 << 23), np.uint64(0), narrow).astype(jnp.uint32)
    return lax.bitcast_convert_type(bits, jnp.float32)


@jitted
def _from_integers(n: Int64[Array, "..."]) -> Bits:
    size = jnp.abs(n).astype(jnp.uint64)
    zeros = lax.clz(size)
    up = jnp.where(zeros > 0, zeros - 1, 0)
    return jnp.where(
        n == 0, np.uint64(0), _rounded(n.astype(jnp.uint64) & SIGN, 1023 + TOP - up, size << up)
    )


def from_integers(n: Int64[Array, "..."]) -> Binary64:
    """The nearest float64 of integers below 2^63."""
    return Binary64(_from_integers(n))


def _exponent(x: Bits) -> Bits:
    return (x >> 52) & 0x7FF


def _mantissa(x: Bits) -> Bits:
    return (x & (HIDDEN - 1)) | HIDDEN


def _rounded(sign: Bits, exponent: Bits, mantissa: Bits) -> Bits:
    """mantissa * 2^(exponent - 1023 - 62), 2^62 <= mantissa < 2^63, to 53 bits."""
    kept = (mantissa + 0x1FF + ((mantissa >> 10) & 1)) >> 10
    return sign | (((exponent - 1) << 52) + kept)  # the hidden bit, or a carry, adds 1


def _special(zero: Any, beyond: Any, invalid: Any, sign: Bits, result: Bits) -> Bits:
    """The result, but where it is no finite number or nothing."""
    result = jnp.where(zero, sign, result)
    return jnp.where(beyond, jnp.where(invalid, NAN, sign | INFINITY), result)


@jitted
def _shift(x: Bits, power: Bits) -> Bits:
    """x times a power of two."""
    exponent, shift = _exponent(x), _exponent(power)
    zero = (exponent == 0) | (shift == 0)
    beyond = (exponent == 2047) | (shift == 2047)
    invalid = zero | ((x & ~SIGN) > INFINITY)
    return _special(zero, beyond, invalid, x & SIGN, x + power - np.uint64(1023 << 52))


@jitted
def _multiply(x: Bits, y: Bits) -> Bits:
    a, b = _mantissa(x) << 11, _mantissa(y) << 10
    (a1, a0), (b1, b0) = (a >> 32, a & WORD), (b >> 32, b & WORD)
    low, middle = a0 * b0, a1 * b0
    carried = (low >> 32) + (middle & WORD) + a0 * b1
    high = a1 * b1 + (middle >> 32) + (carried >> 32)  # of 2^125 to 2^127
    below = (low | (carried << 32)) != 0
    return _quotient_or_product(x, y, high, below, _exponent(x) + _exponent(y) - 1023, False)


@jitted
def _divide(x: Bits, y: Bits) -> Bits:
    divisor = _mantissa(y) + jnp.zeros_like(x)

    def digit(_: Any, state: tuple[Bits, Bits]) -> tuple[Bits, Bits]:
        quotient, rest = state
        part = rest // divisor
        return (quotient << 11) + part, (rest - part * divisor) << 11

    # 1 bit, then 11 bits five times.
    start = jnp.zeros_like(divisor), _mantissa(x) + jnp.zeros_like(y)
    quotient, rest = lax.fori_loop(0, 6, digit, start)
    below = rest != 0
    return _quotient_or_product(
        x, y, quotient << 7, below, _exponent(x) + 1022 - _exponent(y), True
    )


def _quotient_or_product(
    x: Bits, y: Bits, mantissa: Bits, below: Any, exponent: Bits, division: bool
) -> Bits:
    """Rounded from 2^61 <= mantissa < 2^63; below: whether something smaller was cut off."""
    top = mantissa >> TOP
    result = _rounded((x ^ y) & SIGN, exponent + top, (mantissa << (1 - top)) | below)
    a, b = _exponent(x), _exponent(y)
    a_zero, b_zero, a_big, b_big = a == 0, b == 0, a == 2047, b == 2047
    if division:
        b_zero, b_big = b_big, b_zero
    zero, beyond = a_zero | b_zero, a_big | b_big
    nan = ((x & ~SIGN) > INFINITY) | ((y & ~SIGN) > INFINITY)
    return _special(zero, beyond | nan, nan | (zero & beyond), (x ^ y) & SIGN, result)


@jitted
def _add(x: Bits, y: Bits) -> Bits:
    swap = (x & ~SIGN) < (y & ~SIGN)
    x, y = jnp.where(swap, y, x), jnp.where(swap, x, y)
    a, b = _exponent(x), _exponent(y)
    large, small = _mantissa(x) << 9, jnp.where(b == 0, np.uint64(0), _mantissa(y) << 9)
    distance = jnp.minimum(a - b, np.uint64(63))
    shifted = small >> distance
    shifted = shifted | ((shifted << distance) != small)
    opposite = (x ^ y) >> 63 == 1
    total = jnp.where(opposite, large - shifted, large + shifted)  # below 2^63
    up = jnp.minimum(lax.clz(total) - 1, np.uint64(TOP))
    result = _rounded(x & SIGN, a + 1 - up, total << up)
    result = jnp.where(total == 0, np.uint64(0), result)
    result = jnp.where(a == 0, x & y, result)  # -0 only of two
    nan = ((x & ~SIGN) > INFINITY) | ((b == 2047) & opposite)
    return jnp.where(nan, NAN, jnp.where(a == 2047, x, result))


@jitted
def _round(x: Bits) -> Bits:
    exponent, mantissa = _exponent(x), _mantissa(x)
    whole = exponent >= 1023 + 52
    cut = jnp.where(whole, 1, jnp.minimum(np.uint64(1023 + 52) - exponent, np.uint64(54)))
    half = (np.uint64(1) << (cut - 1)) - 1
    kept = (mantissa + half + ((mantissa >> cut) & 1)) >> cut
    result = (x & SIGN) | (((exponent - 1) << 52) + (kept << cut))
    return jnp.where(whole, x, jnp.where(kept == 0, x & SIGN, result))


@jitted
def _integers(x: Bits) -> Int64[Array, "..."]:
    exponent = _exponent(x)
    down = jnp.minimum(np.uint64(1023 + 53) - exponent, np.uint64(54))
    size = ((_mantissa(x) << 1) >> down).astype(jnp.int64)
    size = jnp.where(exponent == 2047, 0, size)
    return jnp.where(x >= SIGN, -size, size)


@jitted
def _square_root(x: Bits) -> Bits:
    """Of numbers >= 0, two bits of the radicand for each of the root."""
    odd = 1 - (_exponent(x) & 1)  # of the exponent without its bias
    radicand = _mantissa(x) << (10 + odd)

    def digit(_: Any, state: tuple[Bits, Bits, Bits]) -> tuple[Bits, Bits, Bits]:
        radicand, root, rest = state
        rest, trial = (rest << 2) | (radicand >> 62), (root << 2) | 1
        fits = rest >= trial
        rest = jnp.where(fits, rest - trial, rest)
        return radicand << 2, (root << 1) | fits, rest

    zeros = jnp.zeros_like(x)
    _, root, rest = lax.fori_loop(0, 55, digit, (radicand, zeros, zeros))
    exponent = (_exponent(x) + 1023 - odd) >> 1
    result = _rounded(zeros, exponent, (root << 8) | (rest != 0))
    result = jnp.where((x & ~SIGN) == 0, x, result)
    return jnp.where((x & ~SIGN) >= INFINITY, jnp.where(x == INFINITY, x, NAN), result)


def _order(x: Bits) -> Int64[Array, "..."]:
    """Integers in the order of the numbers, NaN above all; -0 below 0."""
    return jnp.where(x >= SIGN, ~(x & ~SIGN), x).astype(jnp.int64)


def _from_order(order: Int64[Array, "..."]) -> Bits:
    bits = order.astype(jnp.uint64)
    return jnp.where(order < 0, ~bits | SIGN, bits)


@jitted
def _less(x: Bits, y: Bits) -> Bool[Array, "..."]:
    numbers = ((x & ~SIGN) <= INFINITY) & ((y & ~SIGN) <= INFINITY)
    zeros = ((x | y) & ~SIGN) == 0
    return numbers & ~zeros & (_order(x) < _order(y))
