"""Batch normalisation: in training by Torch's rule and by Flax's, and in evaluation."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch
from drawn import BATCH, CLASSES, classified, seeded, unlabelled
from flax import nnx
from port import Port, Wrong
from torch import nn

WIDTH = 4
AFFINE = {
    "norm.scale": "norm.weight",
    "norm.bias": "norm.bias",
    "last.kernel": "last.weight",
    "last.bias": "last.bias",
}
DENSE = {"first.kernel": "first.weight", "first.bias": "first.bias"} | AFFINE
STATE = {"norm.mean": "norm.running_mean", "norm.var": "norm.running_var"}


class BatchNorm(nnx.Module):
    """Batch normalisation by Torch's rule, over all axes but the last.

        mean' = m mean + (1 - m) batch mean
        var'  = m var  + (1 - m) batch var n / (n - 1)

    ddof: of the running variance, Torch's 1. batch_ddof: of the batch's own, 0.
    """

    def __init__(
        self,
        width: int,
        *,
        rngs: nnx.Rngs | None = None,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        ddof: int = 1,
        batch_ddof: int = 0,
    ) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
        self.momentum, self.epsilon, self.ddof = momentum, epsilon, ddof
        self.batch_ddof, self.use_running_average = batch_ddof, False

    def __call__(self, X: jax.Array) -> jax.Array:
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(X.ndim - 1))
            mean, var = X.mean(axes), X.var(axes, ddof=self.batch_ddof)
            for kept, new in ((self.mean, mean), (self.var, X.var(axes, ddof=self.ddof))):
                kept[...] = jax.lax.stop_gradient(
                    self.momentum * kept[...] + (1 - self.momentum) * new
                )
        return (X - mean) / jnp.sqrt(var + self.epsilon) * self.scale[...] + self.bias[...]

    def set_view(self, use_running_average: bool | None = None) -> None:
        """As of nnx.BatchNorm: what nnx.view sets."""
        if use_running_average is not None:
            self.use_running_average = use_running_average


@seeded
def torch_mlp() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(5, WIDTH),
            norm=nn.BatchNorm1d(WIDTH),
            activation=nn.ReLU(),
            last=nn.Linear(WIDTH, CLASSES),
        )
    )


class MLP(nnx.Module):
    def __init__(self, norm: Callable[..., Any] = BatchNorm) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(5, WIDTH, rngs=rngs)
        self.norm = norm(WIDTH, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.last(nnx.relu(self.norm(self.first(X))))


@seeded
def torch_convnet() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(2, WIDTH, 3, bias=False),
            norm=nn.BatchNorm2d(WIDTH),
            activation=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            last=nn.Linear(WIDTH, CLASSES),
        )
    )


class ConvNet(nnx.Module):
    def __init__(self, norm_last: bool = False, **norm: Any) -> None:
        rngs = nnx.Rngs(0)
        self.norm_last = norm_last
        self.conv = nnx.Conv(2, WIDTH, (3, 3), padding="VALID", use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, rngs=rngs, **{"momentum": 0.9, "epsilon": 1e-5} | norm)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        H = self.conv(X.transpose(0, 2, 3, 1))
        H = self.norm(nnx.relu(H)) if self.norm_last else nnx.relu(self.norm(H))
        return self.last(H.mean((1, 2)))


def convnet_weights(torchs: dict[str, Any]) -> dict[str, Any]:
    return {
        "conv.kernel": torchs["conv.weight"].transpose(2, 3, 1, 0),
        "norm.scale": torchs["norm.weight"],
        "norm.bias": torchs["norm.bias"],
        "last.kernel": torchs["last.weight"].T,
        "last.bias": torchs["last.bias"],
    }


def torch_in_evaluation() -> torch.nn.Module:
    return torch_mlp().eval()


class InEvaluation(MLP):
    def __init__(self, use_running_average: bool = True, **norm: Any) -> None:
        super().__init__(partial(nnx.BatchNorm, **{"epsilon": 1e-5} | norm))
        self.norm.use_running_average = use_running_average


def mlp(name: str, level: str, says: str, leaf: str, **norm: Any) -> Wrong:
    return Wrong(name, level, says, leaf, {"jax": partial(MLP, partial(BatchNorm, **norm))})


CROSSED = {"norm.scale": "norm.bias", "norm.bias": "norm.weight"}

FAMILIES = (
    Port(
        "batch norm by Torch's rule",
        torch_mlp,
        MLP,
        classified(5),
        weights=DENSE,
        options={"state": STATE} | BATCH,
        wrong=(
            mlp(
                "momentum .99 for .9", "state", "Flax's default is kept", "norm.mean", momentum=0.99
            ),
            mlp(
                "momentum .1 for .9",
                "state",
                "Torch's convention, the weight of the new, is carried over",
                "norm.mean",
                momentum=0.1,
            ),
            mlp(
                "running variance divided by n",
                "state",
                "the batch's variance is kept as it is",
                "norm.var",
                ddof=0,
            ),
            mlp(
                "batch variance divided by n - 1",
                "logits",
                "one variance serves both purposes",
                "logits",
                batch_ddof=1,
            ),
            mlp("epsilon 1e-3 for 1e-5", "logits", "Keras's default", "logits", epsilon=1e-3),
            Wrong(
                "a statistic not carried over",
                "state",
                "the running variance starts at 1, whatever Torch's was",
                "norm.var",
                {"options": {"state": {"norm.mean": "norm.running_mean"}}},
            ),
        ),
    ),
    Port(
        "batch norm by Flax's rule, known to differ",
        torch_convnet,
        ConvNet,
        classified(2, 5, 6),
        weights=convnet_weights,
        options={
            "state": STATE,
            "known": (
                ("state", "norm.var", "Torch divides the running variance by n - 1, Flax by n"),
            ),
        }
        | BATCH,
        wrong=(
            Wrong(
                "momentum left at .99",
                "state",
                "Flax's default is kept, beside an accepted difference",
                "norm.mean",
                {"jax": partial(ConvNet, momentum=0.99)},
            ),
            Wrong(
                "norm after the activation",
                "logits",
                "two lines change places",
                "logits",
                {"jax": partial(ConvNet, norm_last=True)},
            ),
            Wrong(
                "epsilon 1e-3 for 1e-5",
                "logits",
                "Keras's default",
                "logits",
                {"jax": partial(ConvNet, epsilon=1e-3)},
            ),
            Wrong(
                "statistics frozen while training",
                "logits",
                "use_running_average stays on",
                "logits",
                {"jax": partial(ConvNet, use_running_average=True)},
            ),
        ),
    ),
    Port(
        "batch norm in evaluation",
        torch_in_evaluation,
        InEvaluation,
        unlabelled(5),
        weights=DENSE,
        options={"state": STATE} | BATCH,
        wrong=(
            Wrong(
                "the batch's statistics in evaluation",
                "logits",
                "Flax's layer is left in training",
                "logits",
                {"jax": partial(InEvaluation, use_running_average=False)},
            ),
            Wrong(
                "scale and bias swapped",
                "logits",
                "the table crosses scale and bias, which have one shape",
                "logits",
                {"weights": DENSE | CROSSED},
            ),
            Wrong(
                "epsilon 1e-3 for 1e-5",
                "logits",
                "Keras's default",
                "logits",
                {"jax": partial(InEvaluation, epsilon=1e-3)},
            ),
            Wrong(
                "statistics not carried over",
                "logits",
                "mean and variance stay at 0 and 1",
                "logits",
                {"options": {"state": {}}},
            ),
        ),
    ),
)
