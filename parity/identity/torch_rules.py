"""A rule for each ATen operation, over finite fields.

A rule takes the algebra, then what the operation takes: floats as Fields, tensors of integers and
booleans as NumPy arrays, Python's numbers as they are.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from parity.identity import functions
from parity.identity.field import Algebra, Array
from parity.identity.number import Field, Undecided

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
aten = torch.ops.aten


def enter(*names: str) -> Callable[[Rule], Rule]:
    """Under these names of overload packets."""

    def entered(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, f))
        return f

    return entered


# Operations that put elements elsewhere, or add up elements: run on each part.
MOVES = {
    "clone", "cat", "stack", "index_select", "gather", "repeat", "roll", "flip", "tril", "triu",
    "index", "expand_copy", "copy", "contiguous", "embedding", "lift_fresh_copy", "_to_copy",
    "repeat_interleave", "unsafe_split", "unsafe_chunk", "split_with_sizes", "split",
    "select_backward", "slice_backward", "diagonal_backward", "unfold_backward", "alias_copy",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d",
    "replication_pad1d", "replication_pad2d", "upsample_nearest1d", "upsample_nearest2d",
    "_upsample_nearest_exact2d", "channel_shuffle", "view_copy", "_reshape_copy", "take",
    "unsqueeze_copy", "permute_copy", "constant_pad_nd", "_unsafe_index", "slice_scatter",
    "select_scatter", "masked_select", "diag_embed",
}  # fmt: skip
SUMS = {
    "sum", "cumsum", "embedding_dense_backward", "unfold_backward", "im2col", "col2im",
    "upsample_nearest2d_backward", "upsample_nearest1d_backward", "reflection_pad2d_backward",
    "reflection_pad1d_backward", "trace", "_upsample_nearest_exact2d_backward",
}  # fmt: skip


def plane(x: Array) -> torch.Tensor:
    """A part as a tensor."""
    return torch.from_numpy(np.array(x, order="C"))


# --- elementwise ---------------------------------------------------------------------------------


def _scalars(f: Rule) -> Rule:
    """A rule of Fields that takes numbers too."""

    def run(of: Algebra, *xs: Any) -> Any:
        return f(of, *(of.lift(x) for x in xs))

    return run


_ELEMENTWISE: dict[str, Rule] = {
    **functions.SHARED,
    "reciprocal": functions.method("inverse"),
    "abs": functions.absolute, "sgn": functions.sign, "sign": functions.sign,
    "exp": functions.exp, "log": functions.log, "sqrt": functions.sqrt,
    "rsqrt": functions.rsqrt, "tanh": functions.tanh, "sigmoid": functions.logistic,
    "erf": functions.erf, "pow": functions.power, "maximum": functions.maximum,
    "minimum": functions.minimum, "clamp_min": functions.maximum,
    "clamp_max": functions.minimum, "square": lambda of, x: of.power(x, 2),
    "relu": lambda of, x: functions.maximum(of, x, of.lift(0.0)),
    "silu": lambda of, x: of.mul(x, functions.logistic(of, x)),
    "tanh_backward": lambda of, g, y: of.mul(g, of.sub(of.lift(1.0), of.mul(y, y))),
    "sigmoid_backward": lambda of, g, y: of.mul(g, of.mul(y, of.sub(of.lift(1.0), y))),
    "isnan": lambda of, x: np.zeros(x.shape, bool),
    "isinf": lambda of, x: np.zeros(x.shape, bool) if x.inf is None else x.inf != 0,
}  # fmt: skip
RULES |= {name: _scalars(f) for name, f in _ELEMENTWISE.items()}


@enter("add", "sub", "rsub")
def _add(of: Algebra, a: Any, b: Any, alpha: Any = 1, *, minus: int = 1) -> Field:
    b = of.lift(b) if alpha * minus == 1 else of.mul(of.lift(float(alpha * minus)), of.lift(b))
    return of.add(of.lift(a), b)


RULES["sub"] = partial(_add, minus=-1)
RULES["rsub"] = lambda of, a, b, alpha=1: _add(of, b, a, alpha, minus=-1)


@enter("div")
def _div(of: Algebra, a: Any, b: Any, rounding_mode: Any = None) -> Field:
    if rounding_mode:
        raise Undecided("a rounded quotient")
    return of.div(of.lift(a), of.lift(b))


@enter("addcmul")
def _addcmul(of: Algebra, x: Field, a: Field, b: Field, value: Any = 1) -> Field:
    return of.add(x, of.mul(of.lift(float(value)), of.mul(a, b)))


@enter("addcdiv")
def _addcdiv(of: Algebra, x: Field, a: Field, b: Field, value: Any = 1) -> Field:
    return of.add(x, of.mul(of.lift(float(value)), of.div(a, b)))


@enter("lerp")
def _lerp(of: Algebra, a: Field, b: Field, weight: Any) -> Field:
    return of.add(a, of.mul(of.lift(weight), of.sub(b, a)))


@enter("clamp", "hardtanh")
def _clamp(of: Algebra, x: Field, min: Any = None, max: Any = None) -> Field:
    if min is not None:
        x = functions.maximum(of, x, of.lift(min))
    return x if max is None else functions.minimum(of, x, of.lift(max))


@enter("where")
def _where(of: Algebra, mask: Array, a: Any, b: Any) -> Field:
    return of.chosen(mask, of.lift(a), of.lift(b))


@enter("masked_fill")
def _masked_fill(of: Algebra, x: Field, mask: Array, value: Any) -> Field:
    return of.chosen(mask, of.lift(value), x)


@enter("threshold_backward")
def _threshold_backward(of: Algebra, g: Field, x: Field, threshold: Any) -> Field:
    return of.chosen(functions.compared(of, x, threshold) > 0, g, of.lift(0.0))


@enter("hardtanh_backward")
def _hardtanh_backward(of: Algebra, g: Field, x: Field, low: Any, high: Any) -> Field:
    inside = (functions.compared(of, x, low) > 0) & (functions.compared(of, x, high) < 0)
    return of.chosen(inside, g, of.lift(0.0))


@enter("leaky_relu")
def _leaky_relu(of: Algebra, x: Field, slope: Any = 0.01) -> Field:
    return of.chosen(functions.compared(of, x, 0.0) > 0, x, of.mul(of.lift(slope), x))


@enter("leaky_relu_backward")
def _leaky_relu_backward(of: Algebra, g: Field, x: Field, slope: Any, result: bool) -> Field:
    return of.chosen(functions.compared(of, x, 0.0) > 0, g, of.mul(of.lift(slope), g))


@enter("silu_backward")
def _silu_backward(of: Algebra, g: Field, x: Field) -> Field:
    s, one = functions.logistic(of, x), of.lift(1.0)
    return of.mul(g, of.mul(s, of.add(one, of.mul(x, of.sub(one, s)))))


@enter("gelu")
def _gelu(of: Algebra, x: Field, approximate: str = "none") -> Field:
    return of.mul(of.mul(of.lift(0.5), x), of.add(of.lift(1.0), _gelu_inner(of, x, approximate)[0]))


def _gelu_inner(of: Algebra, x: Field, approximate: str) -> tuple[Field, Field]:
    """(erf or tanh of it, the derivative of that)."""
    if approximate == "none":
        bell = functions.exp(of, of.mul(of.lift(-0.5), of.power(x, 2)))
        found = functions.erf(of, of.mul(x, of.lift(math.sqrt(0.5))))
        return found, of.mul(of.lift(math.sqrt(2 / math.pi)), bell)
    root, cubic, one = of.lift(math.sqrt(2 / math.pi)), of.lift(0.044715), of.lift(1.0)
    t = functions.tanh(of, of.mul(root, of.add(x, of.mul(cubic, of.power(x, 3)))))
    inner = of.add(one, of.mul(of.mul(of.lift(3.0), cubic), of.power(x, 2)))
    return t, of.mul(of.sub(one, of.mul(t, t)), of.mul(root, inner))


@enter("gelu_backward")
def _gelu_backward(of: Algebra, g: Field, x: Field, approximate: str = "none") -> Field:
    f, slope = _gelu_inner(of, x, approximate)
    both = of.add(of.add(of.lift(1.0), f), of.mul(x, slope))
    return of.mul(g, of.mul(of.lift(0.5), both))


@enter("log_sigmoid_forward")
def _log_sigmoid(of: Algebra, x: Field) -> tuple[Field, None]:
    return of.neg(functions.softplus(of, of.neg(x))), None


@enter("log_sigmoid_backward")
def _log_sigmoid_backward(of: Algebra, g: Field, x: Field, buffer: Any) -> Field:
    return of.mul(g, functions.logistic(of, of.neg(x)))


@enter("softplus")
def _softplus(of: Algebra, x: Field, beta: Any = 1, threshold: Any = 20) -> Field:
    if beta != 1:
        raise Undecided("softplus with a beta")
    return functions.softplus(of, x)  # beyond the threshold x stands for it, by rounding


@enter("softplus_backward")
def _softplus_backward(of: Algebra, g: Field, x: Field, beta: Any, threshold: Any) -> Field:
    return of.mul(g, functions.logistic(of, x))


# --- products ------------------------------------------------------------------------------------


@enter("mm", "bmm", "mv", "dot", "matmul")
def _mm(of: Algebra, a: Field, b: Field) -> Field:
    return of.bilinear(np.matmul, a, b)


@enter("addmm", "baddbmm", "addmv", "addbmm")
def _addmm(of: Algebra, x: Field, a: Field, b: Field, beta: Any = 1, alpha: Any = 1) -> Field:
    product = of.bilinear(np.matmul, a, b)
    product = product if alpha == 1 else of.mul(of.lift(float(alpha)), product)
    if beta == 0:
        return product
    return of.add(x if beta == 1 else of.mul(of.lift(float(beta)), x), product)


@enter("convolution")
def _convolution(of: Algebra, x: Field, K: Field, bias: Field | None, *how: Any) -> Field:
    def f(a: Array, b: Array) -> Array:
        return aten.convolution(plane(a), plane(b), None, *how).numpy()

    made = of.bilinear(f, x, K)
    if bias is None:
        return made
    shape = (-1,) + (1,) * (len(made.shape) - 2)
    return of.add(made, of.moved(lambda v: v.reshape(shape), bias))


@enter("convolution_backward")
def _convolution_backward(
    of: Algebra, g: Field, x: Field, K: Field, bias_sizes: Any, *how: Any
) -> tuple[Field | None, ...]:
    *steps, mask = how

    def by(which: int) -> Callable[[Array, Array], Array]:
        def f(a: Array, b: Array) -> Array:
            xs = [
                torch.zeros(x.shape, dtype=torch.float64),
                torch.zeros(K.shape, dtype=torch.float64),
            ]
            xs[1 - which] = plane(b)
            flags = [i == which for i in range(3)]
            return aten.convolution_backward(plane(a), *xs, None, *steps, flags)[which].numpy()

        return f

    by_x = of.bilinear(by(0), g, K) if mask[0] else None
    by_K = of.bilinear(by(1), g, x) if mask[1] else None
    axes = (0, *range(2, len(g.shape)))
    return by_x, by_K, of.linear(lambda v: v.sum(axes), g) if mask[2] else None
