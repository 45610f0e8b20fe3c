"""Reproducible arithmetic without float64: the same bits as with it, and no float64 anywhere."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_mlp import digits, exact, reproducible
from jax_mlp.exact import integers_alone

SEEDS = settings(max_examples=25, deadline=None)


def both_ways(function: Callable) -> Callable:
    """function, compiled with float64 and without: two functions of arrays."""
    with_float64, without = jax.jit(lambda *a: function(*a)), jax.jit(lambda *a: function(*a))

    @functools.wraps(function)
    def called(*arrays: Any) -> tuple[Any, Any]:
        with integers_alone():
            ours = without(*arrays)
        return ours, with_float64(*arrays)

    return called


def assert_same_bits(pair: tuple[Any, Any]) -> None:
    """A NaN has no agreed bits, only an agreed place."""
    for ours, theirs in zip(*map(jax.tree.leaves, pair), strict=True):
        ours, theirs = (np.nan_to_num(np.asarray(x), nan=7.0, posinf=None) for x in (ours, theirs))
        np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


def hostile(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Entries that cancel, lie far apart, vanish, or end half way between two slices."""
    kind = rng.integers(5)
    if kind == 0:  # every magnitude, subnormals and infinities among them
        return rng.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
    x = rng.standard_normal(shape).astype(np.float32)
    if kind == 1:  # sums near nothing
        x[..., 1::2] = -x[..., : x.shape[-1] // 2 * 2 : 2]
        x[1::2] = -x[: len(x) // 2 * 2 : 2]
    elif kind == 2:  # huge ranges, and rows of zeros
        x *= np.float32(10.0) ** rng.integers(-18, 18, shape).astype(np.float32)
        x[rng.random(len(x)) < 0.3] = 0
    elif kind == 3:  # ties: few bits, and the last one at the edge of a slice
        x = np.float32(2.0) ** rng.integers(-24, 1, shape) * rng.choice([-3, -1, 1, 3], shape)
        x.flat[0] = 1
    else:  # one sign: the longest sums
        x = np.full(shape, np.float32(2 - 2**-20))
    return x.astype(np.float32)


layer = both_ways(lambda X, W, b, dY: _with_gradients(reproducible.linear, dY, X, W, b))
bytes_layer = both_ways(
    lambda X, W, b, dY: _with_gradients(lambda W, b: reproducible.linear(X, W, b), dY, W, b)
)
loss = both_ways(jax.value_and_grad(reproducible.softmax_cross_entropy))


def _with_gradients(function: Callable, dY: Any, *arrays: Any) -> tuple:
    Y, pull = jax.vjp(function, *arrays)
    return Y, *pull(dY)


@SEEDS
@given(st.integers(0, 2**32))
def test_a_layer_has_the_same_bits_without_float64(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, W, b, dY = (hostile(rng, *shape) for shape in ((6, 8), (8, 4), (4,), (6, 4)))
    assert_same_bits(layer(X, W, b, dY))
    assert_same_bits(bytes_layer(rng.integers(0, 256, X.shape, dtype=np.uint8), W, b, dY))


LONG = [pytest.param(length, marks=pytest.mark.slow) for length in (2**13, 2**14 + 3)]


@pytest.mark.parametrize("length", [300, *LONG])
def test_long_sums_of_the_largest_terms_have_the_same_bits(length: int) -> None:
    for X in (np.full((2, length), 255, np.uint8), np.full((2, length), 1 - 2**-21, np.float32)):
        W = np.full((length, 1), np.float32(1 - 2.0**-24))
        product = both_ways(lambda X, W: reproducible.linear(X, W, jnp.zeros(1)))
        assert_same_bits(product(X, W))
        assert_same_bits(product(X, W * np.resize([1, -1, 1, 0.5], W.shape).astype(np.float32)))


@SEEDS
@given(st.integers(0, 2**32))
def test_loss_and_its_gradient_have_the_same_bits_without_float64(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = hostile(rng, 6, 5) if seed % 2 else rng.normal(0, 10, (6, 5)).astype(np.float32)
    assert_same_bits(loss(logits, rng.integers(-1, 5, 6, dtype=np.int32)))


@SEEDS
@given(st.integers(1, 26), st.integers(1, 26), st.integers(0, 2**32))
def test_products_of_digits_are_those_of_the_integers(a: int, b: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.choice([-(2**a), 2**a, *rng.integers(-(2**a), 2**a, 9)], (3, 7))
    B = rng.choice([-(2**b), 2**b, *rng.integers(-(2**b), 2**b, 9)], (7, 2))
    with jax.enable_x64(True):
        for held, inner in ((A, 1), (A.T, 0)):
            found = digits.matmul(jnp.asarray(held), jnp.asarray(B), (a, b), inner)
            assert (np.asarray(found) == A @ B).all()


def test_the_longest_sum_of_the_largest_digits_stays_below_2_to_31() -> None:
    for length in (2**k for k in range(exact.BLOCK + 1)):
        room = exact.EXACT - exact._length_bits(length)
        for bits in ((room // 2, room // 2), (8, room - 8)):
            counts = [-(-(b + 2) // digits.BASE) for b in bits]
            largest = length * 2**14 * min(counts)
            assert largest < 2**31
            assert all(2**b <= 127 * (256**c - 1) // 255 for b, c in zip(bits, counts, strict=True))


def step(params: dict, velocity: dict, X: Any, y: Any) -> tuple:
    def loss_of(params: dict) -> Any:
        hidden = reproducible.relu(reproducible.linear(X, params["W1"], params["b1"]), 0.5)
        logits = reproducible.linear(hidden, params["W2"], params["b2"])
        return reproducible.softmax_cross_entropy(logits, y)

    value, grads = jax.value_and_grad(loss_of)(params)
    options = {"momentum": 0.9, "velocity": velocity, "clip": 0.5}
    return *reproducible.sgd(params, grads, 0.1, **options), reproducible.mean(value[None])


def operands() -> tuple:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    params = {"W1": normal(12, 8), "b1": normal(8), "W2": normal(8, 4), "b2": normal(4)}
    velocity = {name: normal(*value.shape) for name, value in params.items()}
    return params, velocity, rng.integers(0, 256, (6, 12), dtype=np.uint8), np.int32([0, 1, 2] * 2)


@pytest.mark.slow
def test_a_step_has_the_same_bits_and_its_compiled_program_no_float64() -> None:
    with integers_alone():
        program = jax.jit(lambda *a: step(*a)).lower(*operands()).compile()
    assert "f64[" not in program.as_text()
    assert "s8[" in program.as_text()
    usual = jax.jit(step).lower(*operands()).compile()
    assert "f64[" in usual.as_text()  # or the search finds nothing
    assert_same_bits((program(*operands()), usual(*operands())))
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("platform", ["tpu", pytest.param("cuda", marks=pytest.mark.slow)])
def test_a_step_is_lowered_for_a_device_without_float64(platform: str) -> None:
    with integers_alone():
        exported = jax.export.export(jax.jit(lambda *a: step(*a)), platforms=[platform])
        program = exported(*operands()).mlir_module()
    assert "f64" not in program and "xi8>" in program


def test_where_there_is_no_float64_integers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "default_device", lambda: SimpleNamespace(platform="tpu"))
    program = jax.jit(lambda *a: step(*a)).lower(*operands())
    assert "f64" not in program.as_text()


def one_digit_less(x: Any, bits: int) -> list:
    honest = DIGITS(x, bits)
    return [0 * honest[0], *honest[1:]] if len(honest) > 1 else honest


DIGITS = digits.digits


def test_a_digit_left_out_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "digits", one_digit_less)
    rng = np.random.default_rng(1)
    X, W = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 4)))
    product = both_ways(lambda X, W: reproducible.linear(X, W, jnp.zeros(4)))
    with pytest.raises(AssertionError):
        assert_same_bits(product(X, W))
