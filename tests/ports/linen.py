"""A Linen model with several collections: params and batch_stats."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from batch_norm import torch_mlp
from drawn import BATCH, CLASSES, classified
from flax import linen
from port import Port, Wrong

# Paths inside their collections.
TABLE = {
    "first.kernel": "first.weight",
    "first.bias": "first.bias",
    "norm.scale": "norm.weight",
    "norm.bias": "norm.bias",
    "last.kernel": "last.weight",
    "last.bias": "last.bias",
}
STATE = {"norm.mean": "norm.running_mean", "norm.var": "norm.running_var"}


class Net(linen.Module):
    """frozen: statistics are used as they are in training too."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    frozen: bool = False
    norm_last: bool = False

    @linen.compact
    def __call__(self, X: jax.Array, train: bool = True) -> jax.Array:
        norm = linen.BatchNorm(
            use_running_average=self.frozen or not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            name="norm",
        )
        H = linen.Dense(4, name="first")(X)
        H = norm(linen.relu(H)) if self.norm_last else linen.relu(norm(H))
        return linen.Dense(CLASSES, name="last")(H)


def jax_model(**how: Any) -> Any:
    net = Net(**how)
    return net, net.init(jax.random.key(0), jnp.zeros((2, 5), np.float32))


def wrong(name: str, level: str, says: str, leaf: str, **how: Any) -> Wrong:
    return Wrong(name, level, says, leaf, {"jax": partial(jax_model, **how)})


FAMILIES = (
    Port(
        "Linen, with batch statistics",
        torch_mlp,
        jax_model,
        classified(5),
        weights=TABLE,
        options={
            "state": STATE,
            "known": (
                ("state", "norm.var", "Torch divides the running variance by n - 1, Flax by n"),
            ),
        }
        | BATCH,
        wrong=(
            wrong(
                "momentum .99 for .9",
                "state",
                "Flax's default is kept, beside an accepted difference",
                "norm.mean",
                momentum=0.99,
            ),
            wrong("epsilon 1e-3 for 1e-5", "logits", "Keras's default", "logits", epsilon=1e-3),
            wrong(
                "statistics frozen while training",
                "logits",
                "use_running_average stays on",
                "logits",
                frozen=True,
            ),
            wrong(
                "norm after the activation",
                "logits",
                "two lines change places",
                "logits",
                norm_last=True,
            ),
            Wrong(
                "difference not accepted",
                "state",
                "the running variance is divided by n, which nobody has named",
                "norm.var",
                {"options": {"known": ()}},
            ),
        ),
    ),
)
