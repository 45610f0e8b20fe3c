"""Llama of `transformers`, and its port to plain jnp.

A decoder with RMS norms, rotary places in halves, queries that share keys and values, and a gated
silu. Touvron et al. 2023; Ainslie et al. 2023 for shared keys; Su et al. 2021 for rotary places.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from jaxtyping import Array, Float, Int

Params = dict[str, Any]

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
FULL = {  # TinyLlama's, of 1.1 thousand million parameters, with 2 of its 22 layers
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


def torch_model(full: bool) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(FULL if full else SMALL), use_cache=False))


def jax_model(full: bool) -> tuple[Any, Params]:
    how = FULL if full else SMALL
    width, hidden = how["hidden_size"], how["intermediate_size"]
    heads, shared = how["num_attention_heads"], how["num_key_value_heads"]
    block = {
        "norm1": jnp.ones(width),
        "q": jnp.zeros((width, width)),
        "k": jnp.zeros((width, width // heads * shared)),
        "v": jnp.zeros((width, width // heads * shared)),
        "out": jnp.zeros((width, width)),
        "norm2": jnp.ones(width),
        "gate": jnp.zeros((width, hidden)),
        "up": jnp.zeros((width, hidden)),
        "down": jnp.zeros((hidden, width)),
    }
    params = {
        "tokens": jnp.zeros((how["vocab_size"], width)),
        "blocks": [block] * how["num_hidden_layers"],
        "norm": jnp.ones(width),
        "head": jnp.zeros((width, how["vocab_size"])),
    }
    return partial(llama, size=width // heads), params


def llama(p: Params, input_ids: Int[Array, "batch length"], *, size: int) -> dict[str, jax.Array]:
    """size: of a head."""
    H = p["tokens"][input_ids]
    for block in p["blocks"]:
        H = H + attention(block, rms_norm(block["norm1"], H), size)
        H = H + mlp(block, rms_norm(block["norm2"], H))
    return {"logits": rms_norm(p["norm"], H) @ p["head"]}


def attention(p: Params, H: Float[Array, "batch length width"], size: int) -> jax.Array:
    batch, length, _ = H.shape
    q, k, v = ((H @ p[name]).reshape(batch, length, -1, size) for name in "qkv")
    q, k = turned(q), turned(k)
    q = q.reshape(batch, length, k.shape[2], -1, size)  # neighbours share a key
    scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k) / jnp.sqrt(size)
    seen = jnp.tril(jnp.ones((length, length), bool))
    shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return jnp.einsum("bhgqk,bkhd->bqhgd", shares, v).reshape(H.shape) @ p["out"]


def turned(A: Float[Array, "batch length heads size"], base: float = 10000.0) -> jax.Array:
    """Rotary places: (A_i, A_(i + size/2)) by an angle of place / base^(2 i / size)."""
    _, length, _, size = A.shape
    speeds = base ** (-jnp.arange(0, size, 2) / size)
    angles = (jnp.arange(length)[:, None] * speeds)[:, None]
    first, second = jnp.split(A, 2, -1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def mlp(p: Params, H: Float[Array, "batch length width"]) -> jax.Array:
    return (jax.nn.silu(H @ p["gate"]) * (H @ p["up"])) @ p["down"]


def rms_norm(scale: Float[Array, "width"], H: jax.Array) -> jax.Array:
    return H * jax.lax.rsqrt((H**2).mean(-1, keepdims=True) + 1e-6) * scale


def weights(t: dict[str, np.ndarray]) -> Params:
    """Torch's parameters as JAX's tree; nn.Linear is [out, in]."""

    def block(at: str) -> Params:
        mlp, attention = f"{at}.mlp", f"{at}.self_attn"
        return {
            "norm1": t[f"{at}.input_layernorm.weight"],
            **{name: t[f"{attention}.{name}_proj.weight"].T for name in "qkv"},
            "out": t[f"{attention}.o_proj.weight"].T,
            "norm2": t[f"{at}.post_attention_layernorm.weight"],
            **{name: t[f"{mlp}.{name}_proj.weight"].T for name in ("gate", "up", "down")},
        }

    count = sum(name.endswith("input_layernorm.weight") for name in t)
    return {
        "tokens": t["model.embed_tokens.weight"],
        "blocks": [block(f"model.layers.{i}") for i in range(count)],
        "norm": t["model.norm.weight"],
        "head": t["lm_head.weight"].T,
    }


def data(full: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each token's target is the next one."""
    count, length = (2, 128) if full else (12, 8)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, (FULL if full else SMALL)["vocab_size"], (count, length + 1))
    return {"input_ids": ids[:, :-1].astype(np.int32)}, ids[:, 1:].astype(np.int32)


OPTIONS = {
    "weights": weights,
    "loss": "cross_entropy",
    "optimizer": (lambda p: torch.optim.AdamW(p, 1e-3), optax.adamw(1e-3, weight_decay=0.01)),
}
ERRORS = {
    "epsilon 1e-5": ("+ 1e-6", "+ 1e-5"),
    "turned the other way": ("first * cos - second * sin", "first * cos + second * sin"),
    "queries share keys at a distance": (
        "q.reshape(batch, length, k.shape[2], -1, size)",
        "q.reshape(batch, length, -1, k.shape[2], size).swapaxes(2, 3)",
    ),
}
