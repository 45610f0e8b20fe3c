"""parity.bounds against JAX, Torch, NumPy, extended precision and planted errors.

PARITY_ROUNDS=50 runs the random networks that many times over, with other depths and widths.
"""

import os
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from jax import lax

from parity.bounds import UnsupportedPrimitive, bound, bounded
from parity.rounding.arithmetic import FUNCTIONS

ROUNDS = int(os.environ.get("PARITY_ROUNDS", 1))
ROUNDOFF = {np.float32: 2.0**-24, np.float64: 2.0**-53}

# A third of the compilation time is worth more here than the speed of the result.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

ACTIVATIONS = {
    "relu": (jax.nn.relu, torch.relu),
    "maximum": (lambda x: jnp.maximum(x, 0), lambda x: torch.max(x, torch.zeros_like(x))),
    "tanh": (jnp.tanh, torch.tanh),
    "sigmoid": (jax.nn.sigmoid, torch.sigmoid),
    "gelu": (partial(jax.nn.gelu, approximate=False), F.gelu),
    "gelu_tanh": (jax.nn.gelu, partial(F.gelu, approximate="tanh")),
    "silu": (jax.nn.silu, F.silu),
}


def loss(params, X, y, activation="relu"):
    h = X
    for i, (W, b) in enumerate(params):
        h = h @ W + b
        h = ACTIVATIONS[activation][0](h) if i < len(params) - 1 else h
    return optax.softmax_cross_entropy_with_integer_labels(h, y).mean(), h


def step(params, velocity, X, y, activation):
    """One step of SGD with momentum, its gradient clipped by global norm."""
    (L, h), g = jax.value_and_grad(loss, has_aux=True)(params, X, y, activation)
    g, _ = optax.clip_by_global_norm(1.0).update(g, optax.EmptyState())
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, g)
    return L, h, jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity), velocity


def torch_step(params, velocity, X, y, activation):
    kind = X.dtype.type
    leaves = [torch.tensor(p, requires_grad=True) for p in jax.tree.leaves(params)]
    h = torch.tensor(X)
    for i in range(0, len(leaves), 2):
        h = F.linear(h, leaves[i].T, leaves[i + 1])
        h = ACTIVATIONS[activation][1](h) if i < len(leaves) - 2 else h
    L = F.cross_entropy(h, torch.tensor(y))
    L.backward()
    g = [p.grad for p in leaves]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p) for p in g]))
    g = [p if norm < 1 else p * (1 / norm) for p in g]
    old = [torch.tensor(v) for v in jax.tree.leaves(velocity)]
    new = [v.mul_(float(kind(0.9))).add_(p) for v, p in zip(old, g, strict=True)]
    with torch.no_grad():
        moved = [p.add(v, alpha=-float(kind(0.1))) for p, v in zip(leaves, new, strict=True)]
    return [t.detach().numpy() for t in (L, h, *moved, *new)]


def network(rng, sizes, batch, kind):
    """Random weights, velocity, inputs, labels: any scale, blank inputs with zero biases."""
    params, velocity = [], []
    for a, b in zip(sizes, sizes[1:], strict=False):
        size = 10 ** rng.uniform(-1.5, 1.5) if rng.random() < 0.3 else 1
        biases = 10 ** rng.uniform(-2, 2) * (rng.random() < 0.6)
        params.append((rng.normal(size=(a, b)) * size / np.sqrt(a), rng.normal(size=b) * biases))
        velocity.append((rng.normal(size=(a, b)), np.zeros(b)))
    X = rng.normal(size=(batch, sizes[0])) * (rng.random((batch, 1)) < 0.8)
    X *= 10 ** rng.uniform(-3, 3) if rng.random() < 0.5 else 1
    cast = partial(jax.tree.map, lambda a: np.asarray(a, kind))
    return *cast((params, velocity, X)), rng.integers(0, sizes[-1], batch)


def shuffled(rng, params, velocity, X, y):
    """The same network with examples, inputs and hidden units in another order, and the way back.

    Every sum in it then runs in another order."""
    rows = rng.permutation(len(X))
    orders = [rng.permutation(len(W)) for W, _ in params] + [np.arange(params[-1][0].shape[1])]

    def move(layers, orders):
        pairs = zip(layers, orders, orders[1:], strict=False)
        return [(W[i][:, j], b[j]) for (W, b), i, j in pairs]

    def back(L, h, params, velocity):
        inverse = [np.argsort(order) for order in orders]
        return L, h[np.argsort(rows)], move(params, inverse), move(velocity, inverse)

    return (move(params, orders), move(velocity, orders), X[rows][:, orders[0]], y[rows]), back


