"""Float64 by integers against the processor's float64, bit by bit."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_mlp import binary64
from jax_mlp.binary64 import Binary64

COUNT = 512  # numbers at a time
EXAMPLES = settings(max_examples=60, deadline=None)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 1.5, 2.5, 2.0**52, 2.0**53])


def numbers(seed: int) -> np.ndarray:
    """Float64 of many sizes: half with few bits, so that ties and cancellations are common."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 54, COUNT)
    mantissa = rng.integers(2**52, 2**53, COUNT) >> size << size | 2**52
    mantissa = np.where(rng.random(COUNT) < 0.2, 2**53 - (1 << size), mantissa)
    exponent = rng.integers(-60, 60, COUNT) if seed % 2 else rng.integers(-4, 4, COUNT)
    x = np.ldexp(rng.choice([-1.0, 1.0], COUNT) * mantissa, exponent - 52)
    places = rng.random(COUNT) < 0.05
    return np.where(places, rng.choice(SPECIAL, COUNT), x)


def assert_same_bits(ours: Any, expected: np.ndarray) -> None:
    """NaNs agree in place alone."""
    bits = np.asarray(_bits(ours))
    bits = bits.view(f"u{bits.itemsize}")
    expected = np.where(np.isnan(expected), np.nan, expected).view(bits.dtype)
    wrong = np.flatnonzero(bits != expected)
    assert not len(wrong), (wrong, np.ravel(bits)[wrong], np.ravel(expected)[wrong])


def by_integers(function: Callable, *arrays: np.ndarray) -> Any:
    """function of Binary64, on float64 arrays."""
    with jax.enable_x64(True):
        bits = [np.where(np.isnan(x), binary64.NAN, x.view(np.uint64)) for x in arrays]
        return np.asarray(program(function)(*bits))


@functools.cache
def program(function: Callable) -> Callable:
    return jax.jit(lambda *bits: _bits(function(*map(Binary64, bits))))


def _bits(x: Any) -> Any:
    return x.bits if isinstance(x, Binary64) else x


OPERATIONS = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "less": lambda x, y: x < y,
    "at most": lambda x, y: x <= y,
    "above": lambda x, y: x > y,
    "constants": lambda x, y: (2.0**-26 * x + 0.1) * (1 / 255) - 3.0 / y,
    "size": lambda x, y: abs(x) * -y,
}


@pytest.mark.parametrize("name", OPERATIONS)
@EXAMPLES
@given(st.integers(0, 2**32))
def test_an_operation_gives_the_bits_of_the_processor(name: str, seed: int) -> None:
    x, y = numbers(seed), numbers(seed + 1)
    near = (np.arange(COUNT) % 8 == 0) & (x != 0)
    y = np.where(near, np.nextafter(x, y), y)  # cancellation
    with np.errstate(all="ignore"):
        expected = OPERATIONS[name](x, y)
    ours = by_integers(OPERATIONS[name], x, y)
    if expected.dtype == bool:
        np.testing.assert_array_equal(ours, expected)
    else:
        assert_same_bits(ours, expected)


def root(x: Binary64) -> Binary64:
    return abs(x).square_root()


def largest(x: Binary64) -> Binary64:
    return x.max(0)


def sum_of_rounded(x: Binary64) -> Binary64:
    return x.round().sum(0)


@EXAMPLES
@given(st.integers(0, 2**32))
def test_roots_and_rounding_give_the_bits_of_the_processor(seed: int) -> None:
    x = numbers(seed)
    with np.errstate(all="ignore"):
        assert_same_bits(by_integers(root, x), np.sqrt(np.abs(x)))
        for scaled in (x, 2.0**20 * x):
            assert_same_bits(by_integers(Binary64.round, scaled), np.round(scaled))
        assert_same_bits(by_integers(largest, x), x.max(0))
        small = np.clip(np.nan_to_num(x), -(2.0**50), 2.0**50)
        ours = by_integers(sum_of_rounded, small)
        assert_same_bits(ours, np.round(small).astype(np.int64).sum().astype(np.float64))


@EXAMPLES
@given(st.integers(0, 2**32))
def test_float32_goes_in_exactly_and_comes_out_rounded_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    short = rng.integers(0, 2**32, COUNT, dtype=np.uint32).view(np.float32)
    exponent = rng.integers(-160, 135, COUNT) if seed % 2 else rng.integers(-128, -124, COUNT)
    wide = np.ldexp(numbers(seed), exponent)
    with np.errstate(all="ignore"), jax.enable_x64(True):
        flushed = np.where(np.abs(short) < 2.0**-126, np.float32(0), short)
        assert_same_bits(binary64.from_float32(jnp.asarray(short)), np.float64(flushed))
        flushed = np.where(np.abs(wide) < 2.0**-126 - 2.0**-151, 0.0, wide)
        bits = jnp.where(np.isnan(wide), binary64.NAN, wide.view(np.uint64))
        assert_same_bits(np.asarray(binary64.to_float32(bits)), np.float32(flushed))


@EXAMPLES
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=9))
def test_an_integer_becomes_the_nearest_number(values: list[int]) -> None:
    n = np.array(values, np.int64)
    with jax.enable_x64(True):
        assert_same_bits(binary64.from_integers(jnp.asarray(n)), n.astype(np.float64))


def test_powers_of_two_multiply_and_divide_as_numbers_do() -> None:
    x = numbers(5)
    powers = np.resize([2.0**-300, 2.0**-1, 1.0, 2.0**31, np.inf, 0.0], COUNT)
    with np.errstate(all="ignore"), jax.enable_x64(True):
        held, bits = binary64.Power(jnp.asarray(powers.view(np.uint64))), jnp.asarray
        ours = Binary64(jnp.where(np.isnan(x), binary64.NAN, bits(x.view(np.uint64))))
        for result, expected in (
            (ours * held, x * powers),
            (held * ours, x * powers),
            (ours * (1 / held), x * (1 / powers)),
            (ours / held, x / powers),
        ):
            assert_same_bits(result, expected)
