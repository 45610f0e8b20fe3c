"""Products of matrices of integers by int8 multiplications with sums of 32 bits, as units for
neural networks do them: every one exact.

An integer of b bits is cut into digits to the base 256, from -128 to 127: d of them reach from
-128 (256^d - 1)/255 to 127 (256^d - 1)/255, and so hold any |x| <= 2^b with b <= 8d - 2. A product
of two digits is at most 2^14, a sum of 2^13 of them at most 2^27, and at most 2^4 such sums, those
of one power of 256, are added before 64 bits take over: 2^31 at the very most is never reached,
since factors have 7 digits or fewer. Source: Ootomo, Ozaki, Yokota, "DGEMM on integer matrix
multiplication unit", IJHPCA 38 (2024).
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int8, Int32, Int64, UInt8

BASE = 8  # bits of a digit


def matmul(
    A: Int64[Array, "*blocks rows columns"] | UInt8[Array, "*blocks rows columns"],
    B: Int64[Array, "*blocks n k"],
    bits: tuple[int, int],
    inner: int = 1,
) -> Int64[Array, "*blocks m k"]:
    """A @ B, exact where the result is below 2^63; |A| <= 2^bits[0], |B| <= 2^bits[1], n <= 2^13.

    inner: 0 for A^T @ B. uint8 A, a single digit once 128 is taken off, costs half of what its 8
    bits would.
    """
    outer, k = 1 - inner - 2, B.shape[-1]  # the axis of A that the result keeps, from the end
    m = A.shape[outer]
    # B leads, and nothing is transposed as int8: a CPU multiplies ten times faster so.
    right = jnp.concatenate(digits(jnp.swapaxes(B, -1, -2), bits[1]), -2)
    if A.dtype == jnp.uint8:
        left = lax.bitcast_convert_type(A ^ jnp.uint8(0x80), jnp.int8)
    else:
        left = jnp.concatenate(digits(A, bits[0]), outer)
    blocks = tuple(range(A.ndim - 2))
    dimensions = (((A.ndim - 1,), (A.ndim - 2 + inner,)), (blocks, blocks))
    products = lax.dot_general(right, left, dimensions, preferred_element_type=jnp.int32)
    powers: dict[int, Int32[Array, "..."]] = {}
    for i in range(0, left.shape[outer], m):
        for j in range(0, right.shape[-2], k):
            part, power = products[..., j : j + k, i : i + m], i // m + j // k
            powers[power] = powers[power] + part if power in powers else part
    result = sum(part.astype(jnp.int64) << (BASE * power) for power, part in powers.items())
    if A.dtype == jnp.uint8:
        result = result + (B.sum(-2)[..., None] << (BASE - 1))
    return jnp.swapaxes(result, -1, -2)


def digits(x: Int64[Array, "*shape"], bits: int) -> list[Int8[Array, "*shape"]]:
    """x = sum_i digits[i] 256^i for |x| <= 2^bits."""
    count = -(-(bits + 2) // BASE)
    # 128 more in each digit makes all of them bytes without a carry; its top bit takes it off.
    middle = 0x80 * ((1 << BASE * count) - 1) // 0xFF
    # Without the barrier XLA computes x anew for each digit.
    raised = lax.optimization_barrier((x + middle) ^ middle)
    return [(raised >> (BASE * i)).astype(jnp.int8) for i in range(count)]
