"""An MLP with layer normalisation and GELU, in Flax NNX."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

WIDTH = 6
TABLE = {
    "first.kernel": "first.weight",
    "first.bias": "first.bias",
    "norm.scale": "norm.weight",
    "norm.bias": "norm.bias",
    "last.kernel": "last.weight",
    "last.bias": "last.bias",
}


@seeded
def torch_model() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(5, WIDTH),
            norm=nn.LayerNorm(WIDTH),
            activation=nn.GELU(),
            last=nn.Linear(WIDTH, CLASSES),
        )
    )


NORM = partial(nnx.LayerNorm, epsilon=1e-5)
GELU = partial(jax.nn.gelu, approximate=False)


class Net(nnx.Module):
    """Linear, norm, GELU, linear."""

    def __init__(
        self,
        norm: Callable[..., nnx.Module] = NORM,
        activation: Callable[[jax.Array], jax.Array] = GELU,
        norm_last: bool = False,
    ) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, WIDTH, rngs=rngs)
        self.norm = norm(WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)
        self.activation, self.norm_last = activation, norm_last

    def __call__(self, X: jax.Array) -> jax.Array:
        H = self.first(X)
        H = self.norm(self.activation(H)) if self.norm_last else self.activation(self.norm(H))
        return self.last(H)


class ByHand(nnx.Module):
    """Layer normalisation written out, as porters do.

    ddof: 1 divides the variance by n - 1. outside: epsilon is added to the root. fixed: mean and
    variance pass no gradient.
    """

    def __init__(
        self,
        width: int,
        *,
        rngs: nnx.Rngs,
        ddof: int = 0,
        outside: bool = False,
        fixed: bool = False,
        scaled: bool = True,
    ) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.ddof, self.outside, self.fixed, self.scaled = ddof, outside, fixed, scaled

    def __call__(self, X: jax.Array) -> jax.Array:
        mean, var = X.mean(-1, keepdims=True), X.var(-1, ddof=self.ddof, keepdims=True)
        if self.fixed:
            mean, var = jax.lax.stop_gradient((mean, var))
        root = jnp.sqrt(var) + 1e-5 if self.outside else jnp.sqrt(var + 1e-5)
        normal = (X - mean) / root
        return (normal * self.scale[...] if self.scaled else normal) + self.bias[...]


def wrong(name: str, says: str, level: str = "logits", leaf: str = "logits", **how: Any) -> Wrong:
    return Wrong(name, level, says, leaf, {"jax": partial(Net, **how)})


FAMILIES = (
    Port(
        "layer norm and gelu",
        torch_model,
        Net,
        classified(5),
        weights=TABLE,
        options=BATCH,
        wrong=(
            wrong("epsilon 1e-6 for 1e-5", "Flax's default is kept", norm=nnx.LayerNorm),
            wrong("tanh gelu", "jax.nn.gelu's default is kept", activation=jax.nn.gelu),
            wrong("norm after the activation", "two lines change places", norm_last=True),
            wrong(
                "normalised over the batch",
                "the axis is that of a batch norm",
                norm=partial(nnx.LayerNorm, epsilon=1e-5, reduction_axes=0, feature_axes=-1),
            ),
            wrong(
                "unbiased variance",
                "torch.var's default, divided by n - 1, is carried over",
                norm=partial(ByHand, ddof=1),
            ),
            wrong(
                "epsilon outside the root",
                "epsilon is added to the standard deviation",
                norm=partial(ByHand, outside=True),
            ),
            wrong(
                "scale left out",
                "the scale is loaded and never used",
                norm=partial(ByHand, scaled=False),
            ),
            wrong(
                "bias left out",
                "the norm has a scale alone",
                "weights",
                "norm.bias",
                norm=partial(nnx.LayerNorm, epsilon=1e-5, use_bias=False),
            ),
            wrong(
                "statistics detached",
                "mean and variance are constants to the gradient",
                "gradients",
                "first.kernel",
                norm=partial(ByHand, fixed=True),
            ),
        ),
    ),
)
