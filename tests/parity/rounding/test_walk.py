"""The walk through a jaxpr: decisions that rounding could turn, control flow, what is refused."""

import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bounded_networks import ACTIVATIONS, compute, excess, gradients
from flax import nnx
from jax import lax

from parity.rounding.bound import UnsupportedPrimitive, bound, bounded
from parity.rounding.jaxpr import Interpreter

# --- kinks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "maximum"])
def test_a_relu_near_zero_is_a_kink_and_its_bound_spans_both_branches(activation):
    act = ACTIVATIONS[activation][0]
    w = np.float32([1, 1, 1])
    X = np.float32([[1, 1e8, -1e8], [1, 2, 3], [-1, -2, -3], [0, 0, 0]])
    found = bound(jax.grad(lambda w, X, c: jnp.sum(act(X @ w) * c)), w, X, np.ones(4, np.float32))
    decision = next(k for k in found.kinks if k.primitive in ("gt", "eq"))
    assert decision.count == 1 and decision.mask.tolist() == [True, False, False, False]
    assert "/tests/parity/" in decision.source
    for slope in (0, 0.5, 1):
        tie = 0.5 * (activation == "maximum")
        computed = slope * X[0] + X[1] + tie * X[3]
        assert excess(computed.astype(np.float64), found) <= 1
    blank = bound(jax.grad(lambda w, X: jnp.sum(act(X @ w))), w, X[1:])
    assert blank.kinks == () and excess(X[1].astype(np.float64), blank) <= 1


def test_an_argmax_between_near_ties_is_uncertain_and_a_clear_one_is_not():
    x = np.float32([[1, 1 + 1e-7, 0], [1, 2, 0]])
    found = bound(lambda x: jnp.argmax(x * 3, axis=1) == 1, x)
    assert found.value.tolist() == [1, 1] and found.bound.tolist() == [1, 0]
    assert bound(lambda x: jnp.argmax(x, axis=1), x).bound.tolist() == [0, 0]


def test_the_gradient_of_a_clear_maximum_is_certain():
    x = np.float32([[1, 2, 0.5], [7, 3, 3]])
    found = bound(jax.grad(lambda x: jnp.sum(jnp.max(3 * x, axis=1))), x)
    assert found.value.tolist() == [[0, 3, 0], [3, 0, 0]]
    assert np.all(found.bound < 1e-5) and found.kinks == ()


def test_a_doubtful_branch_spans_and_a_doubtful_loop_is_unbounded():
    def branch(x):
        return lax.cond(x * 3 > 0.3, lambda: x * 100, lambda: x)

    for x, uncertain in ((np.float32(0.1), True), (np.float32(0.2), False)):
        found = bound(branch, x)
        assert (found.bound > 5) == uncertain and bool(found.kinks) == uncertain
    loop = partial(lax.while_loop, lambda x: x * 3 < 3, lambda x: x + 0.5)
    assert np.isinf(bound(loop, np.float32(0)).bound)
    assert bound(loop, np.float32(0.1)).bound < 1e-5


# --- the walk --------------------------------------------------------------------------------


@jax.custom_vjp
def _doubled(x):
    return 2 * x


_doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (g * jnp.float32(2),))


def _recurrent(x):
    return lax.scan(lambda h, a: (jnp.tanh(h + a), h * a), jnp.zeros(3), x)[0].sum()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jax.grad(lambda x: _doubled(x).sum())(x),
        lambda x: jax.grad(lambda x: jax.checkpoint(jnp.sin)(x * x).sum())(x),
        lambda x: jax.grad(_recurrent)(x),
        lambda x: jax.nn.softmax(x) + jax.nn.log_softmax(x) + jax.nn.one_hot(jnp.argmax(x, 1), 3),
        lambda x: jnp.std(x, axis=0) + jnp.linalg.norm(x) + jnp.abs(x) ** 1.5 + jnp.sign(x),
        lambda x: jnp.cumsum(x, 0) / jnp.clip(x, 1, 2) + jnp.concatenate([x[:1], x[1:]]) ** 3,
        lambda x: x.at[jnp.array([0, 0, 1])].add(x[::-1][:3]) + jnp.pad(x[1:], ((0, 1), (0, 0))),
        lambda x: lax.fori_loop(0, 3, lambda i, c: c * x[i], x[0]) + lax.rsqrt(x * x + 1),
        lambda x: x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape),
        lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=1)[:, None], axis=1).T @ x,
        lambda x: jnp.stack(jnp.split(jnp.tile(x, (2, 1)), 2)).sum(0) - x.at[0].subtract(x[1]),
        lambda x: x.astype(jnp.bfloat16).astype(jnp.float32) * x,
    ],
)
def test_a_function_of_many_primitives_stays_within_a_finite_bound(fn):
    x = np.random.default_rng(8).normal(size=(4, 3)).astype(np.float32)
    found = bound(fn, x)
    assert np.all(np.isfinite(found.bound)) and excess(compute(fn, x), found) <= 1


