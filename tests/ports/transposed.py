"""Transposed convolution: a small decoder, in Flax NNX."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

CHANNELS, HEIGHT, WIDTH = 3, 2, 3
# Torch's padding=1, output_padding=1 of a kernel of 3: JAX pads the stretched image by
# kernel - 1 - padding before it, and by as much and the output padding after it.
AROUND = (1, 2)


@seeded
def torch_model() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, stride=2, padding=1, output_padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(CHANNELS * 4 * HEIGHT * WIDTH, CLASSES),
    )


class Decoder(nnx.Module):
    def __init__(self, padding: Any = (AROUND, AROUND), transpose_kernel: bool = True) -> None:
        rngs = nnx.Rngs(0)
        self.up = nnx.ConvTranspose(
            CHANNELS,
            CHANNELS,
            (3, 3),
            (2, 2),
            padding=padding,
            transpose_kernel=transpose_kernel,
            rngs=rngs,
        )
        self.last = nnx.Linear(CHANNELS * 4 * HEIGHT * WIDTH, CLASSES, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        H = jnp.tanh(self.up(X.transpose(0, 2, 3, 1)))
        return self.last(H.transpose(0, 3, 1, 2).reshape(len(H), -1))


def hwoi(kernel: Any) -> Any:
    """From Torch's [in, out, height, width]: [height, width, out, in], as transpose_kernel asks."""
    return kernel.transpose(2, 3, 1, 0)


def hwio(kernel: Any) -> Any:
    return kernel.transpose(2, 3, 0, 1)


def weights(torchs: dict[str, Any], turned: Callable[[Any], Any] = hwoi) -> dict[str, Any]:
    return {
        "up.kernel": turned(torchs["0.weight"]),
        "up.bias": torchs["0.bias"],
        "last.kernel": torchs["3.weight"].T,
        "last.bias": torchs["3.bias"],
    }


def wrong(name: str, says: str, **change: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", change)


def moved(turned: Callable[[Any], Any]) -> Callable[..., Any]:
    return partial(weights, turned=turned)


FAMILIES = (
    Port(
        "transposed convolution",
        torch_model,
        Decoder,
        classified(CHANNELS, HEIGHT, WIDTH),
        weights=weights,
        options=BATCH,
        wrong=(
            wrong(
                "kernel not turned round",
                "Flax's default, transpose_kernel=False, with inputs and outputs in their places",
                jax=partial(Decoder, transpose_kernel=False),
                weights=moved(hwio),
            ),
            wrong(
                "SAME", "the size fits, by one pixel moved", jax=partial(Decoder, padding="SAME")
            ),
            wrong(
                "inputs and outputs swapped",
                "the kernel of an ordinary convolution is expected",
                weights=moved(hwio),
            ),
            wrong(
                "height and width swapped",
                "all axes are reversed, as for a linear layer",
                weights=moved(lambda kernel: kernel.transpose(3, 2, 1, 0)),
            ),
        ),
    ),
)
