"""What anyone tries first: one linear layer, trained or asked only; and several outputs."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from attention import linear, params_of
from drawn import BATCH, CLASSES, classified, seeded, unlabelled
from flax import nnx
from port import Port, Wrong
from torch import nn

INPUTS, WIDTH = 6, 4
TABLE = {"kernel": "weight", "bias": "bias"}

rectangular = seeded(lambda: nn.Linear(INPUTS, CLASSES))
square = seeded(lambda: nn.Linear(WIDTH, WIDTH))


class Altered(nnx.Linear):
    """A linear layer, and something on its output."""

    def __init__(self, after: Any = lambda Z, bias: Z) -> None:
        super().__init__(INPUTS, CLASSES, rngs=nnx.Rngs(0))
        self.after = after

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.after(super().__call__(X), self.bias[...])


def layer(inputs: int, outputs: int) -> nnx.Module:
    return nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))


def by_function(t: dict[str, np.ndarray], turned: bool = True) -> dict[str, np.ndarray]:
    return {"kernel": t["weight"].T if turned else t["weight"], "bias": t["bias"]}


def cross_entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets)


def losses(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1)


class Autoencoder(nn.Module):
    """(code, image again), both as wide as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.down = nn.Linear(WIDTH, WIDTH)

    def forward(self, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        code = torch.relu(self.up(X))
        return code, torch.sigmoid(self.down(self.dropout(code)))


autoencoder = seeded(lambda: Autoencoder().eval())


def autoencoder_params(t: dict[str, np.ndarray], turned: str = "up down") -> dict[str, Any]:
    def kernel(name: str) -> np.ndarray:
        return t[f"{name}.weight"].T if name in turned else t[f"{name}.weight"]

    return {n: {"W": kernel(n), "b": t[f"{n}.bias"]} for n in ("up", "down")}


def apply(
    params: Any,
    X: jax.Array,
    *,
    swapped: bool = False,
    early: bool = False,
    end: Any = jax.nn.sigmoid,
) -> tuple[jax.Array, jax.Array]:
    """early: the code is what comes before its activation."""
    before = linear(params["up"], X)
    code = jax.nn.relu(before)
    again = end(linear(params["down"], code))
    return (again, code) if swapped else (before if early else code, again)


def autoencoder_model(**how: Any) -> Any:
    return partial(apply, **how), params_of(autoencoder, autoencoder_params)


def after(name: str, says: str, function: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(Altered, function)})


def loss(name: str, says: str, function: Any) -> Wrong:
    change = {"options": {"loss": (cross_entropy, function)}}
    return Wrong(name, "loss", says, "loss", change)


def inferred(name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(autoencoder_model, **how)})


FAMILIES = (
    Port(
        "softmax regression",
        rectangular,
        partial(layer, INPUTS, CLASSES),
        classified(INPUTS),
        weights=TABLE,
        options=BATCH,
        wrong=(
            after("softmax twice", "the model has one, too", lambda Z, bias: jax.nn.softmax(Z)),
            after("no bias", "it is loaded and not added", lambda Z, bias: Z - bias),
            after(
                "centred logits",
                "the greatest is taken off, which the loss can't see",
                lambda Z, bias: Z - Z.max(-1, keepdims=True),
            ),
            loss("sum for mean", "losses are added", lambda out, y: losses(out, y).sum()),
            loss(
                "labels from 1",
                "1 is taken off",
                lambda out, y: losses(out, (y - 1) % CLASSES).mean(),
            ),
            loss("in bits", "log2 for ln", lambda out, y: losses(out, y).mean() / jnp.log(2.0)),
            Wrong(
                "a tenth of the rate",
                "step",
                "0.01 for 0.1",
                "kernel",
                {"options": {"optimizer": (sgd, optax.sgd(0.01))}},
            ),
            Wrong(
                "Adam for SGD",
                "step",
                "the framework's example uses it",
                "kernel",
                {"options": {"optimizer": (sgd, optax.adam(0.1))}},
            ),
        ),
    ),
    Port(
        "a square linear layer, asked only",
        square,
        partial(layer, WIDTH, WIDTH),
        unlabelled(WIDTH),
        weights=by_function,
        options=BATCH,
        wrong=(
            Wrong(
                "kernel not turned",
                "logits",
                "[out, in] is taken for [in, out], which a square one allows",
                "logits",
                {"weights": partial(by_function, turned=False)},
            ),
            Wrong(
                "kernel in reversed order",
                "logits",
                "inputs are counted from the other end",
                "logits",
                {"weights": lambda t: {"kernel": t["weight"].T[::-1], "bias": t["bias"]}},
            ),
            Wrong(
                "bias in reversed order",
                "logits",
                "outputs are counted from the other end",
                "logits",
                {"weights": lambda t: {"kernel": t["weight"].T, "bias": t["bias"][::-1]}},
            ),
        ),
    ),
    Port(
        "two outputs of a model in eval mode, asked only",
        autoencoder,
        autoencoder_model,
        unlabelled(WIDTH),
        weights=autoencoder_params,
        options=BATCH,
        wrong=(
            inferred("outputs swapped", "both are as wide", swapped=True),
            inferred("code before its activation", "the first output", early=True),
            inferred("tanh for sigmoid", "the second output", end=jnp.tanh),
            Wrong(
                "one kernel not turned",
                "logits",
                "[out, in] is taken for [in, out]",
                "logits",
                {"weights": partial(autoencoder_params, turned="up")},
            ),
        ),
    ),
)
