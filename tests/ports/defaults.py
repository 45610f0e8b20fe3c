"""Defaults that differ, read off the frameworks themselves, and the planted error that each makes.

What no signature shows (a function's rule, a setting) is computed; a text stands only for what
`holds` found to be so.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Default:
    """One default of each framework's. error: (family, name) of the planted error that comes of
    keeping it; family "faults" is the catalogue of `mlp-parity faults`. write: what a port says.
    """

    what: str
    torch: str
    jax: str
    write: str
    error: tuple[str, str]


def read(function: Callable[..., Any], shown: str, *names: str) -> str:
    """`nn.LayerNorm`, eps=1e-05. Raises AssertionError for an argument without a default."""
    signed: Any = function.__init__ if inspect.isclass(function) else function
    given = {name: inspect.signature(signed).parameters[name].default for name in names}
    missing = [name for name, value in given.items() if value is inspect.Parameter.empty]
    assert not missing, f"{shown}: no default any more for {missing}"
    return f"`{shown}`, " + ", ".join(f"`{name}={value!r}`" for name, value in given.items())


def holds(text: str, fact: bool) -> str:
    assert fact, f"docs/traps.md says what is no longer so: {text}"
    return text


def _torch_linear_is_uniform() -> bool:
    layer = nn.Linear(10_000, 3)
    values = torch.cat([layer.weight.flatten(), layer.bias]).detach().numpy() * 100
    return bool(0.99 < np.abs(values).max() <= 1 and layer.bias.any())


def _flax_linear_is_lecun() -> bool:
    layer = nnx.Linear(10_000, 3, rngs=nnx.Rngs(0))
    spread = float(layer.kernel[...].std()) * 100
    return 0.95 < spread < 1.05 and not bool(layer.bias[...].any())


def _gradient_at_0(function: Callable[[jax.Array], jax.Array]) -> float:
    return float(jax.grad(function)(0.0))


def _torch_gradient_at_0(function: Callable[[torch.Tensor], torch.Tensor]) -> float:
    x = torch.zeros((), requires_grad=True)
    function(x).backward()
    return float(x.grad if x.grad is not None else 0)


def _optax_takes_negative_labels() -> bool:
    losses = optax.softmax_cross_entropy_with_integer_labels(
        jnp.array([[0.0, 1.0, 2.0]] * 3), jnp.array([2, -1, -100])
    )
    return bool(losses[0] == losses[1] and jnp.isnan(losses[2]))


TWO = [0.0, 1.0]
FAULTS = "faults"

DEFAULTS = (
    Default(
        "epsilon of a layer norm",
        read(nn.LayerNorm, "nn.LayerNorm", "eps"),
        read(nnx.LayerNorm, "nnx.LayerNorm", "epsilon"),
        "`epsilon=1e-5`",
        ("layer norm and gelu", "epsilon 1e-6 for 1e-5"),
    ),
    Default(
        "epsilon of a group norm",
        read(nn.GroupNorm, "nn.GroupNorm", "eps"),
        read(nnx.GroupNorm, "nnx.GroupNorm", "epsilon"),
        "`epsilon=1e-5`",
        ("group norm", "epsilon 1e-6 for 1e-5"),
    ),
    Default(
        "epsilon of an RMS norm",
        read(nn.RMSNorm, "nn.RMSNorm", "eps") + " (the smallest step at 1 of the type)",
        read(nnx.RMSNorm, "nnx.RMSNorm", "epsilon"),
        "the checkpoint's own",
        ("RMS norm and SwiGLU", "epsilon 1e-6"),
    ),
    Default(
        "momentum of a batch norm",
        read(nn.BatchNorm2d, "nn.BatchNorm2d", "momentum") + ", the weight of the new",
        read(nnx.BatchNorm, "nnx.BatchNorm", "momentum") + ", the weight of the old",
        "`momentum=0.9`",
        ("batch norm by Torch's rule", "momentum .99 for .9"),
    ),
    Default(
        "running variance of a batch norm",
        "over n - 1",
        "over n",
        "a rule of your own, or `known=`",
        ("batch norm by Torch's rule", "running variance divided by n"),
    ),
    Default(
        "variance, standard deviation",
        holds("`torch.var`: over n - 1", float(torch.tensor(TWO).var()) == 0.5),
        holds("`jnp.var`: over n", float(jnp.var(jnp.array(TWO))) == 0.25),
        "`ddof=1`",
        ("layer norm and gelu", "unbiased variance"),
    ),
    Default(
        "GELU",
        read(nn.GELU, "nn.GELU", "approximate"),
        read(jax.nn.gelu, "jax.nn.gelu", "approximate"),
        "`approximate=False`",
        ("layer norm and gelu", "tanh gelu"),
    ),
    Default(
        "ReLU's gradient at 0, written as a maximum",
        holds(
            "`torch.max(x, 0)`: 1/2; `nn.ReLU`: 0",
            _torch_gradient_at_0(lambda x: torch.max(x, torch.zeros(()))) == 0.5
            and _torch_gradient_at_0(torch.relu) == 0,
        ),
        holds(
            "`jnp.maximum(x, 0)`: 1/2; `jax.nn.relu`: 0",
            _gradient_at_0(lambda x: jnp.maximum(x, 0.0)) == 0.5
            and _gradient_at_0(jax.nn.relu) == 0,
        ),
        "the same kind on both sides",
        (FAULTS, "tie 0 for 1/2"),
    ),
    Default(
        "padding of a convolution",
        read(nn.Conv2d, "nn.Conv2d", "padding"),
        read(nnx.Conv, "nnx.Conv", "padding") + ", which at stride 2 pads one end only",
        "`padding=((1, 1), (1, 1))`",
        ("convolutions", "SAME at stride 2"),
    ),
    Default(
        "kernel of a transposed convolution",
        "turned round, [in, out, height, width]",
        read(nnx.ConvTranspose, "nnx.ConvTranspose", "transpose_kernel", "padding"),
        "`transpose_kernel=True`, or turn it",
        ("transposed convolution", "kernel not turned round"),
    ),
    Default(
        "layout of images",
        "[batch, channel, height, width]",
        "[batch, height, width, channel]",
        "a turn before flattening",
        ("convolutions", "flattened channels last"),
    ),
    Default(
        "smoothing when an image shrinks",
        read(F.interpolate, "F.interpolate", "antialias"),
        read(jax.image.resize, "jax.image.resize", "antialias"),
        "`antialias=False`",
        ("bilinear resizing", "smoothed on the way down"),
    ),
    Default(
        "the last bias of a GRU",
        "two, one inside the reset gate",
        "one: `nnx.GRUCell` has no hidden bias of the new state",
        "a cell of your own",
        ("GRU", "no hidden bias of the new state"),
    ),
    Default(
        "what an LSTM's cell returns",
        "(h, c)",
        "(c, h)",
        "`c, h = carry`",
        ("LSTM", "cell for hidden"),
    ),
    Default(
        "an index past an embedding's end",
        "an error",
        holds(
            "the last row, silently",
            float(jnp.arange(3.0).at[jnp.array(7)].get(mode="clip")) == 2.0
            and float(jnp.arange(3.0)[jnp.array(7)]) == 2.0,
        ),
        "check ids where they enter",
        ("embedding with padding", "places from 1"),
    ),
    Default(
        "a mask of attention",
        "true: leave out (`nn.MultiheadAttention`)",
        "true: take part (`nnx.MultiHeadAttention`)",
        "`~mask`",
        ("tokens and a mask", "mask inverted"),
    ),
    Default(
        "decay of AdamW",
        read(torch.optim.AdamW, "torch.optim.AdamW", "weight_decay"),
        read(optax.adamw, "optax.adamw", "weight_decay"),
        "`weight_decay=0.01`",
        ("AdamW", "default decay"),
    ),
    Default(
        "steps of a cosine with warm-up",
        "counted after the warm-up",
        "`decay_steps` counts the warm-up too",
        "the sum of both",
        ("Adam with warm-up and cosine", "warm-up added to the length"),
    ),
    Default(
        "clipping by the norm",
        "times c / (norm + 1e-6)",
        "times c / norm",
        "a transformation of your own",
        ("clipped by the norm", "without Torch's 1e-6"),
    ),
    Default(
        "parameters without a gradient",
        "no gradient: left alone, without decay",
        "a gradient of 0: they decay",
        "`optax.masked`",
        ("a frozen layer and an unused one", "unused layer decays"),
    ),
    Default(
        "squared error",
        "`F.mse_loss`: x²",
        holds("`optax.l2_loss`: x²/2", float(optax.l2_loss(jnp.array(2.0))) == 2.0),
        "`optax.squared_error`",
        ("regression", "half of it"),
    ),
    Default(
        "smooth L1",
        "`F.smooth_l1_loss`: Huber's over beta",
        "`optax.huber_loss`: Huber's",
        "divide by beta",
        ("smooth L1", "Huber's loss"),
    ),
    Default(
        "ignored labels",
        read(F.cross_entropy, "F.cross_entropy", "ignore_index"),
        holds("none: -1 is the last class, -100 gives NaN", _optax_takes_negative_labels()),
        "`where=labels != -100`, and its count",
        ("tokens with ignored labels and smoothing", "mean over all tokens"),
    ),
    Default(
        "initial weights of a linear layer",
        holds("uniform within 1/√fan_in, biases too", _torch_linear_is_uniform()),
        holds("normal of variance 1/fan_in, biases 0", _flax_linear_is_lecun()),
        "`kernel_init=`, `bias_init=`",
        (FAULTS, "LeCun for uniform"),
    ),
    Default(
        "precision of float32 products on an accelerator",
        holds(
            "full (`torch.get_float32_matmul_precision()`: 'highest')",
            torch.get_float32_matmul_precision() == "highest",
        ),
        holds(
            "the device's: TF32 on a GPU, bfloat16 on a TPU",
            jax.config.jax_default_matmul_precision is None,
        ),
        '`jax.default_matmul_precision("highest")`',
        (FAULTS, "TF32 operands"),
    ),
    Default(
        "float64",
        "as the arrays are",
        holds("float32, unless x64 is on", jnp.asarray(np.float64(1)).dtype == np.float32),
        "`jax.enable_x64(True)`",
        (FAULTS, "float32 in the float64 run"),
    ),
    Default(
        "batches of an epoch",
        "a new permutation of examples",
        "d2l's: batches are formed once, and their order is shuffled",
        "shuffle examples",
        (FAULTS, "frozen batch composition"),
    ),
)
