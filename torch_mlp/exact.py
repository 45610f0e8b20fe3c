"""Exact sums and products: what operations with one result on every machine stand on.

A float32 sum depends on its order, and order belongs to the BLAS, the thread count and the device.
Here everything that is summed is an integer held in float64, small enough that no sum is rounded,
so no order matters. Whatever else is rounded follows one rule, which also makes a fused
multiply-add harmless: *a product feeds an addition only if it is exact*. Source: Ozaki et al.,
"Error-free transformations of matrix multiplication by using fast routines", Numer. Algorithms 59
(2012). The file of the same name in the other room gives the same bits.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor
from torch.nn import functional

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


_over_processes = False  # no context variable: CUDA's backward pass has a thread of its own


@contextlib.contextmanager
def over_processes() -> Iterator[None]:
    """While it lasts, sums over a batch go on over all connected processes, which each have a part
    of it: integers are added before they are rounded, so the bits are those of one process."""
    global _over_processes
    _over_processes = True
    try:
        yield
    finally:
        _over_processes = False


def batch_length(rows: int) -> int:
    """How many rows the whole batch has, of which these are this process's."""
    if not _over_processes:
        return rows
    whole = torch.tensor(rows)
    dist.all_reduce(whole)
    return int(whole)


def _shared(x: Float64[Tensor, "..."], largest: bool = False) -> Float64[Tensor, "..."]:
    """The sum of integers over all processes, or the largest of positive numbers."""
    if largest:  # only its exponent counts, and that of NaN is that of infinity
        x = x.nan_to_num(nan=torch.inf, posinf=torch.inf)
    x = x.contiguous()
    dist.all_reduce(x, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM)
    return x


