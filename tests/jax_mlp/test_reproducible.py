"""Reproducible arithmetic in JAX against exact rational arithmetic, and its refusals."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_mlp.exact
from jax_mlp import reproducible

SEEDS = settings(max_examples=40, deadline=None)
U = Fraction(1, 2**24)
exact = np.vectorize(Fraction, otypes=[object])


def on_arrays(function: Callable) -> Callable:
    """function, given NumPy arrays."""

    def called(*args: Any, **options: Any) -> Any:
        put = lambda x: jnp.asarray(x) if isinstance(x, np.ndarray) else x  # noqa: E731
        args, options = jax.tree.map(put, (args, options))
        return function(*args, **options)

    return called


linear, relu = on_arrays(reproducible.linear), on_arrays(reproducible.relu)
softmax_cross_entropy = on_arrays(reproducible.softmax_cross_entropy)
sgd, vjp = on_arrays(reproducible.sgd), on_arrays(jax.vjp)
loss_and_gradient = on_arrays(jax.jit(jax.value_and_grad(reproducible.softmax_cross_entropy)))


def normal(rng: np.random.Generator, *shape: int, spread: float = 0.0) -> np.ndarray:
    """Normal deviates; spread: the standard deviation of their scale, in powers of ten."""
    scale = 10.0 ** (spread * rng.standard_normal(shape))
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def largest(A: np.ndarray, axis: int) -> np.ndarray:
    return np.abs(A).max(axis, keepdims=True)


def assert_product(result, A, B, added=0, per_term=2.0**-37) -> None:
    """|result - (A @ B + added)| <= half an ulp + n per_term max|A_i| max|B_j|."""
    A, B = exact(A), exact(B)
    value = A @ B + added
    bound = A.shape[1] * Fraction(per_term) * largest(A, 1) * largest(B, 0)
    error = np.abs(exact(np.asarray(result)) - value)
    assert (error <= np.abs(value) * U + bound * (1 + U)).all(), (error, bound)


@jax.jit
def layer(X, W, b, dY):
    Y, pull = jax.vjp(linear, X, W, b)
    return Y, *pull(dY)


@jax.jit
def byte_layer(X, W, b, dY):
    Y, pull = jax.vjp(lambda W, b: linear(X, W, b), W, b)
    return Y, *pull(dY)


@SEEDS
@given(st.integers(0, 2**32))
def test_a_layer_and_its_gradients_are_within_the_stated_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, W, dY = (normal(rng, *shape, spread=2) for shape in ((4, 5), (5, 3), (4, 3)))
    b = normal(rng, 3)
    Y, dX, dW, db = layer(X, W, b, dY)
    assert_product(Y, X, W, exact(b))
    assert_product(dX, dY, W.T)
    assert_product(dW, X.T, dY)
    assert_product(db[None], np.ones((1, 4), np.float32), dY, per_term=2.0**-40)


@SEEDS
@given(st.integers(0, 2**32))
def test_a_layer_on_bytes_is_within_the_stated_distance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, b = rng.integers(0, 256, (4, 5), dtype=np.uint8), normal(rng, 3)
    W, dY = normal(rng, 5, 3, spread=2), normal(rng, 4, 3, spread=2)
    Y, dW, _ = byte_layer(X, W, b, dY)
    quotients = exact(X.astype(int)) / 255
    ones = np.ones((1, 1), int)  # the bound for bytes is per unit of X / 255 <= 1
    for result, A, B, added in ((Y, quotients, W, exact(b)), (dW, quotients.T, dY, 0)):
        value = A @ exact(B) + added
        bound = A.shape[1] * Fraction(2.0**-32) * (ones * largest(exact(B), 0))
        error = np.abs(exact(np.asarray(result)) - value)
        assert (error <= np.abs(value) * U + bound * (1 + U)).all()


def test_a_product_is_no_less_accurate_than_native_float32() -> None:
    rng = np.random.default_rng(0)
    X, W = normal(rng, 6, 784), normal(rng, 784, 4)
    value = exact(X) @ exact(W)
    for ours, native in (
        (linear(X, W, np.zeros(4, np.float32)), X @ W),
        (relu(linear(X, W, np.zeros(4, np.float32))), np.maximum(X @ W, 0)),
    ):
        reference = value if ours.min() < 0 else np.maximum(value, 0)
        errors = [np.abs(exact(np.asarray(Y)) - reference).max() for Y in (ours, native)]
        assert errors[0] <= errors[1]


def test_an_inner_length_beyond_2_to_13_is_exact_in_any_order() -> None:
    rng = np.random.default_rng(1)
    n = 3 * 2**13 + 5
    X, W, b = normal(rng, 2, n), normal(rng, n, 2), np.zeros(2, np.float32)
    order = rng.permutation(n)
    for A in (X, (np.abs(X) * 60).astype(np.uint8)):
        np.testing.assert_array_equal(linear(A, W, b), linear(A[:, order], W[order], b))
    assert_product(linear(X, W, b), X, W)
    dY, W = normal(rng, n, 1), np.ones((2, 1), np.float32)
    gradients = layer(X.T, W, b[:1], dY)[2:]
    shuffled = layer(X.T[order], W, b[:1], dY[order])[2:]
    for ours, theirs in zip(gradients, shuffled, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def cross_entropy64(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    z = logits.astype(np.float64) - logits.max(1, keepdims=True)
    rows = np.arange(len(z))
    e = np.exp(z)
    others = e.copy()
    others[rows, z.argmax(1)] = 0
    losses = np.log1p(others.sum(1)) - z[rows, labels]
    p = e / e.sum(1, keepdims=True)
    p[rows, labels] -= 1
    return losses.mean(), losses, p / len(z)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_loss_and_gradient_are_within_the_stated_distance(scale: float) -> None:
    rng = np.random.default_rng(2)
    for _ in range(10):
        logits, labels = normal(rng, 64, 10) * np.float32(scale), rng.integers(0, 10, 64)
        loss, dlogits = loss_and_gradient(logits, labels.astype(np.int32))
        expected, losses, gradient = cross_entropy64(logits, labels)
        assert abs(float(loss) - expected) <= 2.0**-23 * expected + 14 * 2.0**-41 * max(
            1, losses.max()
        )
        assert np.abs(np.float64(dlogits) - gradient).max() <= 2.0**-22 / 64


def test_exp_and_log_are_within_the_stated_distance() -> None:
    with jax.enable_x64(True):
        z = -np.random.default_rng(3).uniform(0, 104, 100_000)
        assert np.abs(jax_mlp.exact.exp(jnp.asarray(z)) / np.exp(z) - 1).max() <= 2.0**-25
        s = 1 + 10.0 ** np.random.default_rng(4).uniform(-12, 6, 100_000)
        error = np.abs(jax_mlp.exact.log(jnp.asarray(s)) - np.log(s))
        assert (error <= 2.0**-25 * np.log(s) + 2.0**-40).all()


def test_an_update_is_rounded_once_a_line() -> None:
    rng = np.random.default_rng(5)
    w, g, v = (normal(rng, 300, spread=1) for _ in range(3))
    lr, momentum = np.float32(0.1), np.float32(0.9)
    updated, velocity = sgd({"w": w}, {"w": g}, 0.1, momentum=0.9, velocity={"w": v})
    for ours, a, c, d in ((velocity["w"], v, momentum, g), (updated["w"], velocity["w"], -lr, w)):
        value = exact(np.asarray(a)) * Fraction(float(c)) + exact(d)
        error = np.abs(exact(np.asarray(ours)) - value)
        # Twice rounded, to 53 and to 24 bits.
        assert (error <= np.abs(value) * U + (np.abs(value) + exact(np.abs(d))) * U**2).all()


def test_gradients_above_the_norm_are_scaled_to_it_and_others_left_alone() -> None:
    zeros = {"W": np.zeros((2, 2), np.float32), "b": np.zeros(1, np.float32)}
    grads = {"W": np.float32([[3, 0], [0, 0]]), "b": np.float32([-4])}
    updated, _ = sgd(zeros, grads, 1.0, clip=1.0)
    np.testing.assert_allclose(updated["W"][0, 0], -0.6, rtol=2e-7)
    np.testing.assert_allclose(updated["b"], [0.8], rtol=2e-7)
    same, _ = sgd(zeros, grads, 1.0, clip=5.0)
    np.testing.assert_array_equal(same["b"], [4.0])


def test_momentum_from_none_is_momentum_from_zeros() -> None:
    params, grads = {"w": np.float32([1, 2])}, {"w": np.float32([0.1, -0.3])}
    first = sgd(params, grads, 0.1, momentum=0.9)
    zeros = {"w": np.zeros(2, np.float32)}
    second = sgd(params, grads, 0.1, momentum=0.9, velocity=zeros)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("tie", [0.0, 0.5])
def test_relu_has_the_asked_gradient_at_zero(tie: float) -> None:
    X = np.float32([-1, -0.0, 0, 2, 1e-40])
    Y, pull = vjp(lambda X: relu(X, tie), X)
    np.testing.assert_array_equal(Y, np.float32([0, 0, 0, 2, 0]))
    np.testing.assert_array_equal(pull(jnp.ones(5))[0], np.float32([0, tie, tie, 1, tie]))
    with pytest.raises(ValueError, match="tie = 1"):
        relu(X, 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_infinity_and_no_nan_passes_as_a_number(bad: float) -> None:
    rng = np.random.default_rng(6)
    X, W, b, dY = normal(rng, 4, 5), normal(rng, 5, 3), normal(rng, 3), normal(rng, 4, 3)
    X[1, 2] = bad
    Y, _, dW, _ = layer(X, W, b, dY)
    assert not np.isfinite(Y[1]).any() and np.isfinite(np.delete(Y, 1, 0)).all()
    assert not np.isfinite(dW[2]).any() and np.isfinite(np.delete(dW, 2, 0)).all()
    assert np.isnan(relu(jnp.float32([np.nan]))[0])
    logits = normal(rng, 4, 3)
    logits[1, 2] = bad
    loss, dlogits = loss_and_gradient(logits, np.zeros(4, np.int32))
    assert np.isnan(loss) and np.isnan(dlogits[1]).all()
    updated, _ = sgd({"X": logits}, {"X": logits}, 0.1, clip=1.0)
    assert not np.isfinite(updated["X"]).any()


@pytest.mark.parametrize("label", [-1, 3, -100])
def test_a_label_outside_the_classes_gives_nan(label: int) -> None:
    labels = np.array([0, label], np.int32)
    loss, dlogits = loss_and_gradient(np.ones((2, 3), np.float32), labels)
    assert np.isnan(loss) and np.isnan(dlogits[1]).all() and np.isfinite(dlogits[0]).all()


def test_subnormals_and_negative_zeros_become_zero() -> None:
    tiny, one = np.float32([[2.0**-130, -(2.0**-130), -0.0]]), np.ones((1, 1), np.float32)
    small = np.float32([[2.0**-120]])
    for result in (
        linear(one, tiny, tiny[0]),
        linear(small, small.repeat(3, 1), tiny[0]),
        relu(tiny),
        sgd({"w": tiny}, {"w": tiny}, 1.0)[0]["w"],
    ):
        np.testing.assert_array_equal(np.asarray(result).view(np.uint32), 0)


def test_other_types_are_refused_with_the_reason() -> None:
    X, b = np.ones((2, 2), np.float32), np.ones(2, np.float32)
    half = jnp.ones((2, 2), jnp.bfloat16)
    for call in (
        lambda: linear(X, half, b),
        lambda: linear(half, X, b),
        lambda: relu(half),
        lambda: softmax_cross_entropy(half, np.zeros(2, np.int32)),
        lambda: sgd({"w": X}, {"w": half}, 0.1),
    ):
        with pytest.raises(TypeError, match="is bfloat16, expected float32"):
            call()


def test_a_whole_epoch_in_a_jitted_scan_is_the_steps_one_by_one() -> None:
    rng = np.random.default_rng(7)
    X, y = rng.integers(0, 256, (6, 8, 12), dtype=np.uint8), rng.integers(0, 3, (6, 8))
    params = {"W": normal(rng, 12, 3), "b": np.zeros(3, np.float32)}
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(state, batch):
        def loss(params):
            return softmax_cross_entropy(linear(batch[0], params["W"], params["b"]), batch[1])

        value, grads = jax.value_and_grad(loss)(state[0])
        return sgd(state[0], grads, 0.5, momentum=0.9, velocity=state[1]), value

    batches = (X, y.astype(np.int32))
    scanned, losses = jax.jit(lambda *a: jax.lax.scan(step, *a))((params, zeros), batches)
    state, one = (params, zeros), jax.jit(step)
    for i, expected in enumerate(losses):
        state, value = one(state, (X[i], y[i].astype(np.int32)))
        assert value == expected and value.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, scanned, state)
    assert not jax.config.jax_enable_x64
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(scanned))


def test_the_arithmetic_is_chosen_by_name() -> None:
    native = reproducible.Arithmetic(*[lambda *a: a] * 6)
    assert reproducible.arithmetic("native", native) is native
    assert reproducible.arithmetic("reproducible", native).linear is reproducible.linear
    with pytest.raises(ValueError, match="'exact', expected 'native' or 'reproducible'"):
        reproducible.arithmetic("exact", native)
