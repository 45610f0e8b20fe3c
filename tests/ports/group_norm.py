"""A convolution with group normalisation, in Flax NNX."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

CHANNELS, GROUPS = 6, 3


@seeded
def torch_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, padding=1),
        nn.GroupNorm(GROUPS, CHANNELS),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, CLASSES),
    )


class GroupNorm(nnx.Module):
    """Written out. interleaved: channels 0 and 3 are a group, not 0 and 1. places: whether
    statistics are over height and width as well."""

    def __init__(
        self, channels: int, *, rngs: nnx.Rngs, interleaved: bool = False, places: bool = True
    ) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.interleaved, self.places = interleaved, places

    def __call__(self, X: jax.Array) -> jax.Array:
        size = CHANNELS // GROUPS
        split = (size, GROUPS) if self.interleaved else (GROUPS, size)
        H = X.reshape(*X.shape[:-1], *split)
        axes = (*((1, 2) if self.places else ()), 3 if self.interleaved else 4)
        mean, var = H.mean(axes, keepdims=True), H.var(axes, keepdims=True)
        H = ((H - mean) / jnp.sqrt(var + 1e-5)).reshape(X.shape)
        return H * self.scale[...] + self.bias[...]


HONEST = partial(nnx.GroupNorm, num_groups=GROUPS, epsilon=1e-5)


class Net(nnx.Module):
    def __init__(self, norm: Callable[..., Any] = HONEST) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, CHANNELS, (3, 3), padding=1, rngs=rngs)
        self.norm = norm(CHANNELS, rngs=rngs)
        self.last = nnx.Linear(CHANNELS, CLASSES, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        H = jax.nn.silu(self.norm(self.conv(X.transpose(0, 2, 3, 1))))
        return self.last(H.mean((1, 2)))


def weights(torchs: dict[str, Any]) -> dict[str, Any]:
    return {
        "conv.kernel": torchs["0.weight"].transpose(2, 3, 1, 0),
        "conv.bias": torchs["0.bias"],
        "norm.scale": torchs["1.weight"],
        "norm.bias": torchs["1.bias"],
        "last.kernel": torchs["5.weight"].T,
        "last.bias": torchs["5.bias"],
    }


def wrong(name: str, says: str, norm: Callable[..., Any]) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(Net, norm)})


FAMILIES = (
    Port(
        "group norm",
        torch_model,
        Net,
        classified(2, 4, 5),
        weights=weights,
        options=BATCH,
        wrong=(
            wrong(
                "two groups for three",
                "the size of a group is given as 3",
                partial(nnx.GroupNorm, num_groups=None, group_size=GROUPS, epsilon=1e-5),
            ),
            wrong(
                "epsilon 1e-6 for 1e-5",
                "Flax's default is kept",
                partial(nnx.GroupNorm, num_groups=GROUPS),
            ),
            wrong(
                "channels interleaved",
                "channels are reshaped to [size, groups]",
                partial(GroupNorm, interleaved=True),
            ),
            wrong(
                "each pixel by itself",
                "statistics are over channels alone",
                partial(GroupNorm, places=False),
            ),
            wrong(
                "a group a channel",
                "an instance norm",
                partial(nnx.GroupNorm, num_groups=CHANNELS, epsilon=1e-5),
            ),
        ),
    ),
)
