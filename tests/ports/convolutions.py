"""Convolutions: strided, padded, dilated, grouped, with pooling, and flattened."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

CHANNELS, HEIGHT, WIDTH = 4, 6, 8


@seeded
def torch_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, CHANNELS, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=2, dilation=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(CHANNELS * HEIGHT // 2 * WIDTH // 2, CLASSES),
    )


def channels_last(X: jax.Array) -> jax.Array:
    return X.transpose(0, 2, 3, 1)


class ConvNet(nnx.Module):
    """The layout inside is Flax's; images come in and are flattened in Torch's."""

    def __init__(
        self,
        padding: Any = 1,
        dilation: int = 2,
        counted: bool = True,
        layout: Callable[[jax.Array], jax.Array] = channels_last,
        flat_as: tuple[int, ...] = (0, 3, 1, 2),
    ) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Conv(2, CHANNELS, (3, 3), 2, padding=padding, rngs=rngs)
        self.second = nnx.Conv(
            CHANNELS, CHANNELS, (3, 3), padding=dilation, kernel_dilation=dilation, rngs=rngs
        )
        size = CHANNELS * HEIGHT // 2 * WIDTH // 2
        self.last = nnx.Linear(size, CLASSES, rngs=rngs)
        self.counted, self.layout, self.flat_as = counted, layout, flat_as

    def __call__(self, X: jax.Array) -> jax.Array:
        H = jnp.tanh(self.first(self.layout(X)))
        around = ((1, 1), (1, 1))
        H = nnx.avg_pool(H, (3, 3), (1, 1), around, count_include_pad=self.counted)
        H = jnp.tanh(self.second(H))
        return self.last(H.transpose(self.flat_as).reshape(len(H), -1))


def hwio(kernel: Any) -> Any:
    """From Torch's [out, in, height, width]."""
    return kernel.transpose(2, 3, 1, 0)


def weights(torchs: dict[str, Any], turned: Callable[[Any], Any] = hwio) -> dict[str, Any]:
    """turned: how the second kernel, with as many inputs as outputs, is."""
    return {
        "first.kernel": hwio(torchs["0.weight"]),
        "first.bias": torchs["0.bias"],
        "second.kernel": turned(torchs["3.weight"]),
        "second.bias": torchs["3.bias"],
        "last.kernel": torchs["6.weight"].T,
        "last.bias": torchs["6.bias"],
    }


def unturned(torchs: dict[str, Any]) -> dict[str, Any]:
    return weights(torchs) | {"first.kernel": torchs["0.weight"]}


def reshaped(X: jax.Array) -> jax.Array:
    n, c, h, w = X.shape
    return X.reshape(n, h, w, c)


def net(name: str, says: str, **change: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(ConvNet, **change)})


def kernel(name: str, says: str, turned: Callable[[Any], Any]) -> Wrong:
    change = {"weights": partial(weights, turned=turned)}
    return Wrong(name, "logits", says, "logits", change)


@seeded
def torch_grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(CHANNELS, 2 * CHANNELS, 3, groups=CHANNELS, padding=1),
        nn.MaxPool1d(3, stride=2, padding=1),
        nn.Conv1d(2 * CHANNELS, CHANNELS, 1, groups=2),
        nn.Flatten(),
        nn.Linear(CHANNELS * 4, CLASSES),
    )


class Grouped(nnx.Module):
    """Depthwise, with two outputs a channel; maximum; pointwise in two groups; on sequences."""

    def __init__(self, padded_with_zero: bool = False) -> None:
        rngs = nnx.Rngs(0)
        wide = 2 * CHANNELS
        self.depth = nnx.Conv(
            CHANNELS, wide, (3,), padding=1, feature_group_count=CHANNELS, rngs=rngs
        )
        self.point = nnx.Conv(wide, CHANNELS, (1,), feature_group_count=2, rngs=rngs)
        self.last = nnx.Linear(CHANNELS * 4, CLASSES, rngs=rngs)
        self.padded_with_zero = padded_with_zero

    def __call__(self, X: jax.Array) -> jax.Array:
        H = self.depth(X.transpose(0, 2, 1))
        if self.padded_with_zero:
            H = nnx.max_pool(jnp.pad(H, ((0, 0), (1, 1), (0, 0))), (3,), (2,))
        else:
            H = nnx.max_pool(H, (3,), (2,), ((1, 1),))
        H = self.point(H)
        return self.last(H.transpose(0, 2, 1).reshape(len(H), -1))


