"""ResNet-18 of torchvision, and its port to Flax NNX.

Images are [batch, 3, height, width] on both sides; inside, channels lie last. Batch norm follows
Torch's rule: the running variance is that over n - 1, which Flax's own doesn't divide by. He et al.
2015; Ioffe and Szegedy 2015.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from jaxtyping import Array, Float

FULL = {"widths": (64, 128, 256, 512), "counts": (2, 2, 2, 2)}
SMALL = {"widths": (4, 8, 16, 32), "counts": (1, 1, 1, 1)}
CLASSES = 10


def torch_model(full: bool) -> torch.nn.Module:
    from torchvision.models import resnet

    if full:
        return resnet.resnet18(num_classes=CLASSES)

    class Narrow(resnet.ResNet):  # torchvision's own has no argument for it
        def _make_layer(self, block: Any, planes: int, *rest: Any, **how: Any) -> Any:
            self.inplanes = 4 if planes == 64 else self.inplanes
            return super()._make_layer(block, planes // 16, *rest, **how)

    model = Narrow(resnet.BasicBlock, [*SMALL["counts"]])
    model.conv1, model.bn1 = torch.nn.Conv2d(3, 4, 7, 2, 3, bias=False), torch.nn.BatchNorm2d(4)
    model.fc = torch.nn.Linear(32, CLASSES)
    return model


def jax_model(full: bool) -> nnx.Module:
    return ResNet(**(FULL if full else SMALL), rngs=nnx.Rngs(0))


class BatchNorm(nnx.Module):
    """Over all axes but the last: mean' = .9 mean + .1 batch mean, var' the same by n - 1."""

    def __init__(self, width: int) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.use_running_average = False

    def __call__(self, X: Float[Array, "batch height width channels"]) -> jax.Array:
        mean, var = self.mean[...], self.var[...]
        if not self.use_running_average:
            mean, var = X.mean((0, 1, 2)), X.var((0, 1, 2))
            n = X.size // X.shape[-1]
            self.mean[...] = jax.lax.stop_gradient(0.9 * self.mean[...] + 0.1 * mean)
            self.var[...] = jax.lax.stop_gradient(0.9 * self.var[...] + 0.1 * var * n / (n - 1))
        return (X - mean) * jax.lax.rsqrt(var + 1e-5) * self.scale[...] + self.bias[...]

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What nnx.view sets."""
        if use_running_average is not None:
            self.use_running_average = use_running_average


def conv(inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Padded by half of its size on each side, as SAME isn't at a stride of 2."""
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        rngs=rngs,
    )


class Block(nnx.Module):
    def __init__(self, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.conv1, self.norm1 = conv(inputs, width, 3, stride, rngs), BatchNorm(width)
        self.conv2, self.norm2 = conv(width, width, 3, 1, rngs), BatchNorm(width)
        self.around = (
            nnx.Sequential(conv(inputs, width, 1, stride, rngs), BatchNorm(width))
            if stride != 1
            else None
        )

    def __call__(self, X: Float[Array, "batch height width channels"]) -> jax.Array:
        H = self.norm2(self.conv2(nnx.relu(self.norm1(self.conv1(X)))))
        return nnx.relu(H + (self.around(X) if self.around else X))


class ResNet(nnx.Module):
    def __init__(self, widths: Sequence[int], counts: Sequence[int], *, rngs: nnx.Rngs) -> None:
        self.conv, self.norm = conv(3, widths[0], 7, 2, rngs), BatchNorm(widths[0])
        blocks, inputs = [], widths[0]
        for width, count in zip(widths, counts, strict=True):
            for i in range(count):
                stride = 2 if i == 0 and width != widths[0] else 1
                blocks.append(Block(inputs, width, stride, rngs=rngs))
                inputs = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, CLASSES, rngs=rngs)

    def __call__(self, X: Float[Array, "batch 3 height width"]) -> Float[Array, "batch classes"]:
        H = nnx.relu(self.norm(self.conv(X.transpose(0, 2, 3, 1))))
        H = nnx.max_pool(H, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            H = block(H)
        return self.head(H.mean((1, 2)))


def weights(t: dict[str, np.ndarray]) -> dict[str, Any]:
    """Torch's parameters as JAX's tree; nn.Conv2d is [out, in, h, w], nn.Linear [out, in]."""

    def conv(name: str) -> dict[str, np.ndarray]:
        return {"kernel": t[f"{name}.weight"].transpose(2, 3, 1, 0)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def block(at: str) -> dict[str, Any]:
        found = {f"conv{i}": conv(f"{at}.conv{i}") for i in (1, 2)}
        found |= {f"norm{i}": norm(f"{at}.bn{i}") for i in (1, 2)}
        if f"{at}.downsample.0.weight" in t:
            around = {0: conv(f"{at}.downsample.0"), 1: norm(f"{at}.downsample.1")}
            found["around"] = {"layers": around}
        return found

    places = dict.fromkeys(n.rpartition(".conv1")[0] for n in t if ".conv1." in n)
    return {
        "conv": conv("conv1"),
        "norm": norm("bn1"),
        "blocks": {i: block(at) for i, at in enumerate(places)},
        "head": {"kernel": t["fc.weight"].T, "bias": t["fc.bias"]},
    }


def data(full: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    count, size = (4, 224) if full else (12, 32)
    X = rng.standard_normal((count, 3, size, size)).astype(np.float32)
    return X, rng.integers(0, CLASSES, count).astype(np.int32)


OPTIONS = {
    "weights": weights,
    "loss": "cross_entropy",
    "mode": "train",
    "optimizer": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
}
ERRORS = {
    "pooled as SAME": ("padding=((1, 1), (1, 1))", 'padding="SAME"'),
    "momentum .99": ("0.9 * self.var[...] + 0.1 * var", "0.99 * self.var[...] + 0.01 * var"),
    "epsilon of 1e-6": ("rsqrt(var + 1e-5)", "rsqrt(var + 1e-6)"),
    "ReLU before the sum": (
        "nnx.relu(H + (self.around(X) if self.around else X))",
        "nnx.relu(H) + (self.around(X) if self.around else X)",
    ),
}