def test_a_flax_model_in_an_optax_step_stays_within_its_bound():
    model = nnx.Sequential(
        nnx.Linear(6, 5, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1))
    )
    graph, state = nnx.split(model)
    solver = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1, momentum=0.9))
    X, y = np.random.default_rng(9).normal(size=(8, 6)).astype(np.float32), np.arange(8) % 3

    def update(state, memory, X, y):
        def objective(state):
            o = nnx.merge(graph, state)(X)
            return optax.softmax_cross_entropy_with_integer_labels(o, y).mean()

        L, g = jax.value_and_grad(objective)(state)
        updates, memory = solver.update(g, memory)
        return L, optax.apply_updates(state, updates), memory

    args = state, solver.init(state), X, y
    assert excess(compute(update, *args), bound(update, *args)) <= 1


def test_an_unknown_primitive_is_named_with_the_line_that_called_it():
    def culprit(x):
        return jnp.linalg.cholesky(x)  # this line

    with pytest.raises(UnsupportedPrimitive, match=r"'cholesky'.*test_walk.py:\d+ \(culprit\)"):
        bound(culprit, np.eye(2, dtype=np.float32))


def test_an_error_of_the_inputs_is_carried_through():
    fn, (params, X, y) = gradients(np.float32, (20, 4), 16)
    errors = jax.tree.map(lambda p: np.full(p.shape, 1.1e-4), params)
    sign = np.random.default_rng(10).choice([-1e-4, 1e-4], (20, 4))
    nearby = jax.tree.map(lambda p: p + sign.ravel()[: p.size].reshape(p.shape), params)
    nearby = jax.tree.map(lambda p: p.astype(np.float32), nearby)
    zero = np.zeros(X.shape), np.zeros(y.shape)
    computed = compute(fn, nearby, X, y)
    assert excess(computed, bound(fn, params, X, y)) > 10
    assert excess(computed, bound(fn, params, X, y, input_bounds=(errors, *zero))) <= 1


def test_a_second_call_traces_nothing_and_no_global_setting_changes():
    traced = []

    def fn(x):
        traced.append(x)
        return x * 3

    for _ in range(3):
        assert bound(fn, np.ones(2, np.float32)).value.dtype == np.float64
    assert len(traced) == 1
    assert not jax.config.jax_enable_x64 and jnp.ones(2).dtype == jnp.float32


def test_the_core_runs_inside_jit_and_scan_and_asks_for_x64():
    def update(w, x):
        return w - 0.1 * jax.grad(lambda w: jnp.sum(jnp.maximum(x @ w, 0)))(w)

    judge = bounded(update, masks=False)
    w, batches = np.ones(3, np.float32), np.float32(np.random.default_rng(1).normal(size=(5, 2, 3)))
    with pytest.raises(RuntimeError, match="enable_x64"):
        judge(w, batches[0])
    with jax.enable_x64(True):
        _, found = jax.jit(partial(lax.scan, lambda w, x: (update(w, x), judge(w, x))))(w, batches)
    assert found.bound.shape == (5, 3) and all(k.count.shape == (5,) for k in found.kinks)
    # `bound` compiles with fewer optimisations, so float64 may round a bound otherwise; it's 2^-20
    # larger than it need be, on account of that.
    own = bound(update, w, batches[0]).bound
    np.testing.assert_allclose(found.bound[0], own, rtol=2.0**-50)


class Held(Interpreter):
    """Counts how many values are alive at most."""

    def __init__(self):
        self.alive, self.most = weakref.WeakSet(), 0

    def value(self):
        made = type("Value", (), {})()
        self.alive.add(made)
        self.most = max(self.most, len(self.alive))
        return made

    def constant(self, x, variable):
        return self.value()

    def equation(self, eqn, operands):
        return [self.value() for _ in eqn.outvars]


def test_a_value_is_held_until_its_last_use_and_no_longer():
    def deep(x):
        first = jnp.sin(x)
        for _ in range(20):
            x = jnp.cos(x)
        return x + first

    held, closed = Held(), jax.make_jaxpr(deep)(1.0)
    assert len(held.closed(closed, [held.value()])) == 1
    assert held.most <= 5 < len(closed.jaxpr.eqns)
