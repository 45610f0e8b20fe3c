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
    A: Int64[Array, "*blocks m n"] | UInt8[Array, "*blocks m n"],
    B: Int64[Array, "*blocks n k"],
    bits: tuple[int, int],
) -> Int64[Array, "*blocks m k"]:
    """A @ B, exact where the result is below 2^63; |A| <= 2^bits[0], |B| <= 2^bits[1], n <= 2^13.

    uint8 A, a single digit once 128 is taken off, costs half of what its 8 bits would.
    """
    right = digits(B, bits[1])
    if A.dtype == jnp.uint8:
        left = [lax.bitcast_convert_type(A ^ jnp.uint8(0x80), jnp.int8)]
    else:
        left = digits(A, bits[0])
    m, k = A.shape[-2], B.shape[-1]
    products = jnp.matmul(
        jnp.concatenate(left, -2), jnp.concatenate(right, -1), preferred_element_type=jnp.int32
    )
    powers: dict[int, Int32[Array, "..."]] = {}
    for i in range(len(left)):
        for j, digit in enumerate(right):
            part = products[..., i * m : (i + 1) * m, j * k : (j + 1) * k]
            if A.dtype == jnp.uint8:
                part = part + (digit.sum(-2, keepdims=True, dtype=jnp.int32) << 7)
            powers[i + j] = powers[i + j] + part if i + j in powers else part
    return sum(part.astype(jnp.int64) << (BASE * power) for power, part in powers.items())


def digits(x: Int64[Array, "*shape"], bits: int) -> list[Int8[Array, "*shape"]]:
    """x = sum_i digits[i] 256^i for |x| <= 2^bits."""
    count = -(-(bits + 2) // BASE)
    # 128 more in each digit makes all of them bytes without a carry; its top bit takes it off.
    middle = 0x80 * ((1 << BASE * count) - 1) // 0xFF
    raised = (x + middle) ^ middle
    return [(raised >> (BASE * i)).astype(jnp.int8) for i in range(count)]
