"""Sorting: the k-th smallest of numbers, and which it is.

The k-th smallest of x lies between the k-th smallest of x - d and of x + d. *Which* of them it is
stays uncertain where that of a neighbour in order overlaps with it: *contested*.
"""

from __future__ import annotations

from typing import Any

from .arithmetic import EXACT, Arithmetic, Array, Delta, dense
from .backend import jnp, lax
from .choices import undecided
from .rules import Op, rule


def ranked(r: Arithmetic, x: Array, dx: Delta, axis: int) -> tuple[Array, Array, Array]:
    """The order of x (smallest first, of equals the first), the bound of each in that order, and
    where it's contested."""
    x = x.astype(jnp.float64)
    order = jnp.argsort(x, axis=axis, stable=True)
    v, d = (jnp.take_along_axis(t, order, axis) for t in (x, dense(r.read(x, dx), x)))
    # A sum of v and d may have been rounded down; two exact equals are no contest.
    reach = jnp.where(d > 0, d + 2.0**-51 * jnp.abs(v), 0.0)
    before = _others(jnp.where(d > 0, v + reach, jnp.nextafter(v, -jnp.inf)), axis)
    behind = -jnp.flip(
        _others(jnp.flip(-jnp.where(d > 0, v - reach, jnp.nextafter(v, jnp.inf)), axis), axis), axis
    )
    contested = (before >= v - reach) | (behind <= v + reach)
    off = jnp.maximum(before - v, v - behind) * (1 + 2.0**-50)
    spread = jnp.where(contested & jnp.isfinite(v), jnp.maximum(d, off), d)
    return order, spread, contested


def _others(x: Array, axis: int) -> Array:
    """The largest of those before each."""
    first = [slice(None)] * x.ndim
    first[axis] = slice(0, 1)
    all_but_last = list(first)
    all_but_last[axis] = slice(0, max(x.shape[axis] - 1, 0))
    edge = jnp.full_like(x[tuple(first)], -jnp.inf)
    return jnp.concatenate([edge, lax.cummax(x, axis=axis % x.ndim)[tuple(all_but_last)]], axis)


def _any_of(x: Array, d: Array, axis: int) -> Array:
    """The bound of one of x, whichever it is."""
    x = x.astype(jnp.float64)
    low, high = (jnp.min(x - d, axis, keepdims=True), jnp.max(x + d, axis, keepdims=True))
    return jnp.broadcast_to(high - low, x.shape)


@rule("sort")
def _sort(op: Op, *xs: Array) -> tuple[Any, ...]:
    """Of several operands: by the first num_keys of them; the others go where these go."""
    axis, keys = op.params["dimension"], op.params["num_keys"]

    def spread(r: Arithmetic, *ds: Delta) -> Any:
        if all(d is EXACT for d in ds):
            return EXACT
        order, first, contested = ranked(r, xs[0], ds[0], axis)
        if keys > 1:
            doubt = sum(jnp.any(dense(d, x) > 0) for x, d in zip(xs[:keys], ds[:keys], strict=True))
            return [jnp.where(doubt > 0, jnp.inf, jnp.zeros(x.shape)) for x in xs]
        found = [first]
        for x, d in zip(xs[1:], ds[1:], strict=True):
            d = dense(d, x)
            moved = jnp.take_along_axis(d, order, axis)
            found.append(jnp.where(contested, _any_of(x, d, axis), moved))
        return found

    return op.bind(*xs), spread


@rule("top_k")
def _top_k(op: Op, x: Array) -> tuple[Any, ...]:
    axis, k = op.params["axis"], op.params["k"]

    def spread(r: Arithmetic, dx: Delta) -> Any:
        if dx is EXACT:
            return EXACT
        _, bound, contested = ranked(r, -x.astype(jnp.float64), dx, axis)
        top = (slice(None),) * (axis % x.ndim) + (slice(0, k),)
        return [bound[top], (x.shape[axis] - 1.0) * contested[top]]

    return op.bind(x), spread


@rule("lt_to", "le_to")
def _total_order(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    """A comparison for which -0 lies below 0, in searches of sorted numbers."""

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        if dx is EXACT and dy is EXACT:
            return EXACT
        zeros = (x == 0) & (y == 0) & (jnp.signbit(x) != jnp.signbit(y))
        return (undecided(r, x, y, dx, dy) | zeros).astype(float)

    return op.bind(x, y), spread
