"""Exact sums and products: what operations with one result on every machine stand on.

A float32 sum depends on its order, and order belongs to the BLAS, the thread count and the device.
Here everything that is summed is an integer held in float64, small enough that no sum is rounded,
so no order matters. Whatever else is rounded follows one rule, which also makes a fused
multiply-add harmless: *a product feeds an addition only if it is exact*. Source: Ozaki et al.,
"Error-free transformations of matrix multiplication by using fast routines", Numer. Algorithms 59
(2012). The file of the same name in the other room gives the same bits.

A float64 number here is the device's own or, on a device without, a jax_mlp.binary64.Binary64: the
formulas are the same, only the operations have two ways.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Float64, Int64, Shaped

from jax_mlp import binary64
from jax_mlp.binary64 import Binary64
from jax_mlp.device import default_device
from jax_mlp.digits import matmul as matmul_of_integers

F = TypeVar("F", bound=Callable[..., Any])
# float64 numbers: the device's, or their bits. Any to mypy, for both have the same operators.
if TYPE_CHECKING:
    Wide = Any
else:
    Wide = Array | Binary64

SMALLEST = 2.0**-126  # float32's smallest normal number: below it, zero
ROUNDS_TO_SMALLEST = 2.0**-126 - 2.0**-151  # the least that 24 bits round to it, whatever flushes
EXACT = 53  # bits: every integer up to 2^53 is a float64
BLOCK = 13  # bits: sums of up to 2^13 terms; longer ones are sums of such blocks
TERM = EXACT - BLOCK  # bits of a term that may be summed 2^13 times; the grid of log
FIXED = 26  # bits after the point in exp and log, so that a product of two has at most 53
# ln 2 = LN2_HIGH + LN2_LOW, 32 bits each: an 8-bit multiple of either is exact.
LN2_HIGH, LN2_LOW = 0xB17217F7 * 2.0**-32, 0xD1CF79AC * 2.0**-64
LN2, LOG2E = float.fromhex("0x1.62e42fefa39efp-1"), float.fromhex("0x1.71547652b82fep+0")
INVERSE_FACTORIALS = (1, 1, 2, 6, 24, 120, 720, 5040, 40320)  # exp(r) to r^8, |r| < 0.35
INVERSE_ODDS = (1, 3, 5, 7, 9, 11)  # atanh(u)/u to u^10, |u| < 0.172


_integers_alone: ContextVar[bool] = ContextVar("integers_alone", default=False)


@contextlib.contextmanager
def integers_alone() -> Iterator[None]:
    """What is traced while it lasts has no float64, as on a device that lacks it: the same bits.

    A function that jax.jit has traced before isn't traced again.
    """
    token = _integers_alone.set(True)
    try:
        yield
    finally:
        _integers_alone.reset(token)


def has_float64() -> bool:
    """Whether float64 is to be the device's own: of the default device, where a trace will run."""
    native = default_device().platform in ("cpu", "gpu", "cuda", "rocm")
    return native and not _integers_alone.get()


