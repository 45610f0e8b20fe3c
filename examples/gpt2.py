"""GPT-2 of `transformers`, and its port to plain jnp: a function and a tree of arrays.

A decoder with the norms before each part, learnt places, tanh's gelu, and the table of tokens as
its output layer. Radford et al. 2019; the weights' layout is that of OpenAI's code, [in, out].
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

SMALL = {"vocab_size": 50, "n_positions": 8, "n_embd": 32, "n_layer": 2, "n_head": 4}
SMALL |= {"bos_token_id": 0, "eos_token_id": 0}
FULL = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}


def torch_model(full: bool) -> torch.nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**(FULL if full else SMALL), use_cache=False))


def jax_model(full: bool) -> tuple[Any, Params]:
    how = FULL if full else SMALL
    width, layers = how["n_embd"], how["n_layer"]
    norm = {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    def dense(inputs: int, outputs: int) -> Params:
        return {"W": jnp.zeros((inputs, outputs)), "b": jnp.zeros(outputs)}

    block = {
        "norm1": norm,
        "qkv": dense(width, 3 * width),
        "out": dense(width, width),
        "norm2": norm,
        "up": dense(width, 4 * width),
        "down": dense(4 * width, width),
    }
    params = {
        "tokens": jnp.zeros((how["vocab_size"], width)),
        "places": jnp.zeros((how["n_positions"], width)),
        "blocks": [block] * layers,
        "norm": norm,
    }
    return partial(gpt2, heads=how["n_head"]), params


def gpt2(p: Params, input_ids: Int[Array, "batch length"], *, heads: int) -> dict[str, jax.Array]:
    H = p["tokens"][input_ids] + p["places"][: input_ids.shape[1]]
    for block in p["blocks"]:
        H = H + attention(block, layer_norm(block["norm1"], H), heads)
        H = H + mlp(block, layer_norm(block["norm2"], H))
    return {"logits": layer_norm(p["norm"], H) @ p["tokens"].T}


def attention(p: Params, H: Float[Array, "batch length width"], heads: int) -> jax.Array:
    batch, length, width = H.shape
    q, k, v = jnp.split(linear(p["qkv"], H).reshape(batch, length, 3 * heads, -1), 3, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(width // heads)
    seen = jnp.tril(jnp.ones((length, length), bool))
    shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
    return linear(p["out"], jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(H.shape))


def mlp(p: Params, H: Float[Array, "batch length width"]) -> jax.Array:
    return linear(p["down"], jax.nn.gelu(linear(p["up"], H), approximate=True))


def linear(p: Params, H: jax.Array) -> jax.Array:
    return H @ p["W"] + p["b"]


def layer_norm(p: Params, H: jax.Array) -> jax.Array:
    centred = H - H.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(H.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def weights(t: dict[str, np.ndarray]) -> Params:
    """Torch's parameters as JAX's tree; transformers' Conv1D is [in, out] as well."""

    def norm(name: str) -> Params:
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def dense(name: str) -> Params:
        return {"W": t[f"{name}.weight"], "b": t[f"{name}.bias"]}

    def block(h: str) -> Params:
        return {
            "norm1": norm(f"{h}.ln_1"),
            "qkv": dense(f"{h}.attn.c_attn"),
            "out": dense(f"{h}.attn.c_proj"),
            "norm2": norm(f"{h}.ln_2"),
            "up": dense(f"{h}.mlp.c_fc"),
            "down": dense(f"{h}.mlp.c_proj"),
        }

    count = sum(name.endswith("ln_1.bias") for name in t)
    return {
        "tokens": t["transformer.wte.weight"],
        "places": t["transformer.wpe.weight"],
        "blocks": [block(f"transformer.h.{i}") for i in range(count)],
        "norm": norm("transformer.ln_f"),
    }


def data(full: bool) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Each token's target is the next one."""
    how = FULL if full else SMALL
    rng = np.random.default_rng(0)
    shape = (2, 32) if full else (12, how["n_positions"])
    ids = rng.integers(0, how["vocab_size"], (shape[0], shape[1] + 1)).astype(np.int32)
    return {"input_ids": ids[:, :-1]}, ids[:, 1:]


OPTIONS = {
    "weights": weights,
    "loss": "cross_entropy",
    "mode": "eval",  # as trained, but for dropout
    "optimizer": (lambda p: torch.optim.AdamW(p, 1e-3), optax.adamw(1e-3, weight_decay=0.01)),
}
ERRORS = {
    "scaled by the model's width": ("jnp.sqrt(width // heads)", "jnp.sqrt(width)"),
    "exact gelu": ("approximate=True", "approximate=False"),
    "output's table held": ('@ p["tokens"].T', '@ jax.lax.stop_gradient(p["tokens"]).T'),
}
