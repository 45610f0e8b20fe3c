"""Bilinear resizing: twice the size by an Upsample layer, then down to an odd one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

CHANNELS, HEIGHT, WIDTH = 2, 4, 5
DOWN = 3, 4


class TorchNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3)
        self.last = nn.Linear(CHANNELS * DOWN[0] * DOWN[1], CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = torch.tanh(self.conv(self.up(X)))
        H = nn.functional.interpolate(H, size=DOWN, mode="bilinear")
        return self.last(H.flatten(1))


def resized(X: jax.Array, height: int, width: int, method: str = "bilinear") -> jax.Array:
    """X [n, height, width, channels] by centres of pixels, and without smoothing beforehand."""
    shape = len(X), height, width, X.shape[-1]
    return jax.image.resize(X, shape, method, antialias=False)


def smoothed(X: jax.Array, height: int, width: int) -> jax.Array:
    return jax.image.resize(X, (len(X), height, width, X.shape[-1]), "bilinear")


def by_corners(X: jax.Array, height: int, width: int, aligned: bool = True) -> jax.Array:
    """Pixel i lies at i / scale of the old image.

    aligned: the last pixels fall together too, as align_corners=True has it. Otherwise scale is
    that of the sizes, as in TensorFlow before its half_pixel_centers.
    """
    shape = len(X), height, width, X.shape[-1]
    sizes = ((height, X.shape[1]), (width, X.shape[2]))
    scale = jnp.array([(new - aligned) / (old - aligned) for new, old in sizes], X.dtype)
    start = (1 - scale) / 2  # JAX counts from half a pixel
    return jax.image.scale_and_translate(
        X, shape, (1, 2), scale, start, "bilinear", antialias=False
    )


class Net(nnx.Module):
    def __init__(
        self, up: Callable[..., jax.Array] = resized, down: Callable[..., jax.Array] = resized
    ) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(CHANNELS, CHANNELS, (3, 3), padding="VALID", rngs=rngs)
        self.last = nnx.Linear(CHANNELS * DOWN[0] * DOWN[1], CLASSES, rngs=rngs)
        self.up, self.down = up, down

    def __call__(self, X: jax.Array) -> jax.Array:
        H = self.up(X.transpose(0, 2, 3, 1), 2 * HEIGHT, 2 * WIDTH)
        H = self.down(jnp.tanh(self.conv(H)), *DOWN)
        return self.last(H.transpose(0, 3, 1, 2).reshape(len(H), -1))


def weights(torchs: dict[str, Any]) -> dict[str, Any]:
    return {
        "conv.kernel": torchs["conv.weight"].transpose(2, 3, 1, 0),
        "conv.bias": torchs["conv.bias"],
        "last.kernel": torchs["last.weight"].T,
        "last.bias": torchs["last.bias"],
    }


def wrong(name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(Net, **how)})


FAMILIES = (
    Port(
        "bilinear resizing",
        seeded(TorchNet),
        Net,
        classified(CHANNELS, HEIGHT, WIDTH),
        weights=weights,
        options=BATCH,
        wrong=(
            wrong("corners aligned", "align_corners=True, once Torch's default", up=by_corners),
            wrong(
                "no half pixel",
                "pixels are counted from their corners, as TensorFlow did",
                up=partial(by_corners, aligned=False),
            ),
            wrong(
                "nearest for bilinear", "Upsample's default", up=partial(resized, method="nearest")
            ),
            wrong(
                "smoothed on the way down",
                "antialias is on in JAX unless turned off, and off in Torch unless turned on",
                down=smoothed,
            ),
        ),
    ),
)
