"""Reading and writing at indices: gather, and the scatters that multiply or take an extremum.

An index that rounding may turn, one of a sort say, reads any entry.
"""

from __future__ import annotations

from typing import Any

from .arithmetic import EXACT, Arithmetic, Array, Delta, dense
from .backend import evaluate, jnp, lax
from .rules import Op, rule, unless
from .sequences import product_spread


@rule("gather")
def _gather(op: Op, x: Array, index: Array) -> tuple[Any, ...]:
    v = op.bind(x, index)
    numbers, slices = op.params["dimension_numbers"], op.params["slice_sizes"]
    filled = op.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP

    def spread(r: Arithmetic, dx: Delta, di: Delta) -> Delta:
        if dx is EXACT and di is EXACT:
            return EXACT
        d = dense(dx, x)
        moved = evaluate(lax.gather_p, op.params | {"fill_value": 0}, d, index)
        if di is EXACT:
            return moved
        di = dense(di, index)
        doubt = jnp.where(jnp.any(di > 0, -1), jnp.max(jnp.abs(x) + d, initial=0.0), 0.0)
        if filled:  # a doubtful index may lie outside, and then reads the fill value
            last = jnp.asarray([x.shape[i] - slices[i] for i in numbers.start_index_map])
            outside = jnp.any((di > 0) & ((index - di < 0) | (index + di > last)), -1)
            doubt = jnp.where(outside, jnp.inf, doubt)
        doubt = jnp.expand_dims(doubt, numbers.offset_dims)
        return jnp.where(doubt > 0, doubt + jnp.abs(v), moved)

    return v, spread


@rule("dynamic_slice", "dynamic_update_slice")
def _dynamic_slice(op: Op, x: Array, *rest: Array) -> tuple[Any, ...]:
    """The slice at an index, or x with that slice overwritten by y."""
    v = op.bind(x, *rest)
    data = 1 if op.name == "dynamic_slice" else 2

    def spread(r: Arithmetic, *ds: Delta) -> Delta:
        if all(d is EXACT for d in ds):
            return EXACT
        xs = (x, *rest)[:data]
        dense_ds = [dense(d, t) for d, t in zip(ds, xs, strict=False)]
        moved = op.bind(*dense_ds, *rest[data - 1 :])
        doubt = [jnp.any(d > 0) for d in ds[data:] if d is not EXACT]
        if not doubt:
            return moved
        sizes = [jnp.abs(t) + d for t, d in zip(xs, dense_ds, strict=True)]
        largest = jnp.max(sizes[-1], initial=0.0)
        if data == 2:
            largest = jnp.maximum(sizes[0], largest)
        return jnp.where(jnp.any(jnp.stack(doubt)), largest + jnp.abs(v), moved)

    return v, spread


@rule("scatter-mul")
def _scatter_mul(op: Op, x: Array, index: Array, y: Array) -> tuple[Any, ...]:
    options = {k: op.params[k] for k in ("indices_are_sorted", "unique_indices", "mode")}

    def product(x: Array, y: Array) -> Array:
        return lax.scatter_mul(x, index, y, op.params["dimension_numbers"], **options)

    def total(x: Array, y: Array) -> Array:
        return lax.scatter_add(x, index, y, op.params["dimension_numbers"], **options)

    v = product(x, y)

    def spread(r: Arithmetic, dx: Delta, di: Delta, dy: Delta) -> Delta:
        if r.exact:
            return _unknown(dx, di, dy)
        return unless(di, product_spread(r, v, product, total, (x, dx), (y, dy)))

    return v, spread


@rule("scatter-min", "scatter-max")
def _scatter_extremum(op: Op, x: Array, index: Array, y: Array) -> tuple[Any, ...]:
    options = {k: op.params[k] for k in ("indices_are_sorted", "unique_indices", "mode")}
    take = lax.scatter_max if op.name == "scatter-max" else lax.scatter_min

    def spread(r: Arithmetic, dx: Delta, di: Delta, dy: Delta) -> Delta:
        if all(d is EXACT for d in (dx, di, dy)):
            return EXACT
        largest = lax.scatter_max(
            dense(dx, x), index, dense(dy, y), op.params["dimension_numbers"], **options
        )
        return unless(di, largest)

    return take(x, index, y, op.params["dimension_numbers"], **options), spread


def _unknown(*ds: Delta) -> Delta:
    """Integers: exact, or if anything isn't unknown."""
    inexact = [jnp.any(d > 0) for d in ds if d is not EXACT]
    return jnp.where(sum(inexact) > 0, jnp.inf, 0.0) if inexact else EXACT
