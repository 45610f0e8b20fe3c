"""AdamW, SGD with momentum, Nesterov's: on images with pixels that are always blank."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from drawn import CLASSES, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

PIXELS, WIDTH, COUNT, EPOCHS = 6, 4, 28, 2  # 4 batches an epoch, the last one of 4
TABLE = {
    "first.kernel": "0.weight",
    "first.bias": "0.bias",
    "last.kernel": "2.weight",
    "last.bias": "2.bias",
}
OPTIONS = {"batch_size": 8, "epochs": EPOCHS}
ALL, KERNEL = "first.kernel", "last.kernel"

torch_model = seeded(
    lambda: nn.Sequential(nn.Linear(PIXELS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))
)

Pair = tuple[Callable[..., Any], optax.GradientTransformation]


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(PIXELS, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.last(jax.nn.relu(self.first(X)))


def images() -> tuple[np.ndarray, np.ndarray]:
    """The first two pixels are always blank: their weights' gradients are exactly 0."""
    rng = np.random.default_rng(0)
    X = rng.random((COUNT, PIXELS), np.float32)
    X[:, :2] = 0
    return X, rng.integers(0, CLASSES, COUNT).astype(np.int32)


def trained(name: str, pair: Pair, wrong: tuple[Wrong, ...], **options: Any) -> Port:
    """A family whose only matter is how it is trained."""
    options = OPTIONS | {"optimizer": pair} | options
    return Port(name, torch_model, Net, images, wrong, TABLE, options)


def wrongly(theirs: Any) -> Callable[..., Wrong]:
    """A maker of errors beside this optimiser of Torch."""

    def wrong(name: str, level: str, says: str, leaf: str, ours: Any) -> Wrong:
        return Wrong(name, level, says, leaf, {"options": {"optimizer": (theirs, ours)}})

    return wrong


LR, DECAY, B1, B2, EPS = 1e-2, 1e-1, 0.9, 0.999, 1e-8


def adam_direction(
    divide: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Adam's direction by hand. divide: (m, v, number of the step from 1) -> direction."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        count, m, v = state
        m = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
        v = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g**2, v, grads)
        t = (count + 1).astype(jnp.result_type(float))
        return jax.tree.map(lambda m, v: divide(m, v, t), m, v), (count + 1, m, v)

    def init(params: Any) -> Any:
        return jnp.zeros([], jnp.int32), *(jax.tree.map(jnp.zeros_like, params) for _ in range(2))

    return optax.GradientTransformation(init, update)


