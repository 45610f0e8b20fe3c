"""The vision transformer of torchvision, and its port to Flax NNX.

Patches by a convolution, a learnt class token and places, and an encoder with the norms before each
part. Images are [batch, 3, height, width] on both sides. Dosovitskiy et al. 2020.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from jaxtyping import Array, Float

SMALL = {
    "image_size": 8,
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 4,
    "hidden_dim": 32,
    "mlp_dim": 48,
    "num_classes": 5,
}
FULL = {  # ViT-B/16
    "image_size": 224,
    "patch_size": 16,
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "mlp_dim": 3072,
    "num_classes": 1000,
}


def torch_model(full: bool) -> torch.nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(**(FULL if full else SMALL))


def jax_model(full: bool) -> nnx.Module:
    return ViT(**(FULL if full else SMALL), rngs=nnx.Rngs(0))


class Block(nnx.Module):
    def __init__(self, width: int, hidden: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, width, rngs=rngs)
        self.heads = heads

    def __call__(self, H: Float[Array, "batch length width"]) -> jax.Array:
        H = H + self.attend(self.norm1(H))
        return H + self.down(nnx.gelu(self.up(self.norm2(H)), approximate=False))

    def attend(self, H: jax.Array) -> jax.Array:
        parts = jnp.split(self.qkv(H), 3, axis=-1)
        q, k, v = (part.reshape(*H.shape[:2], self.heads, -1) for part in parts)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(q.shape[-1])
        return self.out(jnp.einsum("bhqk,bkhd->bqhd", nnx.softmax(scores), v).reshape(H.shape))


class ViT(nnx.Module):
    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        num_classes: int,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        patch = (patch_size, patch_size)
        self.patches = nnx.Conv(3, hidden_dim, patch, strides=patch, padding="VALID", rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, hidden_dim)))
        self.places = nnx.Param(jnp.zeros((1, (image_size // patch_size) ** 2 + 1, hidden_dim)))
        self.blocks = nnx.List(
            Block(hidden_dim, mlp_dim, num_heads, rngs=rngs) for _ in range(num_layers)
        )
        self.norm = nnx.LayerNorm(hidden_dim, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(hidden_dim, num_classes, rngs=rngs)

    def __call__(self, X: Float[Array, "batch 3 height width"]) -> Float[Array, "batch classes"]:
        H = self.patches(X.transpose(0, 2, 3, 1)).reshape(len(X), -1, self.token.shape[-1])
        token = jnp.broadcast_to(self.token[...], (len(X), 1, H.shape[-1]))
        H = jnp.concatenate([token, H], axis=1) + self.places[...]
        for block in self.blocks:
            H = block(H)
        return self.head(self.norm(H)[:, 0])


def weights(t: dict[str, np.ndarray]) -> dict[str, Any]:
    """Torch's parameters as JAX's tree; nn.Linear is [out, in], nn.Conv2d [out, in, h, w]."""

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": t[f"{name}.weight"], "bias": t[f"{name}.bias"]}

    def dense(name: str, between: str = ".") -> dict[str, np.ndarray]:
        return {"kernel": t[f"{name}{between}weight"].T, "bias": t[f"{name}{between}bias"]}

    def block(at: str) -> dict[str, Any]:
        return {
            "norm1": norm(f"{at}.ln_1"),
            "qkv": dense(f"{at}.self_attention", ".in_proj_"),
            "out": dense(f"{at}.self_attention.out_proj"),
            "norm2": norm(f"{at}.ln_2"),
            "up": dense(f"{at}.mlp.0"),
            "down": dense(f"{at}.mlp.3"),
        }

    count = sum(name.endswith("ln_1.bias") for name in t)
    kernel = t["conv_proj.weight"].transpose(2, 3, 1, 0)
    return {
        "patches": {"kernel": kernel, "bias": t["conv_proj.bias"]},
        "token": t["class_token"],
        "places": t["encoder.pos_embedding"],
        "blocks": {i: block(f"encoder.layers.encoder_layer_{i}") for i in range(count)},
        "norm": norm("encoder.ln"),
        "head": dense("heads.head"),
    }


def data(full: bool) -> tuple[np.ndarray, np.ndarray]:
    how, count = (FULL, 2) if full else (SMALL, 12)
    rng = np.random.default_rng(0)
    shape = (count, 3, how["image_size"], how["image_size"])
    labels = rng.integers(0, how["num_classes"], count).astype(np.int32)
    return rng.standard_normal(shape).astype(np.float32), labels


OPTIONS = {
    "weights": weights,
    "loss": "cross_entropy",
    "optimizer": (lambda p: torch.optim.AdamW(p, 1e-3), optax.adamw(1e-3, weight_decay=0.01)),
}
ERRORS = {
    "class token last": ("[token, H]", "[H, token]"),
    "tanh's gelu": ("approximate=False", "approximate=True"),
    "mean over all tokens": ("self.norm(H)[:, 0]", "self.norm(H).mean(1)"),
}
