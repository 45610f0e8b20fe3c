"""Products over an axis, and what runs along one: cumulative products, extrema, log-sum-exp.

A cumulative sum is a sum, see `rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .arithmetic import EXACT, Arithmetic, Array, Delta, dense, inside
from .backend import jnp, lax
from .rules import Op, rule


def product_spread(
    r: Arithmetic,
    v: Array,
    product: Callable[..., Array],
    total: Callable[..., Array],
    *factors: tuple[Array, Delta],
) -> Array:
    """How far a product of many factors can be off, in any order of multiplication.

        |v| (prod(1 + d_i / |x_i|) - 1) + gamma(n) prod(|x_i| + d_i)

    or the second product itself where v is zero. product, total: of all factors' arrays. What is
    flushed to zero on the way may have been magnified by all factors above 1.
    """
    factors = tuple((jnp.abs(x), dense(r.read(x, d), x)) for x, d in factors)
    shift = total(*(jnp.log1p(jnp.where(x > 0, d / jnp.where(x > 0, x, 1), 0)) for x, d in factors))
    size = product(*(x + d for x, d in factors))
    growth = product(*(jnp.maximum(x + d, 1) for x, d in factors))
    n = total(*(jnp.ones(x.shape) for x, _ in factors))
    drift = jnp.where(v != 0, jnp.abs(v) * jnp.expm1(shift), size)
    error = r.gamma(n) * size + jnp.where(size > 0, 3 * n * r.tiny * growth, 0.0)
    return drift + inside(growth < r.huge, error)


@rule("reduce_prod", "cumprod")
def _product(op: Op, x: Array) -> tuple[Any, ...]:
    def total(t: Array) -> Array:
        return lax.cumsum(t, **op.params) if op.name == "cumprod" else jnp.sum(t, op.params["axes"])

    v = op.bind(x)
    return v, lambda r, dx: product_spread(r, v, op.bind, total, (x, dx))


@rule("cummax", "cummin")
def _running_extremum(op: Op, x: Array) -> tuple[Any, ...]:
    sign = 1 if op.name == "cummax" else -1

    def spread(r: Arithmetic, dx: Delta) -> Delta:  # 1-Lipschitz in the largest change
        return dx if dx is EXACT else sign * op.bind(sign * dense(dx, x))

    return op.bind(x), spread


# Each log(exp(a) + exp(b)) on the way, as max + log1p(exp(min - max)): |v| from the last sum and
# 10.3 from log1p, exp and the difference, by their own allowances.
_LOG_ADD = 11


@rule("cumlogsumexp")
def _running_logsumexp(op: Op, x: Array) -> tuple[Any, ...]:
    v = op.bind(x)
    certain = v == -jnp.inf  # of nothing but masked entries

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        d = dense(dx, x)
        drift = lax.cummax(d, **op.params)
        size = lax.cummax(jnp.where(jnp.isfinite(x), jnp.abs(x), 0.0), **op.params) + drift
        n = lax.cumsum(jnp.ones(x.shape), **op.params)
        error = 2 * n * r.u * (size + math.log(max(x.shape[op.params["axis"]], 1)) + _LOG_ADD)
        return jnp.where(certain & (drift == 0), 0.0, drift + error)

    return v, spread
