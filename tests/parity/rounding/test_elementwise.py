"""Bounds of what acts on each number: activations, losses, special functions, integers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import torch
import torch.nn.functional as F
from bounded_networks import ROUNDOFF, compute
from judged import Case, judge, normal, positive

from parity.rounding import special as functions

X = normal(4, 3) * 2
U = np.tanh(normal(4, 3))  # inside (-1, 1)
P = positive(4, 3)

ACTIVATIONS = [
    Case("gelu", lambda x: jax.nn.gelu(x, approximate=False), F.gelu, (X,)),
    Case("gelu tanh", jax.nn.gelu, lambda x: F.gelu(x, approximate="tanh"), (X,)),
    Case("silu", jax.nn.silu, F.silu, (X,)),
    Case("softplus", jax.nn.softplus, F.softplus, (X,)),
    Case("elu", jax.nn.elu, F.elu, (X,)),
    Case("selu", jax.nn.selu, F.selu, (X,)),
    Case("celu", lambda x: jax.nn.celu(x, 1.3), lambda x: F.celu(x, 1.3), (X,)),
    Case("leaky relu", jax.nn.leaky_relu, F.leaky_relu, (X,)),
    Case("prelu", lambda x, a: jnp.where(x >= 0, x, a * x), F.prelu, (X, np.array([0.2]))),
    Case("mish", jax.nn.mish, F.mish, (X,)),
    Case("hard swish", jax.nn.hard_swish, F.hardswish, (2 * X,)),
    Case("hard sigmoid", jax.nn.hard_sigmoid, F.hardsigmoid, (2 * X,)),
    Case("hard tanh", jax.nn.hard_tanh, F.hardtanh, (X,)),
    Case("relu6", jax.nn.relu6, F.relu6, (4 * X,)),
    Case("glu", jax.nn.glu, F.glu, (normal(4, 6),)),
    Case("log sigmoid", jax.nn.log_sigmoid, F.logsigmoid, (X,)),
    Case("soft sign", jax.nn.soft_sign, F.softsign, (X,)),
    Case("squareplus", jax.nn.squareplus, lambda x: (x + torch.sqrt(x * x + 4)) / 2, (X,)),
    Case("softmax", jax.nn.softmax, lambda x: F.softmax(x, -1), (X,)),
    Case("log softmax", jax.nn.log_softmax, lambda x: F.log_softmax(x, -1), (X,)),
    Case("logsumexp", jax.nn.logsumexp, lambda x: torch.logsumexp(x, (0, 1)), (X,)),
    Case("logaddexp", jnp.logaddexp, torch.logaddexp, (X, X[::-1].copy())),
    Case("standardise", jax.nn.standardize, None, (X,), relative=1e-2),
]

LOSSES = [
    Case("huber", lambda x, y: optax.huber_loss(x, y).mean(), F.huber_loss, (X, X[::-1].copy())),
    Case(
        "smooth l1",
        lambda x, y: jnp.mean(optax.huber_loss(x, y, delta=0.5) / 0.5),
        lambda x, y: F.smooth_l1_loss(x, y, beta=0.5),
        (X, X[::-1].copy()),
    ),
    Case(
        "binary cross-entropy with logits",
        lambda x, y: optax.sigmoid_binary_cross_entropy(x, y).mean(),
        F.binary_cross_entropy_with_logits,
        (X, (U > 0).astype(float)),
    ),
    Case(
        "cosine similarity",
        lambda x, y: optax.losses.cosine_similarity(x, y),
        F.cosine_similarity,
        (X, X[::-1].copy()),
    ),
    Case(
        "kl divergence",
        lambda x, y: optax.losses.kl_divergence(jax.nn.log_softmax(x), jax.nn.softmax(y)),
        lambda x, y: F.kl_div(F.log_softmax(x, -1), F.softmax(y, -1), reduction="none").sum(-1),
        (X, U),
    ),
]


def _special(name, x, twin=None, **options):
    return Case(name, getattr(jnp, name), twin or getattr(torch, name), (x,), **options)


SPECIAL = [
    _special("tan", U), _special("arcsin", U), _special("arccos", U), _special("arctan", X),
    _special("sinh", X), _special("cosh", X), _special("arcsinh", X), _special("arccosh", 1.1 + P),
    _special("arctanh", U), _special("log2", P), _special("log10", P),
    _special("cbrt", P, lambda x: x ** (1 / 3)), _special("exp2", X), _special("sinc", X),
    Case("cbrt of negatives", jnp.cbrt, None, (X,)),
    Case("rsqrt", jax.lax.rsqrt, torch.rsqrt, (P,)),
    Case("arctan2", jnp.arctan2, torch.atan2, (X, U)),
    Case("hypot", jnp.hypot, torch.hypot, (X, U)),
    Case("erf_inv", jax.lax.erf_inv, torch.erfinv, (0.9 * U,)),
    Case("lgamma", jax.lax.lgamma, torch.lgamma, (3 * P,)),
    Case("digamma", jax.lax.digamma, torch.digamma, (3 * P,), gradient=False),
    Case("xlogy", jax.scipy.special.xlogy, torch.xlogy, (X, P)),
    Case("logit", jax.scipy.special.logit, torch.logit, (0.05 + 0.4 * P,)),
    Case("power", jnp.power, torch.pow, (P, X)),
    Case("reciprocal", jnp.reciprocal, torch.reciprocal, (P,)),
    Case("remainder", jnp.remainder, torch.remainder, (X, P)),
    Case("fmod", jnp.fmod, torch.fmod, (X, P)),
    Case("floor", jnp.floor, torch.floor, (X,)),
    Case("ceil", jnp.ceil, torch.ceil, (X,)),
    Case("round", jnp.round, torch.round, (X,)),
    Case("trunc", jnp.trunc, torch.trunc, (X,)),
    Case("nextafter", jnp.nextafter, torch.nextafter, (X, U), gradient=False),
    Case("copysign", jnp.copysign, torch.copysign, (X, U)),
    Case("nan_to_num", jnp.nan_to_num, torch.nan_to_num, (X,)),
    Case("clip", lambda x: jnp.clip(x, -1, 1), lambda x: torch.clip(x, -1, 1), (X,)),
    Case("polynomial", lambda x: jnp.polyval(jnp.arange(4.0), x), lambda x: (x + 2) * x + 3, (X,)),
    Case("heaviside", lambda x: jnp.heaviside(x, 0.5), None, (X,)),
]  # fmt: skip


# Torch rounds constants of these to float32 in float64 too: a sixth, and 1 / 1.3.
ROUNDED_IN_TORCH = {"hard sigmoid", "celu"}
# From jax 0.11 on a series near 0, from 0.12 on one around every integer, lose less than Torch's
# sin(pi x) / (pi x): its rounding isn't in the bound of that other formula.
FINER_IN_JAX = {"sinc"} if jax.__version_info__ >= (0, 11) else set()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("case", ACTIVATIONS + LOSSES + SPECIAL, ids=str)
def test_an_elementwise_operation_and_its_gradient_stay_within_their_bounds(case, kind):
    if case.name in (ROUNDED_IN_TORCH if kind is np.float64 else set()) | FINER_IN_JAX:
        case = replace(case, twin=None)
    judge(case, kind)


RANGES = {"tan": (-9, 9), "asin": (-1, 1), "acos": (-1, 1), "acosh": (1, 9), "atanh": (-1, 1),
          "erf_inv": (-1, 1), "lgamma": (1e-3, 20), "digamma": (1e-3, 20),
          "log2": (1e-3, 60)}  # fmt: skip
TWINS = {"erf_inv": torch.erfinv, "cbrt": lambda x: x.sign() * x.abs() ** (1 / 3)}
EXACT = {
    "erf_inv": mpmath.erfinv,
    "cbrt": lambda x: mpmath.sign(x) * mpmath.cbrt(abs(x)),
    "lgamma": mpmath.loggamma,
    "log2": lambda x: mpmath.log(x, 2),
}


@pytest.mark.parametrize("name", functions.SPECIAL)
def test_a_special_function_errs_at_most_half_its_allowance(name):
    function, rng = functions.SPECIAL[name], np.random.default_rng(6)
    low, high = RANGES.get(name, (-60, 60))
    spread = np.concatenate([rng.uniform(low, high, 100), rng.uniform(max(low, -1), 1.5, 100)])
    spread = spread[(spread > low) & (spread < high)]
    exact = EXACT.get(name) or getattr(mpmath, name)
    for kind, u in ROUNDOFF.items():
        x = spread.astype(kind)
        with mpmath.workprec(120):
            true = np.array([np.longdouble(str(exact(mpmath.mpf(float(t))))) for t in x])
        theirs = TWINS.get(name) or getattr(torch, name)
        results = compute(function.f, x), theirs(torch.tensor(x)).numpy()
        extra = function.extra(x.astype(float), true.astype(float)) if function.extra else 0.0
        allowance = u * (function.relative[kind is np.float64] * np.abs(true) + extra)
        assert all(np.all(2 * np.abs(r - true) <= allowance + 2.0**-125) for r in results)