def excess(computed, found, part="bound"):
    """The largest error in bounds, over all leaves: at most 1 where the bound holds."""
    worst = 0.0
    leaves = (jax.tree.leaves(t) for t in (computed, found.value, getattr(found, part)))
    for c, v, d in zip(*leaves, strict=True):
        error = np.abs(np.asarray(c, np.longdouble) - v)
        assert not np.any(np.isnan(error))
        with np.errstate(divide="ignore", invalid="ignore"):
            worst = max(worst, float(np.max(np.where(error == 0, 0, error / d), initial=0)))
    return worst


def gradients(kind=np.float32, sizes=(784, 256, 10), batch=256, seed=0):
    """The book's network, initialised as Torch does, on a half-blank batch."""
    rng = np.random.default_rng(seed)
    layers = [
        [rng.uniform(-1, 1, shape) / np.sqrt(a) for shape in ((a, b), (b,))]
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]
    X = rng.integers(0, 256, (batch, sizes[0])) / 255 * (rng.random((batch, sizes[0])) < 0.5)
    params, X = jax.tree.map(lambda a: a.astype(kind), (layers, X))
    return jax.value_and_grad(lambda p, X, y: loss(p, X, y)[0]), (
        params,
        X,
        rng.integers(0, sizes[-1], batch),
    )


def compute(fn, *args):
    wide = any(a.dtype == np.float64 for a in jax.tree.leaves(args) if hasattr(a, "dtype"))
    with jax.enable_x64(wide):
        return jax.device_get(jax.jit(fn)(*args))


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


def test_sums_in_any_order_fused_or_not_stay_within_the_bound():
    rng = np.random.default_rng(4)
    for n in (1, 2, 10, 300, 2000):
        a, b = (rng.normal(size=(2, n)) * 10 ** rng.uniform(-2, 2, n)).astype(np.float32)
        a[n // 2 :], b[n // 2 :] = a[: n - n // 2], -b[: n - n // 2]  # cancel
        start = np.float32(100 * rng.normal())
        found = bound(lambda a, b, c: a @ b + c, a, b, start)
        total = bound(jnp.sum, a)
        for _ in range(20):
            order = rng.permutation(n)
            assert excess(np.cumsum(a[order], dtype=np.float32)[-1], total) <= 1
            plain, fused = start, start  # the bias first
            for x, y in zip(a[order], b[order], strict=True):
                plain = np.float32(plain + np.float32(x * y))
                fused = np.float32(np.float64(fused) + np.float64(x) * np.float64(y))
            assert excess(plain, found) <= 1 and excess(fused, found) <= 1
    a, b, start = np.full(1000, 0.6, np.float32), np.full(1000, 2.0**-23, np.float32), np.float32(1)
    rounded_up = np.cumsum(np.concatenate([[start], a * b]), dtype=np.float32)[-1]
    assert 0.1 < excess(rounded_up, bound(lambda a, b, c: a @ b + c, a, b, start)) <= 1


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_torch_cross_entropy_by_log_softmax_stays_within_the_bound_of_logsumexp(kind):
    rng = np.random.default_rng(5)
    for _ in range(100):
        spread, shift = 10 ** rng.uniform(-3, 2.5), 10 ** rng.uniform(-3, 3)
        logits = (rng.normal(size=(4, 10)) * spread + rng.normal() * shift).astype(kind)
        y = rng.integers(0, 10, 4)
        found = bound(
            _cross_entropy, logits, y, roundoff=ROUNDOFF[kind]
        )  # one compilation: same fn and shapes
        o = torch.tensor(logits, requires_grad=True)
        L = F.cross_entropy(o, torch.tensor(y))
        L.backward()
        assert excess((L.detach().numpy(), o.grad.numpy()), found) <= 1


_cross_entropy = jax.value_and_grad(
    lambda o, y: optax.softmax_cross_entropy_with_integer_labels(o, y).mean()
)


def test_torch_cross_entropy_of_one_unlikely_label_stays_within_the_bound():
    """log(sum) + max is small, max - logit large: Torch rounds the large one twice, optax once."""
    rng = np.random.default_rng(11)
    low = -1025 * rng.uniform(1, 1.05, 500)
    logits = np.stack([np.full(500, 0.3), rng.uniform(-1, 0.3, 500), low], 1).astype(np.float32)
    y = np.full(500, 2)
    found = bound(optax.softmax_cross_entropy_with_integer_labels, logits, y)
    computed = F.cross_entropy(torch.tensor(logits), torch.tensor(y), reduction="none")
    assert excess(computed.numpy(), found) <= 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_elementary_function_errs_at_most_half_its_allowance(name):
    function, rng = FUNCTIONS[name], np.random.default_rng(6)
    low, high = {"exp2": (-120, 120), "erfc": (-6, 8), "log1p": (-0.9, 9)}.get(name, (-80, 80))
    x = np.concatenate([rng.uniform(low, high, 4000), rng.uniform(-0.9, 2, 4000)])
    x = np.abs(x) if name in ("log", "sqrt", "rsqrt") else x
    twin = {"logistic": torch.sigmoid}.get(name) or getattr(torch, name)
    exact = {"logistic": lambda t: 1 / (1 + mpmath.exp(-t)), "exp2": lambda t: mpmath.mpf(2) ** t}
    reference = exact.get(name) or getattr(mpmath, name, lambda t: 1 / mpmath.sqrt(t))
    for kind, u in ROUNDOFF.items():
        points = x[::20].astype(kind)
        with mpmath.workprec(120):
            true = np.array([np.longdouble(str(reference(mpmath.mpf(float(t))))) for t in points])
        results = compute(function.f, points), twin(torch.tensor(points)).numpy()
        with jax.enable_x64(True):
            wide = points.astype(float), true.astype(float)
            extra = np.asarray(function.extra(*wide)) if function.extra else 0.0
        for computed in results:
            allowance = u * (function.relative[kind is np.float64] * np.abs(true) + extra)
            assert np.all(2 * np.abs(computed - true) <= allowance + 2.0**-125)


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


# --- kinks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "maximum"])
def test_a_relu_near_zero_is_a_kink_and_its_bound_spans_both_branches(activation):
    act = ACTIVATIONS[activation][0]
    w = np.float32([1, 1, 1])
    X = np.float32([[1, 1e8, -1e8], [1, 2, 3], [-1, -2, -3], [0, 0, 0]])
    found = bound(jax.grad(lambda w, X, c: jnp.sum(act(X @ w) * c)), w, X, np.ones(4, np.float32))
    decision = next(k for k in found.kinks if k.primitive in ("gt", "eq"))
    assert decision.count == 1 and decision.mask.tolist() == [True, False, False, False]
    assert "test_bounds.py" in decision.source
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


# --- the edges of the range ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "x", "finite"),
    [
        (lambda x: 1 / (x - 1.1), 1.1, False),
        (lambda x: 1 / (x - 1.1), 2, True),
        (lambda x: jnp.log(x - 1.1), 1.1, False),
        (lambda x: jnp.log(x), 0, False),
        (lambda x: jnp.exp(x), 89, False),
        (lambda x: jnp.exp(x), 88, True),
        (lambda x: jnp.sqrt(x * 1.1 - 1.1), 1, False),
        (lambda x: jnp.sqrt(x * x), 1e-30, True),
        (lambda x: x * x, 1e20, False),
        (lambda x: x + 0, np.nan, False),
        (lambda x: jnp.maximum(x, 0), np.nan, False),
        (lambda x: jnp.where(x > 1, x, 0), np.inf, False),
        (lambda x: jnp.exp(jnp.where(x > 0, -jnp.inf, x)), 1, True),
    ],
)
def test_an_undefined_or_overflowing_result_has_an_infinite_bound(fn, x, finite):
    assert np.isfinite(bound(fn, np.float32(x)).bound) == finite


