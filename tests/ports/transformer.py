"""nn.TransformerEncoderLayer, after and before its norms, against JAX written by hand."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from attention import linear, params_of
from drawn import BATCH, CLASSES, classified, seeded
from port import Port, Wrong
from torch import nn

WIDTH, HEADS, HIDDEN, LENGTH = 16, 2, 12, 3

Arrays = dict[str, np.ndarray]


class Encoder(nn.Module):
    """One layer, and a class from the mean over its tokens."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, batch_first=True, **how
        )
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(X).mean(1))


after = seeded(Encoder)
before = seeded(partial(Encoder, norm_first=True, activation="gelu"))
dropping = seeded(lambda: _dropping().eval())


def _dropping() -> nn.Module:
    encoder = Encoder()
    encoder.layer.dropout1.p = encoder.layer.dropout2.p = encoder.layer.dropout.p = 0.5
    return encoder


def converted(t: Arrays, norms: tuple[str, str] = ("norm1", "norm2")) -> dict[str, Any]:
    def dense(name: str) -> Arrays:
        return {"W": t[f"{name}.weight"].T, "b": t[f"{name}.bias"]}

    def norm(name: str) -> Arrays:
        return {"scale": t[f"layer.{name}.weight"], "bias": t[f"layer.{name}.bias"]}

    qkv = {"W": t["layer.self_attn.in_proj_weight"].T, "b": t["layer.self_attn.in_proj_bias"]}
    return {
        "qkv": qkv,
        "out": dense("layer.self_attn.out_proj"),
        "norm1": norm(norms[0]),
        "up": dense("layer.linear1"),
        "down": dense("layer.linear2"),
        "norm2": norm(norms[1]),
        "last": dense("last"),
    }


def attend(params: Any, X: jax.Array) -> jax.Array:
    shape = (*X.shape[:2], HEADS, WIDTH // HEADS)
    q, k, v = (part.reshape(shape) for part in jnp.split(linear(params["qkv"], X), 3, -1))
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) / jnp.sqrt(WIDTH // HEADS).astype(X.dtype)
    H = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), v)
    return linear(params["out"], H.reshape(X.shape))


def layer_norm(p: Any, X: jax.Array, epsilon: float = 1e-5, ddof: int = 0) -> jax.Array:
    centred = X - X.mean(-1, keepdims=True)
    var = X.var(-1, ddof=ddof, keepdims=True)
    return centred * jax.lax.rsqrt(var + epsilon) * p["scale"] + p["bias"]


def rms_norm(p: Any, X: jax.Array) -> jax.Array:
    return X * jax.lax.rsqrt((X**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def norm_first(params: Any, X: jax.Array, mlp: Callable, norm: Callable) -> jax.Array:
    X = X + attend(params, norm(params["norm1"], X))
    return X + mlp(norm(params["norm2"], X))


def norm_last(params: Any, X: jax.Array, mlp: Callable, norm: Callable) -> jax.Array:
    X = norm(params["norm1"], X + attend(params, X))
    return norm(params["norm2"], X + mlp(X))


def residual_of_the_norm(params: Any, X: jax.Array, mlp: Callable, norm: Callable) -> jax.Array:
    X = norm(params["norm1"], X)
    X = X + attend(params, X)
    H = norm(params["norm2"], X)
    return H + mlp(H)


def no_residual(params: Any, X: jax.Array, mlp: Callable, norm: Callable) -> jax.Array:
    X = norm(params["norm1"], X + attend(params, X))
    return norm(params["norm2"], mlp(X))


def apply(
    params: Any,
    X: jax.Array,
    *,
    order: Callable[..., jax.Array] = norm_last,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    norm: Callable[..., jax.Array] = layer_norm,
    keep: float = 1.0,
) -> jax.Array:
    """keep: what is left of the hidden units, as dropout's mean."""

    def mlp(H: jax.Array) -> jax.Array:
        return linear(params["down"], activation(linear(params["up"], H)) * keep)

    return linear(params["last"], order(params, X, mlp, norm).mean(1))


exact_gelu = partial(jax.nn.gelu, approximate=False)
PRE = {"order": norm_first, "activation": exact_gelu}


def jax_model(of: Callable[[], nn.Module], **how: Any) -> Any:
    return partial(apply, **how), params_of(of, converted)


def wrong(name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(jax_model, after, **how)})


def wrong_before(name: str, says: str, **how: Any) -> Wrong:
    change = {"jax": partial(jax_model, before, **(PRE | how))}
    return Wrong(name, "logits", says, "logits", change)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=3e-3)


NORMS_SWAPPED = Wrong(
    "norms swapped",
    "logits",
    "norm1 of the port is norm2 of the original",
    "logits",
    {"weights": partial(converted, norms=("norm2", "norm1"))},
)
FAMILIES = (
    Port(
        "encoder layer",
        after,
        partial(jax_model, after),
        classified(LENGTH, WIDTH),
        weights=converted,
        options=BATCH,
        wrong=(
            wrong("norm first", "as newer transformers do", order=norm_first),
            wrong("gelu for relu", "as newer transformers do", activation=exact_gelu),
            wrong("silu for relu", "as newer transformers do", activation=jax.nn.silu),
            wrong("epsilon 1e-6", "Flax's default", norm=partial(layer_norm, epsilon=1e-6)),
            wrong("variance of n - 1", "torch.std's rule", norm=partial(layer_norm, ddof=1)),
            wrong("mean left in", "RMS norm for layer norm", norm=rms_norm),
            wrong("second residual left out", "one `X +` is forgotten", order=no_residual),
            NORMS_SWAPPED,
        ),
    ),
    Port(
        "encoder layer, norm first and gelu",
        before,
        partial(jax_model, before, **PRE),
        classified(LENGTH, WIDTH),
        weights=converted,
        # A key's bias moves all scores of a row alike: its gradient is 0 but for rounding, which
        # Adam divides by itself.
        options=BATCH | {"optimizer": (adamw, optax.adamw(3e-3, weight_decay=1e-2))},
        wrong=(
            wrong_before("norm last", "as the first transformer did", order=norm_last),
            wrong_before("tanh gelu", "jax.nn.gelu's default", activation=jax.nn.gelu),
            wrong_before("residual of the norm", "X is overwritten", order=residual_of_the_norm),
            Wrong(
                "decay 1e-4 for 1e-2",
                "step",
                "optax's default",
                "up.W",
                {"options": {"optimizer": (adamw, optax.adamw(3e-3))}},
            ),
        ),
    ),
    Port(
        "encoder layer with dropout, in eval mode",
        dropping,
        partial(jax_model, dropping),
        lambda: (classified(LENGTH, WIDTH)()[0], None),
        weights=converted,
        options=BATCH,
        wrong=(
            Wrong(
                "dropout's mean applied",
                "logits",
                "hidden units are scaled by 1 - p in evaluation, as before inverted dropout",
                "logits",
                {"jax": partial(jax_model, dropping, keep=0.5)},
            ),
            Wrong(
                "epsilon 1e-12",
                "logits",
                "BERT's for Torch's",
                "logits",
                {"jax": partial(jax_model, dropping, norm=partial(layer_norm, epsilon=1e-12))},
            ),
            NORMS_SWAPPED,
        ),
    ),
)
