"""Networks in both frameworks to hold against their bounds, and how much of a bound they use."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

ROUNDOFF = {np.float32: 2.0**-24, np.float64: 2.0**-53}

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
