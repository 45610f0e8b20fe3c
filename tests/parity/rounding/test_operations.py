"""Bounds of single operations: sums in any order, cross-entropy, elementary functions."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from bounded_networks import ROUNDOFF, compute, excess

from parity.rounding.arithmetic import FUNCTIONS
from parity.rounding.bound import bound


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