def test_flushed_and_gradual_underflow_both_stay_within_the_bound():
    x = np.float32([1e-30, 3e-39, 1e-20, 0, 2.0**-126])
    big, y = np.float32(1e30), np.float32(1.2e-38)
    for fn in (
        lambda x: x * big,
        lambda x: (x * np.float32(1e-10)) * big,
        lambda x: (x - y) * big,
        lambda x: (x * x) ** 2,
        lambda x: x / np.float32(1e-30),
        lambda x: jnp.exp(-88 - x) * big,
        lambda x: jnp.stack([x, x]) @ jnp.stack([x, x * 0 + big], 1) * big,
        lambda x: jnp.abs(x),
    ):
        found = bound(fn, x)
        with jax.enable_x64(True):
            gradual = np.asarray(jax.jit(fn)(x.astype(np.float64)))  # nothing is subnormal here
        assert excess(compute(fn, x), found) <= 1 and excess(gradual, found) <= 1
    assert bound(lambda x: x * big, x).bound[3] == 0


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

    with pytest.raises(UnsupportedPrimitive, match=r"'cholesky'.*test_bounds.py:\d+ \(culprit\)"):
        bound(culprit, np.eye(2, dtype=np.float32))


def test_an_error_of_the_factors_is_carried_to_the_product_and_no_further():
    rng = np.random.default_rng(12)
    A, B = (
        rng.uniform(1, 2, (3, 5)).astype(np.float32),
        rng.uniform(1, 2, (5, 4)).astype(np.float32),
    )
    for dA, dB in ((0.0, 0.1), (0.1, 0.0), (0.1, 0.1)):
        found = bound(jnp.matmul, A, B, input_bounds=(np.full(A.shape, dA), np.full(B.shape, dB)))
        worst = (A + dA).astype(float) @ (B + dB).astype(float)
        assert 0.999 < excess(worst, found) <= 1


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
    assert found.bound[0].tolist() == bound(update, w, batches[0]).bound.tolist()
