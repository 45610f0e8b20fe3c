"""Products of bytes by float32 matrices, as jax_mlp.images computes them and as floats do.

    v = K B / 255;  by parts: (K B_2 + K B_1 + K B_0) float32(1/255), B_0 + B_1 + B_2 = B

    |computed - v| <= (gamma(n + 1) + 5 u) K |B| / 255,    gamma(n) = n u / (1 - n u)

By parts, products are exact, and each goes through n + 1 additions at most: the n - 1 of its part's
sum and two more, in whatever order. All three parts have the sign of B, so that their sizes add up
to |B|; what of them is flushed is below 2^-126. The factor float32(1/255) is off by u and the last
product by another: 2 u (1 + gamma) + u^2, less than 5 u where gamma < 1.

From floats, x = float32(k/255) is off by u, and sums of n products have n roundings: gamma(n + 1).
So the bound holds for both sides of a comparison, whichever formula they compute.
"""

from __future__ import annotations

from typing import Any

from .arithmetic import Arithmetic, Array, Delta, Tag
from .backend import jnp, lax
from .operation import Op
from .rules import products, rule


@rule("by_bytes")
def _by_bytes(op: Op, K: Array, B: Array) -> tuple[Any, ...]:
    axis = op.params["axis"]
    n = K.shape[axis]
    X = K.astype(jnp.float64) / 255

    def dot(a: Array, b: Array, **options: Any) -> Array:
        return lax.dot_general(a, b, (((axis,), (0,)), ((), ())), **options)

    def reach(a: Array, b: Array) -> Array:
        rows, columns = jnp.any(a > 0, axis=axis), jnp.any(b > 0, axis=0)
        return rows[:, None] * 1.0 * columns[None]

    sums = products(dot, n, X, B, reach)

    def spread(r: Arithmetic, dK: Delta, dB: Delta) -> Delta:
        dX = dK * (1 / 255)
        return sums(r, dX, dB) + 5 * r.u * dot(X, jnp.abs(B) + dB)

    return dot(X, B), spread, Tag("dot", (n,))
