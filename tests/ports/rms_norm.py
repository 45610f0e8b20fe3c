"""RMS normalisation and a SwiGLU block, as in Llama, as (function, params)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from drawn import BATCH, CLASSES, classified, seeded
from port import Port, Wrong
from torch import nn

WIDTH, HIDDEN = 5, 6
TABLE = {
    "norm.scale": "norm.weight",
    "gate.kernel": "gate.weight",
    "up.kernel": "up.weight",
    "down.kernel": "down.weight",
    "head.kernel": "head.weight",
    "head.bias": "head.bias",
}


class TorchBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH, eps=1e-5)
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = self.norm(X)
        return self.head(X + self.down(nn.functional.silu(self.gate(H)) * self.up(H)))


def rms_norm(
    X: jax.Array, epsilon: float = 1e-5, outside: bool = False, centred: bool = False
) -> jax.Array:
    """X / sqrt(mean(X^2) + epsilon), over the last axis."""
    if centred:
        X = X - X.mean(-1, keepdims=True)
    square = (X * X).mean(-1, keepdims=True)
    return X / (jnp.sqrt(square) + epsilon if outside else jnp.sqrt(square + epsilon))


def block(
    params: Any,
    X: jax.Array,
    norm: Callable[[jax.Array], jax.Array] = rms_norm,
    offset: float = 0.0,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu,
    around_norm: bool = False,
) -> jax.Array:
    """offset: added to the scale. around_norm: the residual starts behind the norm."""
    H = norm(X) * (offset + params["norm"]["scale"])
    gated = activation(H @ params["gate"]["kernel"]) * (H @ params["up"]["kernel"])
    out = (H if around_norm else X) + gated @ params["down"]["kernel"]
    return out @ params["head"]["kernel"] + params["head"]["bias"]


def jax_block(**how: Any) -> Any:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    params = {
        "norm": {"scale": zeros(WIDTH)},
        "gate": {"kernel": zeros(WIDTH, HIDDEN)},
        "up": {"kernel": zeros(WIDTH, HIDDEN)},
        "down": {"kernel": zeros(HIDDEN, WIDTH)},
        "head": {"kernel": zeros(WIDTH, CLASSES), "bias": zeros(CLASSES)},
    }
    return partial(block, **how), params


def wrong(name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(jax_block, **how)})


FAMILIES = (
    Port(
        "RMS norm and SwiGLU",
        seeded(TorchBlock),
        jax_block,
        classified(WIDTH),
        weights=TABLE,
        options=BATCH,
        wrong=(
            wrong("epsilon 1e-6", "another model's", norm=partial(rms_norm, epsilon=1e-6)),
            wrong(
                "epsilon outside the root",
                "epsilon is added to the root mean square",
                norm=partial(rms_norm, outside=True),
            ),
            wrong("scale plus 1", "Gemma's convention with Llama's weights", offset=1.0),
            wrong(
                "mean taken off", "a layer norm without bias", norm=partial(rms_norm, centred=True)
            ),
            wrong("gelu for silu", "GeGLU", activation=partial(jax.nn.gelu, approximate=False)),
            Wrong(
                "gate and up swapped",
                "logits",
                "two kernels of one shape change places in the table",
                "logits",
                {
                    "weights": TABLE | {"gate.kernel": "up.weight", "up.kernel": "gate.weight"},
                },
            ),
            wrong("residual from behind the norm", "post-norm for pre-norm", around_norm=True),
        ),
    ),
)
