"""Bounds of the layers that models are made of, against both frameworks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx
from jax import lax
from judged import Case, judge, normal, positive

H = normal(4, 6)
ONES, SCALE, SHIFT = np.ones(6), 1 + 0.1 * normal(6), normal(6, seed=1)
IMAGE = normal(2, 4, 5, 6)  # NCHW

# --- norms -----------------------------------------------------------------------------------


def layer_norm(x, scale, shift, eps=1e-5):
    mean = x.mean(-1, keepdims=True)
    var = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + eps) * scale + shift


def fast_layer_norm(x, scale, shift):
    mean = x.mean(-1, keepdims=True)
    var = jnp.maximum(0, (x * x).mean(-1, keepdims=True) - mean * mean)
    return (x - mean) * (lax.rsqrt(var + 1e-5) * scale) + shift


def rms_norm(x, scale):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def group_norm(x, scale, shift):
    y = x.reshape(2, 2, -1)
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + 1e-5)
    return y.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def batch_norm(x, scale, shift, mean, var):
    m, v, n = x.mean((0, 2, 3)), x.var((0, 2, 3)), x.size // x.shape[1]
    y = (x - m[:, None, None]) * lax.rsqrt(v + 1e-5)[:, None, None]
    y = y * scale[:, None, None] + shift[:, None, None]
    return y, 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v * n / (n - 1)


def torch_batch_norm(x, scale, shift, mean, var):
    running = mean.detach().clone(), var.detach().clone()
    y = F.batch_norm(x, *running, scale, shift, training=True, momentum=0.1)
    # Torch updates statistics in place, without a gradient; the formula again gives it one.
    m, v = x.mean((0, 2, 3)), x.var((0, 2, 3))
    moved = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * v
    new = [a + (b - b.detach()) for a, b in zip(running, moved, strict=True)]
    return y, *new


def nnx_batch_norm(x, scale, shift):
    norm = nnx.BatchNorm(6, rngs=nnx.Rngs(0), epsilon=1e-5)
    norm.scale[...], norm.bias[...] = scale, shift
    return norm(x)


def spectral(v, g):
    return v * (g / jnp.sqrt(jnp.sum(v * v, 1, keepdims=True)))


NORMS = [
    Case("layer norm", layer_norm, lambda x, a, b: F.layer_norm(x, (6,), a, b), (H, SCALE, SHIFT)),
    Case(
        "fast layer norm",
        fast_layer_norm,
        lambda x, a, b: F.layer_norm(x, (6,), a, b),
        (H, SCALE, SHIFT),
    ),
    Case("rms norm", rms_norm, lambda x, a: F.rms_norm(x, (6,), a, eps=1e-6), (H, SCALE)),
    Case(
        "group norm",
        group_norm,
        lambda x, a, b: F.group_norm(x, 2, a, b),
        (IMAGE, SCALE[:4], SHIFT[:4]),
    ),
    Case(
        "batch norm",
        batch_norm,
        torch_batch_norm,
        (IMAGE, SCALE[:4], SHIFT[:4], SHIFT[2:], positive(4)),
    ),
    Case(
        "nnx batch norm",
        nnx_batch_norm,
        lambda x, a, b: F.batch_norm(x, None, None, a, b, training=True),
        (normal(8, 6), SCALE, SHIFT),
    ),
    Case(
        "weight norm",
        spectral,
        lambda v, g: torch._weight_norm(v, g, 0),
        (H, positive(4, 1)),
    ),
    Case(
        "l2 normalisation",
        lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12),
        F.normalize,
        (H,),
    ),
    Case(
        "unit vectors",
        lambda x: x * lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12)),
        F.normalize,
        (H,),
    ),
    Case(
        "dropout by a given mask",
        lambda x, m: jnp.where(m, x / 0.8, 0),
        lambda x, m: x * m / 0.8,
        (H, H > -0.5),
    ),
]

# --- attention -------------------------------------------------------------------------------

Q, K, V = (normal(2, 4, 2, 3, seed=s) for s in range(3))  # batch, time, heads, width
CAUSAL = np.tril(np.ones((4, 4), bool))


def attention(q, k, v, mask, how):
    s = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(3).astype(q.dtype)
    if how == "where":
        s = jnp.where(mask, s, jnp.finfo(s.dtype).min)
    elif how == "where -inf":
        s = jnp.where(mask, s, -jnp.inf)
    else:
        low = -jnp.inf if how == "add -inf" else jnp.finfo(s.dtype).min
        s = s + jnp.where(mask, 0.0, low)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(s, -1), v)


def torch_attention(q, k, v, mask=None):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)


def rotated(x, halved):
    """Rotary position embedding of [batch, time, heads, 2 n]."""
    time, width = x.shape[1], x.shape[3] // 2
    rates = 10000.0 ** (-jnp.arange(width, dtype=x.dtype) / width)
    angle = jnp.arange(time, dtype=x.dtype)[:, None, None] * rates
    c, s = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x, 2, -1) if halved else (x[..., ::2], x[..., 1::2])
    pair = a * c - b * s, b * c + a * s
    return jnp.concatenate(pair, -1) if halved else jnp.stack(pair, -1).reshape(x.shape)


def torch_rotated(x, halved):
    time, width = x.shape[1], x.shape[3] // 2
    rates = 10000.0 ** (-torch.arange(width, dtype=x.dtype) / width)
    angle = torch.arange(time, dtype=x.dtype)[:, None, None] * rates
    c, s = angle.cos(), angle.sin()
    if halved:
        c, s = torch.cat([c, c], -1), torch.cat([s, s], -1)
        a, b = x.chunk(2, -1)
        return x * c + torch.cat([-b, a], -1) * s
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], width, 2)) * torch.complex(c, s)
    return torch.view_as_real(turned).reshape(x.shape)


ATTENTION = [
    Case(
        f"attention, mask by {how}",
        partial(attention, how=how),
        torch_attention,
        (Q, K, V, CAUSAL),
    )
    for how in ("where", "where -inf", "add finfo.min", "add -inf")
]
ATTENTION += [
    Case(
        "attention, a row wholly masked by finfo.min",
        partial(attention, how="where"),
        None,
        (Q, K, V, np.tril(np.ones((4, 4), bool), -1)),
    ),
    Case(
        "jax.nn.dot_product_attention",
        partial(jax.nn.dot_product_attention, is_causal=True),
        lambda q, k, v: torch_attention(q, k, v, torch.tensor(CAUSAL)),
        (Q, K, V),
    ),
    Case(
        "rotary, halves",
        partial(rotated, halved=True),
        partial(torch_rotated, halved=True),
        (normal(2, 4, 2, 4),),
    ),
    Case(
        "rotary, interleaved",
        partial(rotated, halved=False),
        partial(torch_rotated, halved=False),
        (normal(2, 4, 2, 4),),
    ),
]

# --- embeddings ------------------------------------------------------------------------------

TABLE, TOKENS = normal(5, 3), np.array([[0, 4, 2], [2, 2, 1]])

EMBEDDINGS = [
    Case("embedding by take", lambda t, i: t[i], lambda t, i: F.embedding(i, t), (TABLE, TOKENS)),
    Case(
        "embedding by jnp.take",
        lambda t, i: jnp.take(t, i, axis=0),
        lambda t, i: F.embedding(i, t),
        (TABLE, TOKENS),
    ),
    Case(
        "embedding by one-hot",
        lambda t, i: jax.nn.one_hot(i, 5, dtype=t.dtype) @ t,
        lambda t, i: F.embedding(i, t),
        (TABLE, TOKENS),
    ),
    Case(
        "embedding with padding index",
        lambda t, i: jnp.where((i == 2)[..., None], lax.stop_gradient(t[i]), t[i]),
        lambda t, i: F.embedding(i, t, padding_idx=2),
        (TABLE, TOKENS),
    ),
    Case(
        "tied output",
        lambda t, i: jnp.tanh(t[i]) @ t.T,
        lambda t, i: torch.tanh(F.embedding(i, t)) @ t.T,
        (TABLE, TOKENS),
    ),
]

# --- recurrent -------------------------------------------------------------------------------

STEPS = normal(3, 2, 4), normal(2, 3, seed=3)  # time, batch, inputs; batch, state


def weights(gates):
    return tuple(0.5 * normal(*s, seed=5) for s in ((gates * 3, 4), (gates * 3, 3))) + tuple(
        0.5 * normal(gates * 3, seed=s) for s in (6, 7)
    )


def gru(x, h, Wi, Wh, bi, bh):
    def step(h, x):
        (r, z, n), (r2, z2, n2) = (jnp.split(t, 3, -1) for t in (x @ Wi.T + bi, h @ Wh.T + bh))
        r, z = jax.nn.sigmoid(r + r2), jax.nn.sigmoid(z + z2)
        h = (1 - z) * jnp.tanh(n + r * n2) + z * h
        return h, h

    return lax.scan(step, h, x)[1]


def lstm(x, h, Wi, Wh, bi, bh, unrolled=False):
    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ Wi.T + bi + h @ Wh.T + bh, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    if not unrolled:
        return lax.scan(step, (h, h), x)[1]
    state, outputs = (h, h), []
    for t in x:
        state, out = step(state, t)
        outputs.append(out)
    return jnp.stack(outputs)


def torch_lstm(x, h, *params):
    return torch.lstm(x, (h[None], h[None]), params, True, 1, 0.0, True, False, False)[0]


RECURRENT = [
    Case(
        "gru",
        gru,
        lambda x, h, *p: torch.gru(x, h[None], p, True, 1, 0.0, True, False, False)[0],
        (*STEPS, *weights(3)),
        relative=1e-2,
    ),
    Case("lstm", lstm, torch_lstm, (*STEPS, *weights(4)), relative=1e-2),
    Case(
        "lstm, unrolled",
        partial(lstm, unrolled=True),
        torch_lstm,
        (*STEPS, *weights(4)),
        relative=1e-2,
    ),
]

# --- windows ---------------------------------------------------------------------------------

NAMES = ("NCHW", "OIHW", "NCHW")


def convolve(x, k, **options):
    strides = options.pop("window_strides", (1, 1))
    padding = options.pop("padding", "VALID")
    return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=NAMES, **options)


def transposed(x, k, stride=2, pad=1):
    """Torch's transposed convolution: kernel [in, out, ...] turned by half, input spread out."""
    k = jnp.flip(k, (2, 3)).swapaxes(0, 1)
    edge = [(n - 1 - pad,) * 2 for n in k.shape[2:]]
    return convolve(x, k, padding=edge, lhs_dilation=(stride, stride))


