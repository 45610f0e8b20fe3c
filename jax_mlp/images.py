"""Trainer(images="bytes"): images stay bytes, and their products take three passes of bfloat16.

A byte is exact in bfloat16, and a float32 matrix is the sum of three matrices of bfloat16:

    B = B_0 + B_1 + B_2,    K B / 255 ~ (K B_2 + K B_1 + K B_0) * float32(1 / 255)

Each product of two of their elements is exact in float32, where they are summed. So a unit that
multiplies bfloat16 passes three times, where a product of two float32 matrices takes six or more.
It rounds elsewhere than a product of the floats k / 255 does: see parity.rounding.by_bytes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, BFloat16, Float, Shaped, UInt8

from jax_mlp import layers
from jax_mlp.reproducible import Arithmetic

SCALE = np.float32(1 / 255)
UPPER = np.uint32(0xFFFF0000)  # sign, exponent and the first 8 bits of a float32's 24


def parts(B: Float[Array, "rows columns"]) -> tuple[BFloat16[Array, "rows columns"], ...]:
    """Three matrices of bfloat16 whose sum is B: exactly from 2^-103 on, else to 2^-126.

    Its 24 bits are cut in three times 8, so all three have B's sign. Let 2^e <= |b| < 2^(e+1): b is
    a multiple of 2^(e-23). The first 8 bits leave less than 2^(e-7), 16 bits; the first 8 of these
    leave less than 2^(e-15), 8 bits. The last is no smaller than 2^(e-23), so it isn't flushed to
    zero where e >= -103; what is flushed, the last or with it the second, is below 2^-126.
    """
    # By bits: a conversion to bfloat16 and back XLA leaves out.
    high = _first_bits(B)
    rest = B - high
    middle = _first_bits(rest)
    return tuple(part.astype(jnp.bfloat16) for part in (high, middle, rest - middle))


def _first_bits(B: Float[Array, "..."]) -> Float[Array, "..."]:
    return lax.bitcast_convert_type(lax.bitcast_convert_type(B, jnp.uint32) & UPPER, B.dtype)


def as_bfloat16(K: UInt8[Array, "..."]) -> BFloat16[Array, "..."]:
    """By float32, from which Pallas converts."""
    return K.astype(jnp.float32).astype(jnp.bfloat16)


def in_passes(
    K: UInt8[Array, "batch inputs"], B: Float[Array, "terms columns"], *, axis: int
) -> Float[Array, "rows columns"]:
    """K B, by the parts of B; for axis 0 the transpose of K."""
    K = as_bfloat16(K)
    numbers = ((axis,), (0,)), ((), ())
    one_pass = {"precision": lax.Precision.DEFAULT, "preferred_element_type": jnp.float32}
    sums = [lax.dot_general(K, part, numbers, **one_pass) for part in reversed(parts(B))]
    return sum(sums[1:], start=sums[0])


def scaled(K: Array, B: Array, *, axis: int) -> Array:
    """K B / 255, see in_passes."""
    return in_passes(K, B, axis=axis) * SCALE


# A primitive of its own: in a jaxpr it is one product, whose rounding is known as a whole.
by_bytes = Primitive("by_bytes")
by_bytes.def_impl(scaled)


@by_bytes.def_abstract_eval
def _(K: Any, B: Any, *, axis: int) -> Any:
    return jax.core.ShapedArray((K.shape[1 - axis], B.shape[1]), B.dtype)


def _batched(operands: Any, axes: Any, *, axis: int) -> tuple[Any, int]:
    return jax.vmap(partial(scaled, axis=axis), in_axes=axes)(*operands), 0


mlir.register_lowering(by_bytes, mlir.lower_fun(scaled, multiple_results=False))
batching.primitive_batchers[by_bytes] = _batched


@jax.custom_vjp
def matmul(
    K: UInt8[Array, "batch inputs"], W: Float[Array, "inputs outputs"]
) -> Float[Array, "batch outputs"]:
    """K W / 255, whose gradient by W is K^T dY / 255, in three passes too."""
    return by_bytes.bind(K, W, axis=1)


def _forward(K: Array, W: Array) -> tuple[Array, Array]:
    return matmul(K, W), K


def _backward(K: Array, dY: Array) -> tuple[None, Array]:
    return None, by_bytes.bind(K, dY, axis=0)


matmul.defvjp(_forward, _backward)


def linear(
    X: Shaped[Array, "batch inputs"], W: Float[Array, "inputs outputs"], b: Float[Array, "outputs"]
) -> Float[Array, "batch outputs"]:
    """X W + b, where bytes K stand for X = K / 255."""
    return matmul(X, W) + b if X.dtype == jnp.uint8 else layers.linear(X, W, b)


def of_bytes(native: Arithmetic) -> Arithmetic:
    """Native operations, for a first layer that gets images as bytes."""
    return native._replace(linear=linear)
