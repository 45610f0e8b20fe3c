"""Bounds of whole networks, against JAX, Torch, extended precision and planted errors.

PARITY_ROUNDS=50 runs the random networks that many times over, with other depths and widths.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bounded_networks import (
    ACTIVATIONS,
    ROUNDOFF,
    compute,
    excess,
    gradients,
    loss,
    network,
    shuffled,
    step,
    torch_step,
)

from parity.rounding.bound import bound, bounded

ROUNDS = int(os.environ.get("PARITY_ROUNDS", 1))

# A third of the compilation time is worth more here than the speed of the result.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

# --- no violation ----------------------------------------------------------------------------

CASES = [
    ("relu", (9, 7, 5, 3, 4), np.float32),
    ("maximum", (5, 6, 6, 4), np.float64),
    ("gelu", (4, 9, 3), np.float32),
]
for seed in range(1, ROUNDS):
    draw = np.random.default_rng(seed)
    shape = tuple(int(n) + 1 for n in draw.integers(1, 40, draw.integers(2, 6)))
    CASES.append((list(ACTIVATIONS)[seed % 7], shape, (np.float32, np.float64)[seed % 2]))


# One of a kind is enough for every day.
CASES[:2] = [pytest.param(*case, marks=pytest.mark.slow) for case in CASES[:2]]


@pytest.mark.parametrize(("activation", "sizes", "kind"), CASES)
def test_random_networks_stay_within_their_bounds_in_both_frameworks(activation, sizes, kind):
    rng = np.random.default_rng([len(sizes), *sizes])
    nets = [network(rng, sizes, 5, kind) for _ in range(60)]
    moved, backs = zip(*(shuffled(rng, *net) for net in nets), strict=True)
    stacked, stacked2 = (jax.tree.map(lambda *a: np.stack(a), *n) for n in (nets, moved))
    fn = partial(step, activation=activation)
    judge = jax.vmap(bounded(fn, roundoff=ROUNDOFF[kind], masks=False))
    with jax.enable_x64(True):
        found = jax.device_get(jax.jit(judge, compiler_options=QUICK)(*stacked))
    runs = [compute(jax.vmap(fn), *batch) for batch in (stacked, stacked2)]
    tight = []
    for i, net in enumerate(nets):
        one, plain, other = (jax.tree.map(lambda a: a[i], t) for t in (found, *runs))  # noqa: B023
        results = [plain, backs[i](*other), torch_step(*net, activation)]
        tight += [excess(computed, one) for computed in results]
        assert max(tight) <= 1, f"network {i}: {tight[-3:]} bounds (JAX, JAX reordered, Torch)"
        for low, high in zip(*map(jax.tree.leaves, (one.likely, one.bound)), strict=True):
            assert np.all(low <= high)
    assert np.median(tight) > 1e-3  # not vacuous


def test_float64_gradients_stay_within_their_bounds_of_extended_precision():
    rng = np.random.default_rng(3)
    fn = jax.value_and_grad(lambda p, X, y: loss(p, X, y, "maximum")[0])
    for _ in range(20):
        params, _, X, y = network(rng, (6, 5, 4), 7, np.float64)
        found = bound(fn, params, X, y, roundoff=2.0**-53)
        (W1, b1), (W2, b2) = jax.tree.map(np.longdouble, params)
        X_ = X.astype(np.longdouble)
        z = X_ @ W1 + b1
        h = np.maximum(z, 0)
        o = h @ W2 + b2
        e = np.exp(o - o.max(1, keepdims=True))
        p = e / e.sum(1, keepdims=True)
        rows = np.arange(len(y))
        L = np.mean(np.log(e.sum(1)) + o.max(1) - o[rows, y])
        p[rows, y] -= 1
        do = p / len(y)
        dz = do @ W2.T * np.where(z > 0, 1, np.where(z == 0, np.longdouble(0.5), 0))
        true = L, [(X_.T @ dz, dz.sum(0)), (h.T @ do, do.sum(0))]
        assert excess(true, found) <= 1
        assert excess(compute(fn, params, X, y), found) <= 1


# --- not vacuous, and able to fail -----------------------------------------------------------


def test_the_books_float64_gradients_have_a_relative_bound_under_1e_8():
    fn, (params, X, y) = gradients(np.float64)
    for growth in (1, 5):  # as initialised; as trained: large weights, confident logits
        grown = jax.tree.map(lambda p: growth * p, params)  # noqa: B023
        found = bound(fn, grown, X, y, roundoff=2.0**-53)
        for v, d in zip(*map(jax.tree.leaves, (found.value, found.bound)), strict=True):
            assert np.linalg.norm(d) <= 1e-8 * np.linalg.norm(v)
        assert excess(compute(fn, grown, X, y), found) <= 1


def test_the_books_float32_gradients_have_a_useful_bound():
    fn, args = gradients()
    found = bound(fn, *args)
    computed = compute(fn, *args)
    assert 1e-5 < excess(computed, found) <= 1
    assert 1e-4 < excess(computed, found, "likely") <= 1
    for v, d in zip(*map(jax.tree.leaves, (found.value, found.bound)), strict=True):
        assert np.linalg.norm(d) <= 0.1 * np.linalg.norm(v)


def test_a_learning_rate_off_by_one_part_in_a_million_is_caught_in_float64():
    _, (params, X, y) = gradients(np.float64, (20, 8, 4), 16)

    def update(params, rate):
        g = jax.grad(lambda p: loss(p, X, y)[0])(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, g)

    found = bound(update, params, 0.1, roundoff=2.0**-53)
    assert excess(compute(update, params, 0.1), found) <= 1
    assert excess(compute(update, params, 0.1 * (1 + 1e-6)), found) > 100


def test_bfloat16_operands_lie_inside_the_operand_bound_and_outside_the_plain_one():
    rng = np.random.default_rng(7)
    A, B = (rng.normal(size=s).astype(np.float32) for s in ((8, 64), (64, 8)))
    short = (t.astype(jnp.bfloat16).astype(np.float32) for t in (A, B))
    computed = compute(jnp.matmul, *short)
    assert excess(computed, bound(jnp.matmul, A, B, operand_roundoff=2.0**-8)) <= 1
    assert excess(computed, bound(jnp.matmul, A, B)) > 10
