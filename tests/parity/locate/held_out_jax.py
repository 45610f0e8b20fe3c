"""Honest ports of them: a function of parameters by Torch's names, kernels in JAX's layout."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

WIDTH, HEADS, SIZE, CLASSES, TOKENS, LENGTH, WINDOW = 8, 2, 4, 3, 7, 5, 3
CAP, LATENT, PIXELS, GAMMA, ALPHA = 5.0, 2, 6, 2.0, 0.25
Params = dict[str, jax.Array]


def linear(p: Params, name: str, X: jax.Array) -> jax.Array:
    return X @ p[f"{name}.weight"] + p[f"{name}.bias"]


def layer_norm(p: Params, name: str, X: jax.Array) -> jax.Array:
    mean = X.mean(-1, keepdims=True)
    var = ((X - mean) ** 2).mean(-1, keepdims=True)
    return (X - mean) * jax.lax.rsqrt(var + 1e-6) * p[f"{name}.weight"] + p[f"{name}.bias"]


def conv(p: Params, name: str, X: jax.Array, stride: int, pad: int, groups: int = 1) -> jax.Array:
    Y = jax.lax.conv_general_dilated(
        X, p[f"{name}.weight"], (stride, stride), [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip
    return Y + p[f"{name}.bias"]


def vision_transformer(p: Params, X: jax.Array) -> jax.Array:
    n = len(X)
    patches = conv(p, "patch", X.transpose(0, 2, 3, 1), 2, 0)
    patches = patches.reshape(n, -1, WIDTH)
    cls = jnp.broadcast_to(p["cls"], (n, 1, WIDTH))
    H = jnp.concatenate([cls, patches], 1)
    H = H + p["pos"]
    qkv = linear(p, "qkv", layer_norm(p, "norm1", H))
    qkv = qkv.reshape(n, -1, 3, HEADS, SIZE)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum("bihd,bjhd->bhij", q, k)
    scores = scores / SIZE**0.5
    weights = jax.nn.softmax(scores, axis=-1)
    A = jnp.einsum("bhij,bjhd->bihd", weights, v)
    A = linear(p, "proj", A.reshape(n, -1, WIDTH))
    H = H + p["gamma1"] * A
    M = linear(p, "up", layer_norm(p, "norm2", H))
    M = jax.nn.gelu(M, approximate=False)
    H = H + p["gamma2"] * linear(p, "down", M)
    first = layer_norm(p, "norm", H)[:, 0]
    return linear(p, "head", first)


def rms_norm(p: Params, name: str, X: jax.Array) -> jax.Array:
    square = jnp.mean(X**2, axis=-1, keepdims=True)
    normal = X * jax.lax.rsqrt(square + 1e-6)
    return normal * (1 + p[f"{name}.weight"])


def language_model(p: Params, ids: jax.Array) -> jax.Array:
    n, length = ids.shape
    H = p["tokens.weight"][ids]
    H = H * WIDTH**0.5
    N = rms_norm(p, "before", H)
    q = (N @ p["q.weight"]).reshape(n, length, 2 * HEADS, SIZE)
    k = (N @ p["k.weight"]).reshape(n, length, HEADS, SIZE)
    v = (N @ p["v.weight"]).reshape(n, length, HEADS, SIZE)
    k = jnp.repeat(k, 2, axis=2)
    v = jnp.repeat(v, 2, axis=2)
    scores = jnp.einsum("bihd,bjhd->bhij", q, k) * SIZE**-0.5
    scores = CAP * jnp.tanh(scores / CAP)
    away = jnp.arange(length)[:, None] - jnp.arange(length)
    seen = (away >= 0) & (away < WINDOW)
    scores = jnp.where(seen, scores, -jnp.inf)
    A = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(scores), v)
    A = A.reshape(n, length, -1) @ p["o.weight"]
    A = rms_norm(p, "after", A)
    H = H + A
    logits = rms_norm(p, "last", H) @ p["out.weight"]
    return CAP * jnp.tanh(logits / CAP)


def convnext(p: Params, X: jax.Array) -> jax.Array:
    X = X.transpose(0, 2, 3, 1)
    H = conv(p, "depth", X, 1, 1, groups=4)
    H = linear(p, "up", layer_norm(p, "norm", H))
    H = jax.nn.gelu(H, approximate=False)
    size = jnp.sqrt((H**2).sum((1, 2), keepdims=True))
    ratio = size / (size.mean(-1, keepdims=True) + 1e-6)
    H = p["gamma"] * (H * ratio) + p["beta"] + H
    H = X + linear(p, "down", H)
    mean = H.mean((1, 2))
    gate = linear(p, "excite", jax.nn.relu(linear(p, "squeeze", mean)))
    gate = jax.nn.sigmoid(gate)
    H = H * gate[:, None, None]
    return linear(p, "head", H.max((1, 2)))


def autoencoder(p: Params, X: jax.Array, noise: jax.Array) -> dict[str, jax.Array]:
    H = jax.nn.elu(linear(p, "body", X))
    mu = linear(p, "mu", H)
    logvar = linear(p, "logvar", H)
    std = jnp.exp(0.5 * logvar)
    Z = mu + noise * std
    image = linear(p, "out", jax.nn.elu(linear(p, "up", Z)))
    return {"image": image, "mu": mu, "logvar": logvar}


def evidence(out: dict[str, jax.Array], X: jax.Array) -> jax.Array:
    mu, logvar = out["mu"], out["logvar"]
    losses = jnp.maximum(out["image"], 0) - out["image"] * X
    losses = losses + jnp.log1p(jnp.exp(-jnp.abs(out["image"])))
    image = losses.sum(1).mean()
    kl = -0.5 * (1 + logvar - mu**2 - jnp.exp(logvar))
    kl = kl.sum(1).mean()
    return image + kl


def normalised(X: jax.Array) -> jax.Array:
    size = jnp.sqrt((X**2).sum(-1, keepdims=True))
    return X / jnp.maximum(size, 1e-12)


def two_towers(p: Params, image: jax.Array, text: jax.Array) -> jax.Array:
    a = linear(p, "image", image)
    b = linear(p, "text", text)
    a = normalised(a)
    b = normalised(b)
    scale = jnp.exp(p["scale"])
    return scale * a @ b.T


def contrast(logits: jax.Array, y: jax.Array) -> jax.Array:
    image = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    text = optax.softmax_cross_entropy_with_integer_labels(logits.T, y).mean()
    return (image + text) / 2


def unet(p: Params, X: jax.Array) -> jax.Array:
    X = X.transpose(0, 2, 3, 1)
    H = conv(p, "down", X, 2, 1)
    mean = H.mean((1, 2), keepdims=True)
    var = H.var((1, 2), keepdims=True)
    H = (H - mean) / jnp.sqrt(var + 1e-5)
    H = H * p["norm.weight"] + p["norm.bias"]
    H = jax.nn.leaky_relu(H, 0.2)
    H = jnp.repeat(jnp.repeat(H, 2, 1), 2, 2)
    H = conv(p, "up", H, 1, 0)
    H = jnp.concatenate([H, X], -1)
    H = conv(p, "join", H, 1, 1)
    H = jax.nn.hard_swish(H)
    n, h, w, _ = H.shape
    H = H.reshape(n, h, w, 1, 2, 2)
    H = H.transpose(0, 3, 1, 4, 2, 5)
    return H.reshape(n, 1, 2 * h, 2 * w)


def focal(logits: jax.Array, y: jax.Array) -> jax.Array:
    p = jax.nn.sigmoid(logits)
    loss = optax.sigmoid_binary_cross_entropy(logits, y)
    hit = p * y + (1 - p) * (1 - y)
    weight = ALPHA * y + (1 - ALPHA) * (1 - y)
    loss = loss * (1 - hit) ** GAMMA
    return (weight * loss).mean()


def perceptron(p: Params, X: jax.Array) -> jax.Array:
    H = linear(p, "first", X)
    H = H * jnp.tanh(jax.nn.softplus(H))
    return linear(p, "last", H)


def rmsprop() -> optax.GradientTransformation:
    return optax.rmsprop(0.01, decay=0.99, eps=1e-8, eps_in_sqrt=False)


def adagrad() -> optax.GradientTransformation:
    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(grads: Any, sums: Any, params: Any = None) -> Any:
        sums = jax.tree.map(lambda s, g: s + g**2, sums, grads)
        steps = jax.tree.map(lambda s, g: -0.1 * g / (jnp.sqrt(s) + 1e-10), sums, grads)
        return steps, sums

    return optax.GradientTransformation(init, update)
