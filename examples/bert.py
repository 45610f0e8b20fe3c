"""BERT of `transformers` with a classifier, and its port to Flax NNX.

An encoder with the norms behind each part, a mask of what is padding, two kinds of segments, erf's
gelu, and a class from the first token. Devlin et al. 2018.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
}
FULL = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}
CLASSES = 3


def torch_model(full: bool) -> torch.nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    how = FULL if full else SMALL
    return BertForSequenceClassification(BertConfig(**how, num_labels=CLASSES))


def jax_model(full: bool) -> nnx.Module:
    return Bert(FULL if full else SMALL, rngs=nnx.Rngs(0))


class Layer(nnx.Module):
    def __init__(self, width: int, hidden: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.q, self.k, self.v, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.heads = heads

    def __call__(
        self, H: Float[Array, "batch length width"], there: Bool[Array, "batch length"]
    ) -> jax.Array:
        H = self.norm1(H + self.out(self.attend(H, there)))
        return self.norm2(H + self.down(nnx.gelu(self.up(H), approximate=False)))

    def attend(self, H: jax.Array, there: jax.Array) -> jax.Array:
        split = (*H.shape[:2], self.heads, -1)
        q, k, v = (part(H).reshape(split) for part in (self.q, self.k, self.v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
        shares = nnx.softmax(jnp.where(there[:, None, None, :], scores, -jnp.inf))
        return jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(H.shape)


class Bert(nnx.Module):
    def __init__(self, how: dict[str, int], *, rngs: nnx.Rngs) -> None:
        width, hidden, heads = (
            how[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")
        )
        self.tokens = nnx.Embed(how["vocab_size"], width, rngs=rngs)
        self.places = nnx.Embed(how["max_position_embeddings"], width, rngs=rngs)
        self.segments = nnx.Embed(2, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-12, rngs=rngs)
        self.layers = nnx.List(
            Layer(width, hidden, heads, rngs=rngs) for _ in range(how["num_hidden_layers"])
        )
        self.pooler = nnx.Linear(width, width, rngs=rngs)
        self.classifier = nnx.Linear(width, CLASSES, rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array, "batch length"],
        attention_mask: Int[Array, "batch length"],
        token_type_ids: Int[Array, "batch length"],
    ) -> dict[str, jax.Array]:
        places = self.places(jnp.arange(input_ids.shape[1]))
        H = self.norm(self.tokens(input_ids) + self.segments(token_type_ids) + places)
        for layer in self.layers:
            H = layer(H, attention_mask == 1)
        return {"logits": self.classifier(jnp.tanh(self.pooler(H[:, 0])))}


def weights(t: dict[str, np.ndarray]) -> dict[str, Any]:
    """Torch's parameters as JAX's tree; nn.Linear is [out, in]."""

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": t[f"{name}.weight"].T, "bias": t[f"{name}.bias"]}

    def layer(at: str) -> dict[str, Any]:
        of = {"q": "query", "k": "key", "v": "value"}
        return {
            **{ours: dense(f"{at}.attention.self.{theirs}") for ours, theirs in of.items()},
            "out": dense(f"{at}.attention.output.dense"),
            "norm1": norm(f"{at}.attention.output.LayerNorm"),
            "up": dense(f"{at}.intermediate.dense"),
            "down": dense(f"{at}.output.dense"),
            "norm2": norm(f"{at}.output.LayerNorm"),
        }

    tables = {"tokens": "word", "places": "position", "segments": "token_type"}
    count = sum(name.endswith("intermediate.dense.bias") for name in t)
    return {
        **{
            ours: {"embedding": t[f"bert.embeddings.{theirs}_embeddings.weight"]}
            for ours, theirs in tables.items()
        },
        "norm": norm("bert.embeddings.LayerNorm"),
        "layers": {i: layer(f"bert.encoder.layer.{i}") for i in range(count)},
        "pooler": dense("bert.pooler.dense"),
        "classifier": dense("classifier"),
    }


def data(full: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Texts of two segments and of several lengths, filled up with padding."""
    how, (count, length) = (FULL, (2, 32)) if full else (SMALL, (12, 8))
    rng = np.random.default_rng(0)
    at, size = np.arange(length), rng.integers(length // 2, length + 1, (count, 1))
    ids = np.where(at < size, rng.integers(1, how["vocab_size"], (count, length)), 0)
    found = {"input_ids": ids, "attention_mask": at < size, "token_type_ids": at >= size // 2}
    labels = rng.integers(0, CLASSES, count)
    return {name: array.astype(np.int32) for name, array in found.items()}, labels.astype(np.int32)


OPTIONS = {
    "weights": weights,
    "loss": "cross_entropy",
    "mode": "eval",  # as trained, but for dropout
    "optimizer": (lambda p: torch.optim.AdamW(p, 1e-3), optax.adamw(1e-3, weight_decay=0.01)),
}
ERRORS = {
    "tanh's gelu": ("approximate=False", "approximate=True"),
    "padding seen": ("jnp.where(there[:, None, None, :], scores, -jnp.inf)", "scores"),
    "residual of the input": ("self.norm2(H + self.down", "self.norm2(self.down"),
}