def in_64_bits(function: F) -> F:
    """Trace function with 64-bit types, which a float32 program otherwise cannot name.

    The flag is set for this trace alone and the results are float32, so the caller's program,
    a jit or a scan around it included, keeps its own setting.
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return traced  # type: ignore[return-value]


def check(where: str, **arrays: Shaped[Array, "..."]) -> None:
    for name, array in arrays.items():
        if array.dtype != jnp.float32:
            raise TypeError(
                f"reproducible.{where}: {name} is {array.dtype}, expected float32: the result is "
                f"defined on float32 bits alone; convert it first with {name}.astype(jnp.float32)"
            )


def flush(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    # Also keeps XLA from joining a rounding to float32 with the widening after it.
    return jnp.where(jnp.abs(x) < SMALLEST, jnp.zeros_like(x), x)


def widen(x: Float[Array, "*shape"]) -> Float64[Wide, "*shape"]:
    if not has_float64():
        return Binary64(binary64.from_float32(x))
    return flush(x).astype(jnp.float64)


def narrow(x: Float64[Wide, "*shape"]) -> Float[Array, "*shape"]:
    if isinstance(x, Binary64):
        return binary64.to_float32(x.bits)
    zero = jnp.zeros_like(x)
    return jnp.where(jnp.abs(x) < ROUNDS_TO_SMALLEST, zero, x).astype(jnp.float32)


def select(which: Bool[Array, "..."], x: Any, y: Any) -> Float64[Wide, "..."]:
    """x where it is true, else y; one of them a number."""
    wide = isinstance(x, Binary64) or isinstance(y, Binary64)
    return (binary64.select if wide else jnp.where)(which, x, y)


def concatenate(parts: Sequence[Float64[Wide, "..."]], axis: int = 0) -> Float64[Wide, "..."]:
    wide = isinstance(parts[0], Binary64)
    return (binary64.concatenate if wide else jnp.concatenate)(parts, axis)


def square_root(x: Float64[Wide, "*shape"]) -> Float64[Wide, "*shape"]:
    return x.square_root() if isinstance(x, Binary64) else jnp.sqrt(x)


def is_finite(x: Float64[Wide, "*shape"]) -> Bool[Array, "*shape"]:
    return x.is_finite() if isinstance(x, Binary64) else jnp.isfinite(x)


def _exponent_bits(x: Float64[Wide, "*shape"]) -> Int64[Array, "*shape"]:
    if isinstance(x, Binary64):
        return binary64.exponent_bits(x)
    return lax.bitcast_convert_type(x, jnp.int64) >> 52


def _power_of_two(exponent: Int64[Array, "*shape"], like: Wide) -> Float64[Wide, "*shape"]:
    if isinstance(like, Binary64):
        return binary64.power_of_two(exponent)
    return lax.bitcast_convert_type(exponent << 52, jnp.float64)


def _as_integers(x: Float64[Wide, "*shape"]) -> Int64[Array, "*shape"]:
    return x.integers() if isinstance(x, Binary64) else x.astype(jnp.int64)


def _from_integers(n: Int64[Array, "*shape"], like: Wide) -> Float64[Wide, "*shape"]:
    return binary64.from_integers(n) if isinstance(like, Binary64) else n.astype(jnp.float64)


def _unit(x: Float64[Wide, "..."], axis: int, bits: int) -> Float64[Wide, "..."]:
    """The power of two with |x| <= 2^bits units along axis; infinite where x is not finite."""
    largest = abs(x).max(axis, keepdims=True)
    exponent = jnp.maximum(_exponent_bits(largest), 1023 - 300)
    return _power_of_two(exponent, x) * 2.0 ** (1 - bits)


def _length_bits(length: int) -> int:
    return min((length - 1).bit_length(), BLOCK)


def _join(sums: Float64[Wide, "blocks *rest"]) -> Float64[Wide, "*rest"]:
    """The sum of integers of at most 2^53, rounded once: its halves are summed exactly."""
    high = (sums * 2.0**-26).round()
    low = sums - high * 2.0**26
    return high.sum(0) * 2.0**26 + low.sum(0)


def total(x: Float64[Wide, "length *rest"]) -> Float64[Wide, "*rest"]:
    """The sum over axis 0 of integers whose size times min(length, 2^13) is at most 2^53."""
    if len(x) <= 2**BLOCK:
        return x.sum(0)
    return _join(_blocks(x, 0).sum(1))


def _blocks(x: Shaped[Wide, "..."], axis: int) -> Shaped[Wide, "..."]:
    """Axis 0 or 1 cut into blocks of 2^13, the last filled up with zeros; the blocks lead."""
    if isinstance(x, Binary64):
        return Binary64(_blocks(x.bits, axis))
    x = jnp.moveaxis(x, axis, 0)
    x = jnp.pad(x, [(0, -len(x) % 2**BLOCK)] + [(0, 0)] * (x.ndim - 1))
    return jnp.moveaxis(x.reshape(-1, 2**BLOCK, *x.shape[1:]), 1, axis + 1)


def _matmul(
    A: Shaped[Wide, "_ _"], B: Float64[Wide, "n k"], bits: tuple[int, int], inner: int
) -> Float64[Wide, "m k"]:
    """`product` of integers of so many bits; those of entries times min(n, 2^13): at most 2^53."""
    long = len(B) > 2**BLOCK
    if long:
        A, B = _blocks(A, inner), _blocks(B, 0)
    if isinstance(B, Binary64):
        left = A.integers() if isinstance(A, Binary64) else A
        result: Wide = binary64.from_integers(matmul_of_integers(left, B.integers(), bits, inner))
    else:
        A = (A if inner else jnp.swapaxes(A, -1, -2)).astype(jnp.float64)
        result = jnp.matmul(A, B, precision=lax.Precision.HIGHEST)
    return _join(result) if long else result


def _slices(x: Float64[Wide, "m n"], axis: int, bits: int) -> tuple[Wide, Wide, Wide]:
    """x = (high + low / 2^bits) * unit: integers |high| <= 2^bits, |low| <= 2^(bits - 1)."""
    unit = _unit(x, axis, bits)
    scaled = x * (1 / unit)
    high = scaled.round()
    return high, ((scaled - high) * 2.0**bits).round(), unit


def product(
    A: Shaped[Array, "_ _"], B: Float[Array, "n k"], inner: int = 1
) -> Float64[Wide, "m k"]:
    """A @ B in float64, the same in any order of the inner index; inner = 0: A^T @ B.

    Float A: rows of A and columns of B are cut into two slices of p = floor((53 - log2 n) / 2)
    bits, at least 20, and low * low is left out: each term errs by at most 1.26 * 2^(2-2p) times
    max|A_i| max|B_j|. uint8 A means A / 255: one slice of 8 bits, times a slice of B / 255 with
    q = 45 - log2 n bits, at least 32: each term errs by at most 2^-q max|B_j|.
    """
    room = EXACT - _length_bits(len(B))
    # Turned before it is cut: on a CPU a product of turned float64 takes a fifth of a step longer.
    if not inner and has_float64():
        A, inner = A.T, 1
    if A.dtype == jnp.uint8:
        B64 = widen(B) * (1 / 255)
        unit = _unit(B64, 0, room - 8)
        return _matmul(A, (B64 * (1 / unit)).round(), (8, room - 8), inner) * unit
    bits = room // 2
    A_high, A_low, A_unit = _slices(widen(A), inner, bits)
    B_high, B_low, B_unit = _slices(widen(B), 0, bits)
    both = _matmul(A_high, concatenate([B_high, B_low], 1), (bits, bits), inner)
    high, cross = both[:, : B.shape[1]], both[:, B.shape[1] :]
    cross = cross + _matmul(A_low, B_high, (bits, bits), inner)
    return (high + cross * 2.0**-bits) * ((A_unit if inner else A_unit.T) * B_unit)


def summed(x: Float64[Wide, "length *rest"]) -> Float64[Wide, "*rest"]:
    """The sum over axis 0, in any order; each term errs by at most 2^-40 max|x|."""
    unit = _unit(x, 0, EXACT - _length_bits(len(x)))
    return total((x * (1 / unit)).round()) * unit[0]


def _horner(x: Float64[Wide, "*shape"], divisors: tuple[int, ...]) -> Float64[Wide, "*shape"]:
    """2^26 sum_j x^j / divisors[j], rounded to an integer at each step; 2^26 x is an integer."""
    terms = [float((2 * 2**FIXED + d) // (2 * d)) for d in divisors]

    def step(value: Wide, term: Any) -> Wide:
        return (value * x).round() + term

    first = (terms[-1] * x).round() + terms[-2]
    if isinstance(x, Binary64):
        return binary64.fold(step, first, terms[-3::-1])
    return functools.reduce(step, terms[-3::-1], first)


def exp(z: Float64[Wide, "*shape"]) -> Float64[Wide, "*shape"]:
    """exp(z) for -104 <= z <= 0, to a relative 2^-25; exp(-104), which float32 flushes, below."""
    z = select(z < -104.0, -104.0, z)
    k = (z * LOG2E).round()
    r = (((z - k * LN2_HIGH) - k * LN2_LOW) * 2.0**FIXED).round() * 2.0**-FIXED
    scale = _power_of_two(_as_integers(k) + 1023, z)
    return _horner(r, INVERSE_FACTORIALS) * 2.0**-FIXED * scale


def log(s: Float64[Wide, "*shape"]) -> Float64[Wide, "*shape"]:
    """log(s) for s >= 1, to a relative 2^-25 and an absolute 2^-40."""
    exponent = _exponent_bits(s)
    m = s / _power_of_two(exponent, s)
    upper = m > 1.4140625
    m = select(upper, m * 0.5, m)
    k = _from_integers(exponent - 1023 + upper, s)
    u = (m - 1) / (m + 1)
    series = _horner((u * u * 2.0**FIXED).round() * 2.0**-FIXED, INVERSE_ODDS)
    fraction = (u * series * 2.0 ** (1 - FIXED + TERM)).round()
    return (fraction + (k * LN2 * 2.0**TERM).round()) * 2.0**-TERM
