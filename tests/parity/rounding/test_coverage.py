"""Branches that the data never take are listed, by the user's line; what libraries guard is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from parity.rounding.bound import bound

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(4, 3)


def listed(fn, *args):
    return [(d.primitive, d.never) for d in bound(fn, *args).unexercised]


def _highest(h, row):
    return jnp.maximum(h, row), row


@pytest.mark.parametrize(
    ("fn", "never"),
    [
        (lambda x: jax.nn.relu(x), []),
        (lambda x: jax.nn.relu(x - 3), [("max", "first larger")]),
        (lambda x: jax.nn.relu(x + 3), [("max", "second larger")]),
        (lambda x: jnp.maximum(x, 0), []),
        (lambda x: jnp.clip(x, -1, 3), [("min", "first smaller")]),
        (lambda x: lax.clamp(-3.0, x, 1.0), [("clamp", "below")]),
        (lambda x: jnp.where(x > 5, x, 2 * x), [("select_n", "true")]),
        (lambda x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), [("cond", "branch 1")]),
        (lambda x: jax.vmap(lambda r: lax.cond(r[0] > 0, jnp.sin, jnp.cos, r))(x), []),
        (lambda x: lax.scan(_highest, x[0], x)[0], [("max", "first larger")]),
        (lambda x: jax.nn.softmax(x) + jnp.var(x) + jax.nn.logsumexp(x) + jnp.max(x), []),
    ],
)  # fmt: skip
def test_a_decision_that_always_falls_one_way_is_listed(fn, never):
    assert listed(fn, X) == never


def test_the_gradient_adds_nothing_and_the_line_is_the_users():
    def loss(x):
        return jnp.sum(jnp.maximum(x + 3, 0))  # this line

    (one,) = bound(jax.value_and_grad(loss), X).unexercised
    assert "/test_coverage.py:" in one.source and "(loss)" in one.source
    assert "never second larger" in str(one)
    both = jax.value_and_grad(lambda x: jnp.sum(jax.nn.relu(x)) + jnp.sum(jnp.maximum(x, 0.1)))
    assert listed(both, X) == []


def test_a_clip_in_an_optimiser_that_never_clips_is_listed():
    def update(params, g):
        solver = optax.chain(optax.clip_by_global_norm(100.0), optax.adam(1e-3))
        return solver.update(g, solver.init(params), params)[0]

    assert [name for name, _ in listed(update, X, X)] == ["select_n"]
    assert listed(update, X, 1000 * X)[0][1] != listed(update, X, X)[0][1]
