"""Honest pairs at random: one function, written in two of the ways that ports write it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional as F

Function = Callable[[Any], Any]
Ways = tuple[tuple[Function, ...], tuple[Function, ...]]  # Torch's, JAX's


def expression(rng: np.random.Generator, depth: int, leaves: list[Function]) -> list[Function]:
    """The same polynomial twice: as a tree, and with sums turned, products distributed."""
    if depth == 0:
        x = leaves[rng.integers(len(leaves))]
        return [x, x]
    (a, a2), (b, b2), (c, c2) = (expression(rng, depth - 1, leaves) for _ in range(3))
    return [
        [lambda v: (a(v) + b(v)) + c(v), lambda v: c2(v) + (b2(v) + a2(v))],
        [lambda v: a(v) * (b(v) + c(v)), lambda v: c2(v) * a2(v) + a2(v) * b2(v)],
        [lambda v: a(v) - b(v) / 4, lambda v: (4 * a2(v) - b2(v)) * 0.25],
        [lambda v: (a(v) * b(v)) * c(v), lambda v: b2(v) * (c2(v) * a2(v))],
        [lambda v: (a(v) + b(v)) ** 2, lambda v: a2(v) * a2(v) + 2 * a2(v) * b2(v) + b2(v) ** 2],
        [lambda v: (a(v) - b(v)) * (a(v) + b(v)), lambda v: a2(v) ** 2 - b2(v) * b2(v)],
    ][rng.integers(6)]


def polynomial(rng: np.random.Generator) -> Ways:
    one, other = expression(rng, 2, [lambda v: v, lambda v: v * v, lambda v: v + 1])
    return (one,), (other,)


def _mean(x: Any) -> Any:
    return x.mean(-1, keepdims=True)


def _normal(variance: Function, root: Function, x: Any) -> Any:
    return (x - _mean(x)) * root(variance(x) + 1e-5)


VARIANCES: tuple[Function, ...] = (
    lambda x: _mean((x - _mean(x)) ** 2),
    lambda x: _mean(x**2) - _mean(x) ** 2,
    lambda x: _mean(x * x) - jnp.square(_mean(x)),
    lambda x: jnp.maximum(_mean(x * x) - _mean(x) ** 2, 0.0),
    lambda x: jnp.var(x, -1, keepdims=True),
    lambda x: jnp.sum((x - _mean(x)) ** 2, -1, keepdims=True) / 4,
    lambda x: _mean((x - _mean(x)) * x),
)
ROOTS: tuple[Function, ...] = (
    jax.lax.rsqrt, lambda v: 1 / jnp.sqrt(v), lambda v: v**-0.5, lambda v: jnp.sqrt(1 / v)
)  # fmt: skip


def _torch_variance(x: torch.Tensor) -> torch.Tensor:
    return (x * x).mean(-1, keepdim=True) - x.mean(-1, keepdim=True) ** 2


def normalised(rng: np.random.Generator) -> Ways:
    ours = [partial(_normal, v, r) for v in VARIANCES for r in ROOTS]
    theirs: tuple[Function, ...] = (
        lambda x: F.layer_norm(x, (4,)),
        lambda x: (x - x.mean(-1, True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt(),
        lambda x: (x - x.mean(-1, True)) * (_torch_variance(x).clamp(min=0) + 1e-5).rsqrt(),
        lambda x: (x - x.mean(-1, True)) * torch.rsqrt(_torch_variance(x) + 1e-5),
    )
    return theirs, tuple(ours)


def _shift(x: Any) -> Any:
    return x - jax.lax.stop_gradient(x.max(-1, keepdims=True))


def _tied(f: Function) -> float:
    x = torch.zeros((), requires_grad=True)
    f(x).backward()
    return float(x.grad)


# Until Torch 2.11 a clamp's gradient at its bound is 1, in 2.14 it is 0.
CLAMPED = tuple(f for f in [lambda x: x.clamp(min=0)] if _tied(f) == 0)

# Each in ways that agree at ties, too.
ELEMENTWISE: tuple[Ways, ...] = (
    ((torch.relu, *CLAMPED, lambda x: torch.where(x > 0, x, 0.0)),
     (jax.nn.relu, lambda x: jnp.where(x > 0, x, 0), lambda x: x * (x > 0))),
    ((lambda x: torch.maximum(x, torch.zeros(())), lambda x: (x + x.abs()) / 2),
     (lambda x: jnp.maximum(x, 0), lambda x: -jnp.minimum(-x, 0))),
    ((lambda x: x.clamp(-1, 2), lambda x: F.hardtanh(x, -1, 2)),
     (lambda x: jnp.clip(x, -1, 2), lambda x: jnp.minimum(jnp.maximum(x, -1), 2),
      lambda x: jnp.where(x > 2, 2, jnp.where(x < -1, -1, x)))),
    ((lambda x: F.leaky_relu(x, 0.01), lambda x: torch.where(x > 0, x, 0.01 * x)),
     (lambda x: jnp.where(x > 0, x, 0.01 * x), lambda x: x * jnp.where(x > 0, 1, 0.01))),
    ((torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
     (jax.nn.sigmoid, lambda x: jnp.exp(x) / (1 + jnp.exp(x)),
      lambda x: 0.5 * jnp.tanh(0.5 * x) + 0.5)),
    ((torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1),
     (jnp.tanh, lambda x: (jnp.exp(2 * x) - 1) / (jnp.exp(2 * x) + 1), lambda x: -jnp.tanh(-x))),
    ((F.softplus, lambda x: torch.log1p(torch.exp(x))),
     (jax.nn.softplus, lambda x: jnp.log(1 + jnp.exp(x)), lambda x: x - jax.nn.log_sigmoid(x))),
    ((F.gelu, lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5))),
     (partial(jax.nn.gelu, approximate=False), lambda x: x * 0.5 * jax.lax.erfc(-x / 2**0.5))),
    ((partial(F.gelu, approximate="tanh"),),
     (jax.nn.gelu, lambda x: x * jax.nn.sigmoid((8 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))),
    ((F.silu, lambda x: x * x.sigmoid()),
     (jax.nn.silu, lambda x: x / (1 + jnp.exp(-x)))),
    ((lambda x: x.abs() ** 2, lambda x: x * x),
     (lambda x: jnp.abs(x) ** 2, jnp.square, lambda x: jnp.sqrt(x * x) ** 2)),
    ((lambda x: (x * x + 1).sqrt() ** 2, lambda x: x**2 + 1),
     (lambda x: jnp.sqrt(x * x + 1) * jnp.sqrt(1 + x * x), lambda x: (x**2 + 1) ** 1.0)),
    ((lambda x: x.softmax(-1), lambda x: x.exp() / x.exp().sum(-1, True)),
     (jax.nn.softmax, lambda x: jnp.exp(_shift(x)) / jnp.exp(_shift(x)).sum(-1, keepdims=True),
      lambda x: jnp.exp(x - jax.scipy.special.logsumexp(x, -1, keepdims=True)))),
    ((lambda x: x * (x * x).mean(-1, True).add(1e-6).rsqrt(),
      lambda x: F.rms_norm(x, (4,), eps=1e-6)),
     (lambda x: x / jnp.sqrt(_mean(x**2) + 1e-6),
      lambda x: x * 2 * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + 4e-6))),
    ((lambda x: F.elu(x), lambda x: torch.where(x > 0, x, torch.expm1(x))),
     (lambda x: jnp.where(x > 0, x, jnp.expm1(x)), lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1))),
    ((lambda x: x / (x.norm(dim=-1, keepdim=True) + 1), ),
     (lambda x: x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1),
      lambda x: x / (1 + jnp.sqrt((x * x).sum(-1, keepdims=True))))),
)  # fmt: skip


def _picked(z: Any, y: Any) -> Any:
    return jnp.take_along_axis(z, y[:, None], 1)[:, 0]


def _onehot(y: Any) -> Any:
    return jax.nn.one_hot(y, 3)


LOSSES = (
    (lambda z, y: F.cross_entropy(z, y),
     lambda z, y: F.nll_loss(z.log_softmax(1), y),
     lambda z, y: -z.softmax(1).log().gather(1, y[:, None]).mean(),
     lambda z, y: (z.logsumexp(1) - z.gather(1, y[:, None])[:, 0]).mean()),
    (lambda z, y: -_picked(jax.nn.log_softmax(z), y).mean(),
     lambda z, y: (jax.scipy.special.logsumexp(z, axis=-1) - _picked(z, y)).mean(),
     lambda z, y: optax.softmax_cross_entropy(z, _onehot(y)).mean(),
     lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).sum() / len(y),
     lambda z, y: -jnp.log(_picked(jax.nn.softmax(z), y)).mean(),
     lambda z, y: (jnp.log(jnp.exp(z).sum(-1)) - (z * _onehot(y)).sum(-1)).sum() / 3),
)  # fmt: skip


def _product(x: Any, W: Any, b: Any) -> Any:
    return x @ W + b


PRODUCTS = (
    _product,
    lambda x, W, b: b + jnp.einsum("ni,io->no", x, W),
    lambda x, W, b: (x[:, :, None] * W).sum(1) + b,
    lambda x, W, b: jax.lax.dot_general(W, x, (((0,), (1,)), ((), ()))).T + b,
    lambda x, W, b: x[:, :2] @ W[:2] + (x[:, 2:] @ W[2:] + b),
)


def _sgd(lr: float, decay: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(lr))


OPTIMISERS = (
    (partial(torch.optim.SGD, lr=0.1), (optax.sgd(0.1), optax.scale(-0.1))),
    (partial(torch.optim.SGD, lr=0.1, momentum=0.9),
     (optax.sgd(0.1, momentum=0.9), optax.chain(optax.trace(0.9), optax.scale(-0.1)))),
    (partial(torch.optim.SGD, lr=0.1, weight_decay=0.01), (_sgd(0.1, 0.01),)),
    (partial(torch.optim.Adam, lr=1e-3), (optax.adam(1e-3), optax.adamw(1e-3, weight_decay=0))),
    (partial(torch.optim.AdamW, lr=1e-3), (optax.adamw(1e-3, weight_decay=0.01),)),
)  # fmt: skip


def honest(seed: int) -> tuple[dict[str, Any], str]:
    """What `proven` takes, and what was drawn."""
    from small import SHAPES, Net

    rng = np.random.default_rng(seed)

    def one(ways: Any) -> Any:
        return ways[rng.integers(len(ways))]

    theirs, ours, said = [], [], []
    for _ in range(rng.integers(1, 3)):
        kind = int(rng.integers(len(ELEMENTWISE) + 4))
        family = (polynomial if kind < 2 else normalised) if kind < 4 else None
        ways = family(rng) if family else ELEMENTWISE[kind - 4]
        said.append(kind - 4)
        theirs.append(one(ways[0]))
        ours.append(one(ways[1]))

    def activation(x: Any, blocks: list[Function]) -> Any:
        for block in blocks:
            x = block(x)
        return x

    products = one(PRODUCTS), one(PRODUCTS)

    def call(p: Any, x: Any) -> Any:
        H = activation(products[0](x, p["a.weight"], p["a.bias"]), ours)
        return products[1](H, p["b.weight"], p["b.bias"])

    params = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    torch_optimiser, optimisers = one(OPTIMISERS)
    models = {
        "jax_model": (call, params),
        "torch_model": Net(partial(activation, blocks=theirs)),
        "loss": (one(LOSSES[0]), one(LOSSES[1])),
        "optimizer": (torch_optimiser, one(optimisers)),
    }
    return models, str(said)