def decayed(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(direction, optax.add_decayed_weights(DECAY), optax.scale(-LR))


def uncorrected(m: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
    return m / (jnp.sqrt(v) + EPS)


def corrected_after_epsilon(m: jax.Array, v: jax.Array, t: jax.Array) -> jax.Array:
    return m / (jnp.sqrt(v) + EPS) * jnp.sqrt(1 - B2**t) / (1 - B1**t)


def kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def biases(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim < 2, params)


def torch_adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, LR, weight_decay=DECAY)


def torch_adamw_by_group(parameters: Any) -> torch.optim.Optimizer:
    """Biases don't decay."""
    both: tuple[list[Any], list[Any]] = ([], [])
    for p in parameters:
        both[p.ndim > 1].append(p)
    groups = [{"params": ps, "weight_decay": d} for ps, d in zip(both, (0, DECAY), strict=True)]
    return torch.optim.AdamW(groups, LR)


adamw = partial(optax.adamw, LR, weight_decay=DECAY)
not_adamw = wrongly(torch_adamw)
not_by_group = wrongly(torch_adamw_by_group)

MOMENTUM, L2, RATE = 0.9, 1e-2, 0.1


def torch_momentum(parameters: Any, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, RATE, momentum=MOMENTUM, weight_decay=L2, **how)


torch_nesterov = partial(torch_momentum, nesterov=True)
torch_dampened = partial(torch_momentum, dampening=0.5)


def sgd(*between: optax.GradientTransformation, decay: float = L2) -> Any:
    """The decay is part of the gradient, so that it goes through the momentum."""
    return optax.chain(optax.add_decayed_weights(decay), *between, optax.scale(-RATE))


def buffered(
    new: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    out: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = lambda g, old, new: new,
) -> optax.GradientTransformation:
    """Momentum by hand. new: (gradient, buffer, whether this is the first step) -> buffer. out:
    (gradient, old buffer, new buffer) -> direction."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        count, old = state
        buffer = jax.tree.map(lambda g, b: new(g, b, count == 0), grads, old)
        return jax.tree.map(out, grads, old, buffer), (count + 1, buffer)

    def init(params: Any) -> Any:
        return jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params)

    return optax.GradientTransformation(init, update)


def dampened(g: jax.Array, b: jax.Array, first: jax.Array) -> jax.Array:
    """Torch's rule: the first gradient is taken whole."""
    return MOMENTUM * b + jnp.where(first, g, 0.5 * g)


momentum = optax.trace(MOMENTUM)
average = optax.ema(MOMENTUM, debias=False)
heavy = buffered(lambda g, b, first: MOMENTUM * b + g)
not_momentum = wrongly(torch_momentum)
not_nesterov = wrongly(torch_nesterov)
not_dampened = wrongly(torch_dampened)

FAMILIES = (
    trained(
        "AdamW",
        (torch_adamw, adamw()),
        (
            not_adamw(
                "epsilon inside the root",
                "step",
                "optax's eps_root for eps",
                ALL,
                adamw(eps=0.0, eps_root=EPS),
            ),
            not_adamw(
                "decay coupled",
                "step",
                "L2 in Adam: the decay is part of the gradient, and normalised with it",
                ALL,
                optax.chain(optax.add_decayed_weights(DECAY), optax.adam(LR)),
            ),
            not_adamw(
                "no bias correction",
                "step",
                "the moments are used as they are",
                KERNEL,
                decayed(adam_direction(uncorrected)),
            ),
            not_adamw(
                "corrected after epsilon",
                "step",
                "epsilon is added before the correction, as in the paper's shorter form",
                KERNEL,
                decayed(adam_direction(corrected_after_epsilon)),
            ),
            not_adamw("default decay", "step", "optax's is 1e-4", ALL, optax.adamw(LR)),
            not_adamw(
                "decay not times the rate",
                "step",
                "as in the paper, where the schedule alone scales it",
                ALL,
                optax.chain(
                    optax.adam(LR),
                    optax.stateless(
                        lambda u, p: jax.tree.map(lambda u, p: u - DECAY * p, u, p)
                    ),
                ),
            ),
            not_adamw("b2 .99", "step", "shows from the second step", KERNEL, adamw(b2=0.99)),
            not_adamw(
                "betas swapped", "step", "(.999, .9) for (.9, .999)", KERNEL, adamw(B2, B1)
            ),
            not_adamw(
                "Nesterov's Adam", "step", "NAdam for Adam", KERNEL, adamw(nesterov=True)
            ),
        ),
    ),
    trained(
        "AdamW without decay of biases",
        (torch_adamw_by_group, adamw(mask=kernels)),
        (
            not_by_group("biases decay too", "step", "no mask", "bias", adamw()),
            not_by_group("mask inverted", "step", "biases alone", "bias", adamw(mask=biases)),
            not_by_group("nothing decays", "step", "Adam", ALL, optax.adam(LR)),
        ),
    ),
    trained(
        "SGD with momentum and decay",
        (torch_momentum, sgd(momentum)),
        (
            not_momentum(
                "an average for a sum",
                "step",
                "the gradient is scaled by 1 - .9, as Keras's and optax's averages do",
                KERNEL,
                sgd(average),
            ),
            not_momentum(
                "decay after the momentum",
                "step",
                "shows from the second step",
                ALL,
                optax.chain(momentum, optax.add_decayed_weights(L2), optax.scale(-RATE)),
            ),
            not_momentum("no decay", "step", "it is forgotten", ALL, sgd(momentum, decay=0.0)),
            not_momentum(
                "no momentum", "step", "shows from the second step", KERNEL, sgd()
            ),
            not_momentum(
                "momentum .99", "every step", "shows from the second step", KERNEL,
                sgd(optax.trace(0.99)),
            ),
            not_momentum(
                "Nesterov's", "step", "nesterov=True", KERNEL, sgd(optax.trace(MOMENTUM, True))
            ),
        ),
    ),
    trained(
        "Nesterov's momentum",
        (torch_nesterov, sgd(optax.trace(MOMENTUM, nesterov=True))),
        (
            not_nesterov("plain momentum", "step", "nesterov=False", KERNEL, sgd(momentum)),
            not_nesterov(
                "looks ahead with the old buffer",
                "step",
                "g + .9 b, with b of the step before",
                KERNEL,
                sgd(buffered(
                    lambda g, b, first: MOMENTUM * b + g, lambda g, old, new: g + MOMENTUM * old
                )),
            ),
            not_nesterov(
                "ahead of the buffer alone",
                "every step",
                "shows from the second step: b + .9 b, without the gradient",
                KERNEL,
                sgd(buffered(
                    lambda g, b, first: MOMENTUM * b + g, lambda g, old, new: new + MOMENTUM * new
                )),
            ),
        ),
    ),
    trained(
        "SGD with dampening",
        (torch_dampened, sgd(buffered(dampened))),
        (
            not_dampened(
                "first gradient dampened",
                "step",
                "it is halved like any other",
                KERNEL,
                sgd(buffered(lambda g, b, first: MOMENTUM * b + 0.5 * g)),
            ),
            not_dampened(
                "no dampening", "every step", "shows from the second step", KERNEL, sgd(heavy)
            ),
            not_dampened(
                "1 - momentum",
                "every step",
                "a gradient counts a tenth, not a half, after the first step",
                KERNEL,
                sgd(buffered(lambda g, b, first: MOMENTUM * b + jnp.where(first, g, 0.1 * g))),
            ),
        ),
    ),
)  # fmt: skip
