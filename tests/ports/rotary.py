"""Attention with rotary embeddings: interleaved, as in Meta's Llama, or in halves, as in NeoX."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from attention import linear, params_of
from drawn import BATCH, CLASSES, COUNT, seeded
from port import Port, Wrong
from torch import nn

WIDTH, HEADS, SIZE, LENGTH, BASE = 8, 2, 4, 5, 10_000.0

Arrays = dict[str, np.ndarray]


class Rotary(nn.Module):
    """Each pair of neighbours in a query or key is turned by place * base^(-2i / size)."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("q", "k", "v"):
            setattr(self, name, nn.Linear(WIDTH, WIDTH, bias=False))
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        def heads(layer: nn.Module) -> torch.Tensor:
            return layer(X).unflatten(-1, (HEADS, SIZE)).transpose(1, 2)

        def turned(A: torch.Tensor) -> torch.Tensor:
            even, odd = A[..., ::2], A[..., 1::2]
            both = (even * cos - odd * sin, even * sin + odd * cos)
            return torch.stack(both, -1).flatten(-2)

        rates = BASE ** (-torch.arange(0, SIZE, 2, dtype=X.dtype) / SIZE)
        angles = torch.arange(LENGTH, dtype=X.dtype)[:, None] * rates
        cos, sin = angles.cos(), angles.sin()
        H = nn.functional.scaled_dot_product_attention(
            turned(heads(self.q)), turned(heads(self.k)), heads(self.v), is_causal=True
        )
        return self.last(H.transpose(1, 2).flatten(-2))


torch_model = seeded(Rotary)


def converted(t: Arrays, halved: str = "") -> dict[str, Any]:
    """halved: names of the projections of which each head's even rows come first."""

    def rows(name: str) -> np.ndarray:
        W = t[f"{name}.weight"]
        if name not in halved:
            return W.T
        return W.reshape(HEADS, SIZE // 2, 2, WIDTH).swapaxes(1, 2).reshape(WIDTH, WIDTH).T

    last = {"W": t["last.weight"].T, "b": t["last.bias"]}
    return {name: rows(name) for name in "qkv"} | {"last": last}


def interleaved(A: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    even, odd = A[..., ::2], A[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(A.shape)


def in_halves(A: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    left, right = jnp.split(A, 2, -1)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], -1)


def apply(
    params: Any,
    X: jax.Array,
    *,
    turn: Any = interleaved,
    base: float = BASE,
    exponent: int = 2,
    sign: int = 1,
    late: int = 0,
    turned: str = "qk",
) -> jax.Array:
    """late: how many places the queries are ahead of the keys. turned: what is rotated."""
    rates = base ** (-exponent * jnp.arange(SIZE // 2, dtype=X.dtype) / SIZE)

    def project(name: str) -> jax.Array:
        A = (X @ params[name]).reshape(len(X), LENGTH, HEADS, SIZE).swapaxes(1, 2)
        places = jnp.arange(LENGTH, dtype=X.dtype) + (late if name == "q" else 0)
        angles = sign * places[:, None] * rates
        return turn(A, jnp.cos(angles), jnp.sin(angles)) if name in turned else A

    q, k, v = map(project, "qkv")
    scores = jnp.einsum("bhid,bhjd->bhij", q, k) * SIZE**-0.5
    scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -jnp.inf)
    H = jnp.einsum("bhij,bhjd->bihd", jax.nn.softmax(scores), v)
    return linear(params["last"], H.reshape(X.shape))


def jax_model(convert: Any = converted, **how: Any) -> Any:
    return partial(apply, **how), params_of(torch_model, convert)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((COUNT, LENGTH, WIDTH)).astype(np.float32)
    return X, rng.integers(0, CLASSES, (COUNT, LENGTH)).astype(np.int32)


def wrong(name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(jax_model, **how)})


def rows(halved: str, name: str, says: str) -> Wrong:
    convert = partial(converted, halved=halved)
    return Wrong(name, "logits", says, "logits", {"weights": convert})


FAMILIES = (
    Port(
        "rotary embedding, interleaved",
        torch_model,
        jax_model,
        data,
        weights=converted,
        options=BATCH,
        wrong=(
            wrong("in halves", "halves are turned, with weights for neighbours", turn=in_halves),
            wrong("base 1000", "the base of the rates", base=1000.0),
            wrong("exponent i for 2i", "the rates fall half as fast", exponent=1),
            wrong("turned the other way", "the sine has the other sign", sign=-1),
            wrong("values turned too", "all three projections are rotated", turned="qkv"),
            wrong("keys not turned", "queries alone are rotated", turned="q"),
            wrong("queries one place late", "a cache's length counts the token itself", late=1),
        ),
    ),
    Port(
        "rotary embedding, in halves with permuted weights",
        torch_model,
        partial(jax_model, partial(converted, halved="qk"), turn=in_halves),
        data,
        weights=partial(converted, halved="qk"),
        options=BATCH,
        wrong=(
            rows("", "rows not permuted", "the original's weights are taken as they are"),
            rows("q", "queries' rows alone permuted", "the keys' are forgotten"),
            rows("qkv", "values' rows permuted too", "one loop over all three projections"),
            wrong(
                "neighbours turned",
                "with weights for halves",
                convert=partial(converted, halved="qk"),
            ),
        ),
    ),
)
