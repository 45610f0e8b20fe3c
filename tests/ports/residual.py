"""A residual block with batch normalisation: torchvision's BasicBlock, strided, and a head."""

from collections import OrderedDict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from batch_norm import BatchNorm
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn
from torchvision.models.resnet import BasicBlock

INPUTS, CHANNELS = 2, 3


@seeded
def torch_model() -> nn.Module:
    shortcut = nn.Sequential(
        nn.Conv2d(INPUTS, CHANNELS, 1, stride=2, bias=False), nn.BatchNorm2d(CHANNELS)
    )
    return nn.Sequential(
        OrderedDict(
            block=BasicBlock(INPUTS, CHANNELS, stride=2, downsample=shortcut),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(CHANNELS, CLASSES),
        )
    )


class Net(nnx.Module):
    """Two convolutions with norms, a shortcut by a convolution of one pixel, pooling, a head.

    strides: of the two convolutions. relus: after the first norm, after the second, after the sum.
    shortcut_norm: whether the shortcut is normalised.
    """

    def __init__(
        self,
        strides: tuple[int, int] = (2, 1),
        padding: Any = 1,
        relus: tuple[bool, bool, bool] = (True, False, True),
        shortcut_norm: bool = True,
        momentum: float = 0.9,
    ) -> None:
        rngs = nnx.Rngs(0)
        conv = partial(nnx.Conv, use_bias=False, rngs=rngs)
        norm = partial(BatchNorm, CHANNELS)
        self.conv1 = conv(INPUTS, CHANNELS, (3, 3), strides[0], padding=padding)
        self.conv2 = conv(CHANNELS, CHANNELS, (3, 3), strides[1], padding=1)
        self.shortcut = conv(INPUTS, CHANNELS, (1, 1), 2, padding="VALID")
        self.norm1, self.norm2, self.norm3 = norm(), norm(momentum=momentum), norm()
        self.head = nnx.Linear(CHANNELS, CLASSES, rngs=rngs)
        self.relus, self.shortcut_norm = relus, shortcut_norm

    def __call__(self, X: jax.Array) -> jax.Array:
        first, second, last = (jax.nn.relu if on else (lambda H: H) for on in self.relus)
        X = X.transpose(0, 2, 3, 1)
        H = first(self.norm1(self.conv1(X)))
        H = second(self.norm2(self.conv2(H)))
        around = self.shortcut(X)
        around = self.norm3(around) if self.shortcut_norm else around
        return self.head(jnp.mean(last(H + around), (1, 2)))


NORMS = {"norm1": "block.bn1", "norm2": "block.bn2", "norm3": "block.downsample.1"}
CONVOLUTIONS = {
    "conv1": "block.conv1",
    "conv2": "block.conv2",
    "shortcut": "block.downsample.0",
}


def weights(torchs: dict[str, Any]) -> dict[str, Any]:
    kernels = {
        f"{ours}.kernel": torchs[f"{theirs}.weight"].transpose(2, 3, 1, 0)
        for ours, theirs in CONVOLUTIONS.items()
    }
    scales = {f"{ours}.scale": torchs[f"{theirs}.weight"] for ours, theirs in NORMS.items()}
    biases = {f"{ours}.bias": torchs[f"{theirs}.bias"] for ours, theirs in NORMS.items()}
    head = {"head.kernel": torchs["head.weight"].T, "head.bias": torchs["head.bias"]}
    return kernels | scales | biases | head


STATE = {
    f"{ours}.{short}": f"{theirs}.running_{short}"
    for ours, theirs in NORMS.items()
    for short in ("mean", "var")
}


def wrong(name: str, says: str, level: str = "logits", leaf: str = "logits", **how: Any) -> Wrong:
    return Wrong(name, level, says, leaf, {"jax": partial(Net, **how)})


FAMILIES = (
    Port(
        "residual block",
        torch_model,
        Net,
        classified(INPUTS, 4, 6),
        weights=weights,
        options={"state": STATE} | BATCH,
        wrong=(
            wrong("shortcut not normalised", "its norm is never called", shortcut_norm=False),
            wrong("stride at the second convolution", "both give one size", strides=(1, 2)),
            wrong(
                "ReLU before the sum",
                "and none after it",
                relus=(True, True, False),
            ),
            wrong("ReLU before and after the sum", "one too many", relus=(True, True, True)),
            wrong("no ReLU after the sum", "one is left out", relus=(True, False, False)),
            wrong("SAME at stride 2", "SAME pads an even image after it alone", padding="SAME"),
            wrong(
                "momentum .99 in one norm",
                "Flax's default is kept in the second norm",
                "state",
                "norm2.mean",
                momentum=0.99,
            ),
        ),
    ),
)