def conv(name, options, twin, kernel, image=IMAGE):
    return Case(f"convolution, {name}", partial(convolve, **options), twin, (image, kernel))


def average(x, counted=True):
    pad = ((0, 0), (0, 0), (1, 1), (1, 1))

    def total(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, 1, 3, 2), (1, 1, 2, 1), pad)

    return total(x) / (6 if counted else total(jnp.ones_like(x)))


def torch_average(x, counted=True):
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), (3, 2), (2, 1)) if counted else None


def resize(method):
    return lambda x: jax.image.resize(x, (2, 4, 8, 10), method)


WINDOWS = [
    conv("same", {"padding": "SAME"}, partial(F.conv2d, padding="same"), normal(3, 4, 3, 3)),
    conv(
        "same at stride 2",
        {"padding": "SAME", "window_strides": (2, 2)},
        lambda x, k: F.conv2d(F.pad(x, (0, 1, 1, 1)), k, stride=2),
        normal(3, 4, 3, 3),
    ),
    conv("dilated", {"rhs_dilation": (2, 2)}, partial(F.conv2d, dilation=2), normal(3, 4, 2, 3)),
    conv("grouped", {"feature_group_count": 2}, partial(F.conv2d, groups=2), normal(6, 2, 2, 3)),
    conv("depthwise", {"feature_group_count": 4}, partial(F.conv2d, groups=4), normal(4, 1, 2, 3)),
    Case(
        "convolution, transposed",
        transposed,
        lambda x, k: F.conv_transpose2d(x, k, stride=2, padding=1),
        (normal(2, 4, 3, 3), normal(4, 3, 3, 2)),
    ),
    Case(
        "convolution, one dimension",
        lambda x, k: lax.conv_general_dilated(x, k, (2,), [(1, 2)]),
        lambda x, k: F.conv1d(F.pad(x, (1, 2)), k, stride=2),
        (normal(2, 3, 7), normal(4, 3, 3)),
    ),
    Case("average pooling, padding counted", average, torch_average, (IMAGE,)),
    Case(
        "average pooling, padding not counted",
        partial(average, counted=False),
        None,
        (IMAGE,),
    ),
    Case(
        "nnx average pooling, padding not counted",
        lambda x: nnx.avg_pool(
            x, (3, 3), (2, 2), padding=((1, 1), (1, 1)), count_include_pad=False
        ),
        lambda x: F.avg_pool2d(
            x.permute(0, 3, 1, 2), 3, 2, padding=1, count_include_pad=False
        ).permute(0, 2, 3, 1),
        (IMAGE,),
    ),
    Case(
        "nnx max pooling, overlapping and padded",
        lambda x: nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1))),
        lambda x: F.max_pool2d(x.permute(0, 3, 1, 2), 3, 2, padding=1).permute(0, 2, 3, 1),
        (IMAGE,),
    ),
    Case(
        "resize, nearest",
        resize("nearest"),
        lambda x: F.interpolate(x, (8, 10), mode="nearest-exact"),
        (IMAGE,),
    ),
    Case(
        "resize, bilinear",
        resize("bilinear"),
        lambda x: F.interpolate(x, (8, 10), mode="bilinear"),
        (IMAGE,),
    ),
    Case("resize, bicubic", resize("bicubic"), None, (IMAGE,)),
    Case(
        "resize, bilinear, smaller",
        lambda x: jax.image.resize(x, (2, 4, 3, 3), "bilinear"),
        lambda x: F.interpolate(x, (3, 3), mode="bilinear", antialias=True),
        (IMAGE,),
    ),
]


@pytest.mark.parametrize("case", NORMS + ATTENTION + EMBEDDINGS + RECURRENT + WINDOWS, ids=str)
def test_a_layer_and_its_gradient_stay_within_their_bounds(case):
    judge(case)
