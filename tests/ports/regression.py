"""Losses of numbers: mean squared error, smooth L1; and of several yes or no at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from drawn import BATCH, COUNT, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

INPUTS, WIDTH, OUTPUTS, BETA = 4, 5, 2, 0.5
POSITIVE = (0.5, 3.0)  # what a yes weighs, of each output
TABLE = {
    "first.kernel": "0.weight",
    "first.bias": "0.bias",
    "last.kernel": "2.weight",
    "last.bias": "2.bias",
}

torch_model = seeded(
    lambda: nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, OUTPUTS))
)
narrow = seeded(lambda: nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)))


class Net(nnx.Module):
    def __init__(
        self, outputs: int = OUTPUTS, last: Callable[[jax.Array], jax.Array] = lambda Z: Z
    ) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(INPUTS, WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, outputs, rngs=rngs)
        self.activation = last

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.activation(self.last(jnp.tanh(self.first(X))))


def numbers(outputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((COUNT, n)).astype(np.float32) for n in (INPUTS, outputs))


def answers() -> tuple[np.ndarray, np.ndarray]:
    X, y = numbers(OUTPUTS)
    return X, (y > 0).astype(np.float32)


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return (outputs - targets) ** 2


def huber(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.losses.huber_loss(outputs, targets, delta=BETA).mean()


def smooth_l1(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Torch's: Huber's over beta, so that it is |x| - beta/2 far out."""
    return huber(outputs, targets) / BETA


def binary(
    outputs: jax.Array,
    targets: jax.Array,
    *,
    yes: tuple[float, ...] = POSITIVE,
    no: tuple[float, ...] = (1.0, 1.0),
    average: Callable[[jax.Array], jax.Array] = jnp.mean,
) -> jax.Array:
    yes, no = (jnp.asarray(w, outputs.dtype) for w in (yes, no))
    right, left = jax.nn.log_sigmoid(outputs), jax.nn.log_sigmoid(-outputs)
    return average(-(yes * targets * right + no * (1 - targets) * left))


def torch_binary(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(
        outputs, targets, pos_weight=torch.tensor(POSITIVE).to(outputs)
    )


def torch_squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(outputs, targets)


def torch_smooth(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.smooth_l1_loss(outputs, targets, beta=BETA)


def wrong(theirs: Any, name: str, says: str, ours: Any) -> Wrong:
    return Wrong(name, "loss", says, "loss", {"options": {"loss": (theirs, ours)}})


FAMILIES = (
    Port(
        "regression",
        torch_model,
        Net,
        partial(numbers, OUTPUTS),
        weights=TABLE,
        options=BATCH | {"loss": "mse"},
        wrong=(
            wrong(
                torch_squared,
                "half of it",
                "optax.l2_loss has a factor 1/2",
                lambda out, y: optax.losses.l2_loss(out, y).mean(),
            ),
            wrong(
                torch_squared,
                "sum over the outputs",
                "the mean is over the examples alone",
                lambda out, y: squared(out, y).sum(-1).mean(),
            ),
            wrong(
                torch_squared,
                "its root",
                "the root of the mean",
                lambda out, y: jnp.sqrt(squared(out, y).mean()),
            ),
            wrong(
                torch_squared,
                "absolute error",
                "L1 for L2",
                lambda out, y: jnp.abs(out - y).mean(),
            ),
            Wrong(
                "output bounded",
                "logits",
                "the last layer has an activation, too",
                "logits",
                {"jax": partial(Net, last=jnp.tanh)},
            ),
        ),
    ),
    Port(
        "regression to one number",
        narrow,
        partial(Net, 1),
        partial(numbers, 1),
        weights=TABLE,
        options=BATCH | {"loss": (torch_squared, lambda out, y: squared(out, y).mean())},
        wrong=(
            wrong(
                torch_squared,
                "targets flattened",
                "[n, 1] - [n] is [n, n], silently",
                lambda out, y: squared(out, y[:, 0]).mean(),
            ),
            wrong(
                torch_squared,
                "sum for mean",
                "the examples' losses are added",
                lambda out, y: squared(out, y).sum(),
            ),
            wrong(
                torch_squared,
                "targets held at 0",
                "the square of the output alone",
                lambda out, y: squared(out, 0 * y).mean(),
            ),
        ),
    ),
    Port(
        "smooth L1",
        torch_model,
        Net,
        partial(numbers, OUTPUTS),
        weights=TABLE,
        options=BATCH | {"loss": (torch_smooth, smooth_l1)},
        wrong=(
            wrong(torch_smooth, "Huber's loss", "it isn't divided by beta", huber),
            wrong(
                torch_smooth,
                "beta 1",
                "optax's default",
                lambda out, y: optax.losses.huber_loss(out, y).mean(),
            ),
            wrong(
                torch_smooth,
                "L1",
                "not smooth at 0",
                lambda out, y: jnp.abs(out - y).mean(),
            ),
        ),
    ),
    Port(
        "several yes or no",
        torch_model,
        Net,
        answers,
        weights=TABLE,
        options=BATCH | {"loss": (torch_binary, binary)},
        wrong=(
            Wrong(
                "sigmoid twice",
                "logits",
                "the model has one, and the loss takes logits",
                "logits",
                {"jax": partial(Net, last=jax.nn.sigmoid)},
            ),
            wrong(
                torch_binary,
                "sigmoid twice, in the loss",
                "optax's loss takes logits",
                lambda out, y: binary(jax.nn.sigmoid(out), y),
            ),
            wrong(
                torch_binary,
                "a yes not weighed",
                "pos_weight is forgotten",
                partial(binary, yes=(1.0, 1.0)),
            ),
            wrong(
                torch_binary,
                "a no weighed too",
                "pos_weight is taken for weight",
                partial(binary, no=POSITIVE),
            ),
            wrong(
                torch_binary,
                "sum over the outputs",
                "the mean is over the examples alone",
                partial(binary, average=lambda losses: losses.sum(-1).mean()),
            ),
        ),
    ),
)