def grouped_weights(
    torchs: dict[str, Any],
    depth: Callable[[Any], Any] = lambda kernel: kernel.transpose(2, 1, 0),
    point: Callable[[Any], Any] = lambda kernel: kernel.transpose(2, 1, 0),
) -> dict[str, Any]:
    return {
        "depth.kernel": depth(torchs["0.weight"]),
        "depth.bias": torchs["0.bias"],
        "point.kernel": point(torchs["2.weight"]),
        "point.bias": torchs["2.bias"],
        "last.kernel": torchs["4.weight"].T,
        "last.bias": torchs["4.bias"],
    }


def multiplier_outside(kernel: Any) -> Any:
    """Torch's output channels are [in, multiplier]; here they are read as [multiplier, in]."""
    outputs, one, size = kernel.shape
    turned = kernel.reshape(2, outputs // 2, one, size).transpose(3, 2, 1, 0)
    return turned.reshape(size, one, outputs)


FAMILIES = (
    Port(
        "convolutions",
        torch_convnet,
        ConvNet,
        classified(2, HEIGHT, WIDTH),
        weights=weights,
        options=BATCH,
        wrong=(
            Wrong(
                "kernel as Torch has it",
                "weights",
                "[out, in, height, width] is loaded as it is",
                "first.kernel",
                {"weights": unturned},
            ),
            net("SAME at stride 2", "SAME pads an even image after it alone", padding="SAME"),
            net("flattened channels last", "no turn before flattening", flat_as=(0, 1, 2, 3)),
            net("padding not counted", "the average is of real pixels alone", counted=False),
            net("dilation left out", "and padding made to fit", dilation=1),
            net("reshaped for transposed", "NCHW is reshaped to NHWC", layout=reshaped),
            kernel(
                "kernel's height and width swapped",
                "all axes are reversed, as for a linear layer",
                lambda kernel: kernel.transpose(3, 2, 1, 0),
            ),
            kernel(
                "kernel's inputs and outputs swapped",
                "[height, width, out, in] has the same shape",
                lambda kernel: kernel.transpose(2, 3, 0, 1),
            ),
            kernel(
                "kernel turned round",
                "a true convolution, which both frameworks don't compute",
                lambda kernel: hwio(kernel)[::-1, ::-1],
            ),
        ),
    ),
    Port(
        "grouped convolutions",
        torch_grouped,
        Grouped,
        classified(CHANNELS, 7),
        weights=grouped_weights,
        options=BATCH,
        wrong=(
            Wrong(
                "maximum padded with 0",
                "logits",
                "the maximum of negative numbers at the edge is 0",
                "logits",
                {"jax": partial(Grouped, padded_with_zero=True)},
            ),
            Wrong(
                "multiplier before the channel",
                "logits",
                "depthwise outputs are ordered as in TensorFlow's [in, multiplier], transposed",
                "logits",
                {"weights": partial(grouped_weights, depth=multiplier_outside)},
            ),
            Wrong(
                "kernel turned round",
                "logits",
                "the kernel runs from its end",
                "logits",
                {
                    "weights": partial(
                        grouped_weights, depth=lambda kernel: kernel.transpose(2, 1, 0)[::-1]
                    )
                },
            ),
            Wrong(
                "groups in reverse",
                "logits",
                "the second group's kernels go to the first",
                "logits",
                {
                    "weights": partial(
                        grouped_weights, point=lambda kernel: kernel.transpose(2, 1, 0)[..., ::-1]
                    )
                },
            ),
        ),
    ),
)
