"""Causal self-attention, hand-written, against nn.MultiheadAttention."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from drawn import BATCH, CLASSES, COUNT, seeded
from port import Port, Wrong
from torch import nn

WIDTH, HEADS, LENGTH = 8, 2, 4
SIZE = WIDTH // HEADS  # of a head

Arrays = dict[str, np.ndarray]


class Attention(nn.Module):
    """A class for every token, from the tokens up to it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        blocked = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        H, _ = self.attention(X, X, X, attn_mask=blocked, need_weights=False)
        return self.last(H)


torch_model = seeded(Attention)


def converted(t: Arrays, order: str = "qkv") -> dict[str, dict[str, np.ndarray]]:
    """Torch packs the three projections below each other, queries first: [3 width, width]."""
    kernels = np.split(t["attention.in_proj_weight"], 3)
    biases = np.split(t["attention.in_proj_bias"], 3)
    packed = {n: {"W": W.T, "b": b} for n, W, b in zip(order, kernels, biases, strict=True)}
    out = {"W": t["attention.out_proj.weight"].T, "b": t["attention.out_proj.bias"]}
    return packed | {"out": out, "last": {"W": t["last.weight"].T, "b": t["last.bias"]}}


def params_of(make: Callable[[], nn.Module], convert: Callable[[Arrays], Any]) -> Any:
    """The JAX parameters that a conversion script wrote."""
    arrays = {n: p.detach().numpy() for n, p in make().named_parameters()}
    return jax.tree.map(jnp.asarray, convert(arrays))


def linear(layer: Any, X: jax.Array) -> jax.Array:
    return X @ layer["W"] + layer["b"]


def heads_apart(X: jax.Array) -> jax.Array:
    """[batch, length, width] -> [batch, head, length, size]; a head is a block of columns."""
    return X.reshape(*X.shape[:2], HEADS, SIZE).swapaxes(1, 2)


def heads_interleaved(X: jax.Array) -> jax.Array:
    return X.reshape(*X.shape[:2], SIZE, HEADS).transpose(0, 3, 1, 2)


def heads_untransposed(X: jax.Array) -> jax.Array:
    return X.reshape(len(X), HEADS, X.shape[1], SIZE)


def softmax_of_allowed(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    return jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf))


def masked_afterwards(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores) * allowed


def softmax_over_queries(scores: jax.Array, allowed: jax.Array) -> jax.Array:
    return jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf), axis=-2)


def apply(
    params: Any,
    X: jax.Array,
    *,
    scale: float = SIZE**-0.5,
    split: Callable[[jax.Array], jax.Array] = heads_apart,
    weigh: Callable[[jax.Array, jax.Array], jax.Array] = softmax_of_allowed,
    ahead: int = 0,
    biased: bool = True,
    detached: bool = False,
) -> jax.Array:
    """A token sees those up to `ahead` after it. biased: the output has its bias. detached: the
    keys pass no gradient."""
    q, k, v = (split(linear(params[name], X)) for name in "qkv")
    k = jax.lax.stop_gradient(k) if detached else k
    scores = jnp.einsum("bhid,bhjd->bhij", q, k) * scale
    allowed = jnp.tril(jnp.ones((LENGTH, LENGTH), bool), ahead)
    H = jnp.einsum("bhij,bhjd->bhid", weigh(scores, allowed), v)
    H = H.swapaxes(1, 2).reshape(X.shape) @ params["out"]["W"]
    return linear(params["last"], H + params["out"]["b"] if biased else H)


def jax_model(**how: Any) -> Any:
    return partial(apply, **how), params_of(torch_model, converted)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((COUNT, LENGTH, WIDTH)).astype(np.float32)
    return X, rng.integers(0, CLASSES, (COUNT, LENGTH)).astype(np.int32)


def wrong(name: str, says: str, level: str = "logits", leaf: str = "logits", **how: Any) -> Wrong:
    return Wrong(name, level, says, leaf, {"jax": partial(jax_model, **how)})


def packed(order: str, says: str) -> Wrong:
    change = {"weights": partial(converted, order=order)}
    return Wrong(f"packed as {order} for qkv", "logits", says, "logits", change)


FAMILIES = (
    Port(
        "causal attention",
        torch_model,
        jax_model,
        data,
        weights=converted,
        options=BATCH,
        wrong=(
            wrong("scaled by the model's width", "1/sqrt(8) for 1/sqrt(4)", scale=WIDTH**-0.5),
            wrong("not scaled", "the scale is left out", scale=1.0),
            wrong(
                "masked after the softmax",
                "weights of later tokens are set to 0, and the others don't sum to 1",
                weigh=masked_afterwards,
            ),
            wrong("sees one token ahead", "the causal mask is off by one", ahead=1),
            wrong(
                "heads interleaved",
                "width is taken for [size, head], it is [head, size]",
                split=heads_interleaved,
            ),
            wrong(
                "heads not transposed",
                "[batch, length, width] is reshaped to [batch, head, length, size] in one go",
                split=heads_untransposed,
            ),
            wrong(
                "softmax over the queries",
                "the axis is the last but one",
                weigh=softmax_over_queries,
            ),
            wrong("no bias of the output", "it is loaded and never added", biased=False),
            wrong(
                "keys detached",
                "keys come from a cache that passes no gradient",
                "gradients",
                "k.W",
                detached=True,
            ),
            packed("kqv", "keys are taken for queries"),
            packed("qvk", "values are taken for keys"),
        ),
    ),
)