def check(where: str, **tensors: Shaped[Tensor, "..."]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise TypeError(
                f"reproducible.{where}: {name} is {tensor.dtype}, expected torch.float32: the "
                f"result is defined on float32 bits alone; convert it first with {name}.float()"
            )
        if tensor.device.type not in ("cpu", "cuda"):
            raise NotImplementedError(
                f"reproducible.{where}: needs float64 in hardware, which a {tensor.device.type} "
                "lacks: emulated, its sums round differently. Use a CPU or a GPU, "
                "or arithmetic='native'."
            )


def flush(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    # hardshrink is where(|x| <= lambd, 0, x) in one pass.
    return functional.hardshrink(x, SMALLEST - 2.0**-149)


def widen(x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    return flush(x).double()


def narrow(x: Float64[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return functional.hardshrink(x, ROUNDS_TO_SMALLEST - 2.0**-179).float()


def _exponent_bits(x: Float64[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    return x.view(torch.int64) >> 52


def _power_of_two(exponent: Int[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    return (exponent << 52).view(torch.float64)


def _unit(
    x: Float64[Tensor, "..."], axis: int, bits: int, shared: bool = False
) -> Float64[Tensor, "..."]:
    """The power of two with |x| <= 2^bits units along axis; infinite where x is not finite."""
    largest = x.abs().amax(axis, keepdim=True)
    largest = _shared(largest, largest=True) if shared else largest
    return _power_of_two(_exponent_bits(largest.clamp_min(2.0**-300))) * 2.0 ** (1 - bits)


def _length_bits(length: int) -> int:
    return min((length - 1).bit_length(), BLOCK)


def _join(sums: Float64[Tensor, "blocks *rest"], shared: bool = False) -> Float64[Tensor, "*rest"]:
    """The sum of integers of at most 2^53, rounded once: its halves are summed exactly."""
    high = (sums * 2.0**-26).round()
    low = (sums - high * 2.0**26).sum(0)
    high = high.sum(0)
    if shared:
        high, low = _shared(high), _shared(low)
    return high * 2.0**26 + low


def total(x: Float64[Tensor, "rows *rest"], length: int | None = None) -> Float64[Tensor, "*rest"]:
    """The sum over axis 0 of integers whose size times min(length, 2^13) is at most 2^53.

    length: of all processes' rows, which then are summed; None: the rows are all.
    """
    shared = length is not None
    if (length or len(x)) <= 2**BLOCK:
        return _shared(x.sum(0)) if shared else x.sum(0)
    x = functional.pad(x, (0, 0) * (x.ndim - 1) + (0, -len(x) % 2**BLOCK))
    return _join(x.reshape(-1, 2**BLOCK, *x.shape[1:]).sum(1), shared)


def _matmul(
    A: Float64[Tensor, "m n"], B: Float64[Tensor, "n k"], length: int | None = None
) -> Float64[Tensor, "m k"]:
    """A @ B of integers; products of entries times min(n, 2^13) are at most 2^53.

    length: see `total`.
    """
    n, shared = A.shape[1], length is not None
    if (length or n) <= 2**BLOCK:
        return _shared(A @ B) if shared else A @ B
    padding = (0, -n % 2**BLOCK)
    A, B = functional.pad(A, padding), functional.pad(B, (0, 0, *padding))
    blocks = A.reshape(len(A), -1, 2**BLOCK).transpose(0, 1)
    return _join(blocks @ B.reshape(-1, 2**BLOCK, B.shape[1]), shared)


def _slices(
    x: Float64[Tensor, "m n"], axis: int, bits: int, shared: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """x = (high + low / 2^bits) * unit: integers |high| <= 2^bits, |low| <= 2^(bits - 1)."""
    unit = _unit(x, axis, bits, shared)
    scaled = x * (1 / unit)
    high = scaled.round()
    return high, (scaled - high).mul_(2.0**bits).round_(), unit


def product(
    A: Shaped[Tensor, "m n"], B: Float[Tensor, "n k"], over_batch: bool = False
) -> Float64[Tensor, "m k"]:
    """A @ B in float64, the same in any order of the inner index.

    Float A: rows of A and columns of B are cut into two slices of p = floor((53 - log2 n) / 2)
    bits, at least 20, and low * low is left out: each term errs by at most 1.26 * 2^(2-2p) times
    max|A_i| max|B_j|. uint8 A means A / 255: one slice of 8 bits, times a slice of B / 255 with
    q = 45 - log2 n bits, at least 32: each term errs by at most 2^-q max|B_j|.
    over_batch: the inner index counts examples, see over_processes.
    """
    whole = batch_length(A.shape[1]) if over_batch and _over_processes else None
    shared = whole is not None
    room = EXACT - _length_bits(whole or A.shape[1])
    if not A.shape[1]:  # this process has none of the examples
        A, B = A.new_zeros(len(A), 1), B.new_zeros(1, B.shape[1])
    if A.dtype == torch.uint8:
        B64 = widen(B) * (1 / 255)
        unit = _unit(B64, 0, room - 8, shared)
        return _matmul(A.double(), B64.mul_(1 / unit).round_(), whole).mul_(unit)
    bits = room // 2
    A_high, A_low, A_unit = _slices(widen(A), 1, bits, shared)
    B_high, B_low, B_unit = _slices(widen(B), 0, bits, shared)
    high, cross = _matmul(A_high, torch.cat([B_high, B_low], 1), whole).chunk(2, 1)
    cross = cross + _matmul(A_low, B_high, whole)
    return (high + cross * 2.0**-bits) * (A_unit * B_unit)


def summed(
    x: Float64[Tensor, "length *rest"], over_batch: bool = False
) -> Float64[Tensor, "*rest"]:
    """The sum over axis 0, in any order; each term errs by at most 2^-40 max|x|.

    over_batch: the axis counts examples, see over_processes.
    """
    whole = batch_length(len(x)) if over_batch and _over_processes else None
    x = x if len(x) else x.new_zeros(1, *x.shape[1:])  # this process has none of the examples
    unit = _unit(x, 0, EXACT - _length_bits(whole or len(x)), whole is not None)
    return total((x * (1 / unit)).round_(), whole) * unit[0]


def _horner(x: Float64[Tensor, "*shape"], divisors: tuple[int, ...]) -> Float64[Tensor, "*shape"]:
    """2^26 sum_j x^j / divisors[j], rounded to an integer at each step; 2^26 x is an integer."""
    terms = [float((2 * 2**FIXED + d) // (2 * d)) for d in divisors]
    value = torch.full_like(x, terms[-1])
    for term in terms[-2::-1]:
        value = value.mul_(x).round_().add_(term)
    return value


def exp(z: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """exp(z) for -104 <= z <= 0, to a relative 2^-25; exp(-104), which float32 flushes, below."""
    z = torch.where(z < -104.0, -104.0, z)
    k = (z * LOG2E).round()
    r = (((z - k * LN2_HIGH) - k * LN2_LOW) * 2.0**FIXED).round() * 2.0**-FIXED
    scale = _power_of_two(k.to(torch.int64) + 1023)
    return _horner(r, INVERSE_FACTORIALS) * 2.0**-FIXED * scale


def log(s: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """log(s) for s >= 1, to a relative 2^-25 and an absolute 2^-40."""
    exponent = _exponent_bits(s)
    m = s / _power_of_two(exponent)
    upper = m > 1.4140625
    m = torch.where(upper, m * 0.5, m)
    k = (exponent - 1023 + upper).double()
    u = (m - 1) / (m + 1)
    series = _horner((u * u * 2.0**FIXED).round() * 2.0**-FIXED, INVERSE_ODDS)
    fraction = (u * series * 2.0 ** (1 - FIXED + TERM)).round()
    return (fraction + (k * LN2 * 2.0**TERM).round()) * 2.0**-TERM
