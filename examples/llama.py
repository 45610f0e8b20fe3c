"""Llama of `transformers`, and its port to Flax NNX.

A decoder with RMS norms, rotary places in halves, queries that share keys and values, a gated silu,
and either a head of its own or the table of tokens again. Touvron et al. 2023; Ainslie et al. 2023
for shared keys; Su et al. 2021 for rotary places.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from jaxtyping import Array, Float, Int

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
FULL = {  # SmolLM-135M; Meta's own begin at nine times that
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def torch_model(full: bool) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(FULL if full else SMALL), use_cache=False))


def jax_model(full: bool) -> nnx.Module:
    return Llama(FULL if full else SMALL, rngs=nnx.Rngs(0))


class Layer(nnx.Module):
    def __init__(self, how: dict[str, Any], *, rngs: nnx.Rngs) -> None:
        width, hidden, self.heads = (
            how[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")
        )
        shared = width // self.heads * how["num_key_value_heads"]
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        norm = partial(nnx.RMSNorm, epsilon=how["rms_norm_eps"], rngs=rngs)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.q, self.out = linear(width, width), linear(width, width)
        self.k, self.v = linear(width, shared), linear(width, shared)
        self.gate, self.up = linear(width, hidden), linear(width, hidden)
        self.down = linear(hidden, width)

    def __call__(self, H: Float[Array, "batch length width"], angles: jax.Array) -> jax.Array:
        H = H + self.attend(self.norm1(H), angles)
        X = self.norm2(H)
        return H + self.down(nnx.silu(self.gate(X)) * self.up(X))

    def attend(self, H: jax.Array, angles: Float[Array, "length half"]) -> jax.Array:
        batch, length, width = H.shape
        size = width // self.heads
        q, k, v = (f(H).reshape(batch, length, -1, size) for f in (self.q, self.k, self.v))
        q, k = turned(q, angles), turned(k, angles)
        q = q.reshape(batch, length, k.shape[2], -1, size)  # neighbours share a key
        scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k) / jnp.sqrt(size)
        seen = jnp.tril(jnp.ones((length, length), bool))
        shares = nnx.softmax(jnp.where(seen, scores, -jnp.inf))
        return self.out(jnp.einsum("bhgqk,bkhd->bqhgd", shares, v).reshape(H.shape))


class Llama(nnx.Module):
    def __init__(self, how: dict[str, Any], *, rngs: nnx.Rngs) -> None:
        vocabulary, width = how["vocab_size"], how["hidden_size"]
        size = width // how["num_attention_heads"]
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.speeds = nnx.Cache(1 / 10000 ** (jnp.arange(0, size, 2) / size))
        self.layers = nnx.List(Layer(how, rngs=rngs) for _ in range(how["num_hidden_layers"]))
        self.norm = nnx.RMSNorm(width, epsilon=how["rms_norm_eps"], rngs=rngs)
        self.tied = how["tie_word_embeddings"]
        if not self.tied:
            self.head = nnx.Linear(width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "batch length"]) -> dict[str, jax.Array]:
        H = self.tokens(input_ids)
        angles = jnp.arange(input_ids.shape[1])[:, None] * self.speeds[...]
        for layer in self.layers:
            H = layer(H, angles)
        H = self.norm(H)
        return {"logits": self.tokens.attend(H) if self.tied else self.head(H)}


def turned(A: Float[Array, "batch length heads size"], angles: jax.Array) -> jax.Array:
    """Rotary places: each (A_i, A_(i + size/2)) by its angle."""
    first, second = jnp.split(A, 2, -1)
    cos, sin = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def weights(t: dict[str, np.ndarray]) -> dict[str, Any]:
    """Torch's parameters as JAX's tree; nn.Linear is [out, in]."""

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": t[f"{name}.weight"].T}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": t[f"{name}.weight"]}

    def layer(at: str) -> dict[str, Any]:
        of = {"q": "q", "k": "k", "v": "v", "out": "o"}
        return {
            "norm1": norm(f"{at}.input_layernorm"),
            **{ours: dense(f"{at}.self_attn.{theirs}_proj") for ours, theirs in of.items()},
            "norm2": norm(f"{at}.post_attention_layernorm"),
            **{name: dense(f"{at}.mlp.{name}_proj") for name in ("gate", "up", "down")},
        }

    count = sum(name.endswith("input_layernorm.weight") for name in t)
    return {
        "tokens": {"embedding": t["model.embed_tokens.weight"]},
        "layers": {i: layer(f"model.layers.{i}") for i in range(count)},
        "norm": norm("model.norm"),
        **({"head": dense("lm_head")} if "lm_head.weight" in t else {}),
    }


def data(full: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each token's target is the next one."""
    count, length = (2, 32) if full else (12, 8)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, (FULL if full else SMALL)["vocab_size"], (count, length + 1))
    return {"input_ids": ids[:, :-1].astype(np.int32)}, ids[:, 1:].astype(np.int32)


OPTIONS = {
    "weights": weights,
    "state": {"speeds": "model.rotary_emb.inv_freq"},
    "loss": "cross_entropy",
    "optimizer": (lambda p: torch.optim.AdamW(p, 1e-3), optax.adamw(1e-3, weight_decay=0.01)),
}
ERRORS = {
    "gate and up swapped": (
        "nnx.silu(self.gate(X)) * self.up(X)",
        "self.gate(X) * nnx.silu(self.up(X))",
    ),
    "turned the other way": ("first * cos - second * sin", "first * cos + second * sin"),
    "not causal": ("jnp.where(seen, scores, -jnp.inf)", "scores"),
}
