"""Rules where rounding can change a decision: comparisons, selections, indices; and moving data.

A comparison is *uncertain* where |x - y| <= dx + dy and the operands aren't both exact; its bound
is 1 there and 0 elsewhere. A selection by an uncertain predicate spans both its branches.
"""

from __future__ import annotations

import math
from typing import Any

from .arithmetic import EXACT, Approx, Arithmetic, Array, Delta, Tag, dense
from .backend import jnp, lax
from .rules import Op, Spread, rule, unless

# --- order -----------------------------------------------------------------------------------


def undecided(r: Arithmetic, x: Array, y: Array, dx: Delta, dy: Delta) -> Array:
    """Where rounding could turn x < y, x == y or x > y into another of the three."""
    margin = dense(dx + dy, jnp.asarray(x) + y)
    flush = 0.0 if r.exact else 2 * r.tiny  # two subnormals read as zero are equal
    return ~(jnp.abs(x - y) > margin + flush) & ((x != y) | (margin > 0))


@rule("eq", "ne", "lt", "le", "gt", "ge")
def _compare(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    x_, y_ = op.operands

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        if x_ is y_:  # x != x asks for NaN
            return EXACT if dx is EXACT else jnp.isinf(dx).astype(float)
        if not jnp.issubdtype(x.dtype, jnp.floating) and dx is EXACT and dy is EXACT:
            return EXACT
        for side, other, d in ((x_, y_, dx), (y_, x_, dy)):
            tag = other.tag
            if tag and tag.kind == "extremum" and any(side is t for t in tag.of):
                # jnp.maximum's gradient asks x == max(x, y): decided as x against y, since a
                # maximum is one of its operands to the last bit.
                a, b = tag.of
                return undecided(r, a.value, b.value, r.of(a), r.of(b)).astype(float)
            if tag and tag.kind == "peak" and tag.of[0] is side and _aligned(side, tag):
                return _contested(side.value, d, tag.of[1]).astype(float)
        if x.dtype == bool:
            return jnp.maximum(dense(dx, x), dense(dy, y))
        return undecided(r, x, y, dx, dy).astype(float)

    return op.bind(x, y), spread


def _contested(x: Array, dx: Delta, axes: tuple[int, ...]) -> Array:
    """Where it's uncertain whether x is the largest along axes."""
    d = dense(dx, x)
    candidate = x + d >= jnp.max(x - d, axis=axes, keepdims=True)
    alone = jnp.sum(candidate, axis=axes, keepdims=True) == 1
    tied = x - d >= jnp.max(x + d, axis=axes, keepdims=True)  # exact and equal
    return candidate & ~(candidate & alone) & ~tied


def _aligned(x: Approx, tag: Tag) -> bool:
    """Whether a broadcast maximum lies along the same axes of x that it was taken over."""
    _, axes, dims = tag.of
    shape = x.value.shape
    return len(dims) == len(shape) and all(
        dims[i] == i or i in axes or shape[i] == 1 for i in range(len(shape))
    )


@rule("max", "min")
def _extremum(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    largest = op.name == "max"
    v = jnp.maximum(x, y) if largest else jnp.minimum(x, y)

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        if dx is EXACT and dy is EXACT:
            return EXACT
        return _either(r, x, y, dense(dx, v), dense(dy, v), (x > y) == largest)

    return v, spread, Tag("extremum", op.operands)


@rule("reduce_max", "reduce_min")
def _peak(op: Op, x: Array) -> tuple[Any, ...]:
    axes = tuple(op.params["axes"])

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        """1-Lipschitz in the largest change of those that could be the largest."""
        if dx is EXACT:
            return EXACT
        y = (x if op.name == "reduce_max" else -x.astype(float)).astype(float)
        least = jnp.nextafter(jnp.max(y - dx, axis=axes, keepdims=True, initial=-jnp.inf), -jnp.inf)
        return jnp.max(jnp.where(y + dx < least, 0.0, dx), axis=axes, initial=0.0)

    dims = tuple(i for i in range(x.ndim) if i not in axes)
    tag = Tag("peak", (op.operands[0], axes, dims)) if op.name == "reduce_max" else None
    return op.bind(x), spread, tag


@rule("argmax", "argmin")
def _argmax(op: Op, x: Array) -> tuple[Any, ...]:
    axes = tuple(op.params["axes"])
    last = max(math.prod(x.shape[axis] for axis in axes) - 1, 0)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        if dx is EXACT:
            return EXACT
        contested = _contested(x if op.name == "argmax" else -x, dx, axes)
        return last * jnp.any(contested, axis=axes).astype(float)

    return op.bind(x), spread


@rule("sign")
def _sign(op: Op, x: Array) -> tuple[Any, ...]:
    def spread(r: Arithmetic, dx: Delta) -> Delta:
        if r.exact and dx is EXACT:
            return EXACT
        return jnp.where(undecided(r, x, jnp.zeros_like(x), dx, EXACT), 1.0 + jnp.abs(v), 0.0)

    v = jnp.sign(x)
    return v, spread


@rule("is_finite")
def _is_finite(op: Op, x: Array) -> tuple[Any, ...]:
    v = jnp.isfinite(x)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        return EXACT if dx is EXACT else jnp.isinf(dx).astype(float)

    return v, spread


@rule("select_n")
def _select_n(op: Op, which: Array, *cases: Array) -> tuple[Any, ...]:
    return *select(which, *cases), Tag("cases", op.operands[1:])


def select(which: Array, *cases: Array) -> tuple[Array, Spread]:
    """One of the cases, or where `which` is uncertain any of them."""
    v = lax.select_n(which, *cases)

    def spread(r: Arithmetic, d: Delta, *ds: Delta) -> Delta:
        if d is EXACT and all(x is EXACT for x in ds):
            return EXACT
        ds = tuple(dense(x, v) for x in ds)
        certain = lax.select_n(which, *ds)
        if d is EXACT:
            return certain
        far = [
            jnp.where(c == v, 0.0, jnp.abs(c.astype(float) - v)) + x
            for c, x in zip(cases, ds, strict=True)
        ]
        span = jnp.max(jnp.stack(far), axis=0)
        return jnp.where(dense(d, which) > 0, span, certain)

    return v, spread


@rule("clamp")
def _clamp(op: Op, low: Array, x: Array, high: Array) -> tuple[Any, ...]:
    """max(low, min(x, high))"""
    inner = jnp.minimum(x, high)

    def spread(r: Arithmetic, *ds: Delta) -> Delta:
        if all(d is EXACT for d in ds):
            return EXACT
        dl, dx, dh = (dense(d, x) for d in ds)
        inside = _either(r, x, high, dx, dh, x < high)
        return _either(r, inner, low, inside, dl, inner > low)

    return op.bind(low, x, high), spread


def _either(r: Arithmetic, x: Array, y: Array, dx: Array, dy: Array, first: Array) -> Array:
    """The bound of the larger, or smaller, of x and y; first: whether that's x."""
    return jnp.where(undecided(r, x, y, dx, dy), jnp.maximum(dx, dy), jnp.where(first, dx, dy))


# --- booleans --------------------------------------------------------------------------------


@rule("and", "or", "xor", "not", "reduce_and", "reduce_or")
def _logic(op: Op, *xs: Array) -> tuple[Any, ...]:
    v = op.bind(*xs)

    def spread(r: Arithmetic, *ds: Delta) -> Delta:
        if all(d is EXACT for d in ds):
            return EXACT
        unsure = [dense(d, x) > 0 for d, x in zip(ds, xs, strict=True)]
        if v.dtype != bool or op.name in ("xor", "not"):
            wrong = 1.0 if v.dtype == bool else jnp.inf
            return jnp.where(jnp.any(jnp.stack(jnp.broadcast_arrays(*unsure)), 0), wrong, 0.0)
        most = op.bind(*(x | u for x, u in zip(xs, unsure, strict=True)))
        least = op.bind(*(x & ~u for x, u in zip(xs, unsure, strict=True)))
        return (most & ~least).astype(float)

    return v, spread


# --- types -----------------------------------------------------------------------------------


@rule("convert_element_type", "reduce_precision")
def _convert(op: Op, x: Array) -> tuple[Any, ...]:
    real = jnp.issubdtype(op.dtype, jnp.floating)
    if real:
        v = x.astype(jnp.float64)
    elif op.dtype == bool:
        v = x != 0
    else:
        v = x.astype(op.dtype)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        if op.name == "reduce_precision":
            return dx + r.ulps(jnp.abs(x) + dx, 2.0 ** -(op.params["mantissa_bits"] + 1) / r.u)
        if jnp.issubdtype(x.dtype, jnp.floating) and real:
            return dx + (r.ulps(jnp.abs(x) + dx, 1) if op.narrows else EXACT)
        if real:  # integers beyond 1/u are rounded
            return (
                dx if x.dtype == bool else dx + jnp.where(jnp.abs(v) * r.u > 0.5, r.u * abs(v), 0)
            )
        if op.dtype == bool:
            return EXACT if dx is EXACT else ((jnp.abs(x) <= dx) & (dx > 0)).astype(float)
        if dx is EXACT or jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
            return dx
        return jnp.where(jnp.trunc(x - dx) == jnp.trunc(x + dx), 0.0, dx + 1)

    return v, spread


# --- moving data -----------------------------------------------------------------------------

# Which operands are data; the others are indices.
_MOVES: dict[str, Any] = {
    "copy": (0,),
    "name": (0,),
    "sharding_constraint": (0,),
    "stop_gradient": (0,),
    "reshape": (0,),
    "broadcast_in_dim": (0,),
    "transpose": (0,),
    "squeeze": (0,),
    "expand_dims": (0,),
    "rev": (0,),
    "slice": (0,),
    "split": (0,),
    "concatenate": slice(None),
    "stack": slice(None),
    "unstack": (0,),
    "tile": (0,),
    "pad": (0, 1),
    "scatter": (0, 2),
    "optimization_barrier": slice(None),
}


@rule("neg", "abs")
def _isometry(op: Op, x: Array) -> tuple[Any, ...]:
    return op.bind(x), lambda r, dx: dx, op.operands[0].tag if op.tagged("exp") == () else None


@rule(*_MOVES)
def _move(op: Op, *xs: Array) -> tuple[Any, ...]:
    which = range(len(xs))
    data = which[_MOVES[op.name]] if isinstance(_MOVES[op.name], slice) else _MOVES[op.name]

    def spread(r: Arithmetic, *ds: Delta) -> Delta:
        if all(d is EXACT for d in ds):
            return EXACT
        moved = op.bind(*(dense(ds[i], xs[i]) if i in data else xs[i] for i in which))
        for i in which:
            moved = moved if i in data else unless(ds[i], moved)
        return moved

    return op.bind(*xs), spread, _carried(op)


def _carried(op: Op) -> Tag | None:
    """The operand's tag, where the moved value still deserves it."""
    tag = op.operands[0].tag
    if tag is None or op.name in ("copy", "stop_gradient"):
        return tag
    shape, moved = op.operands[0].value.shape, op.shape
    if op.name not in ("reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims"):
        return None
    if tag.kind in ("exp", "dot"):
        return tag
    if tag.kind in ("log", "logsum"):
        return Tag(tag.kind, (op.bind(*tag.of),))
    if tag.kind != "peak" or op.name == "transpose":
        return None
    x, axes, dims = tag.of
    places: list[int | None] = [None] * len(moved)
    if op.name == "broadcast_in_dim":
        for dim, place in zip(dims, op.params["broadcast_dimensions"], strict=True):
            places[place] = dim
        return Tag("peak", (x, axes, tuple(places)))
    kept = [dim for dim, size in zip(dims, shape, strict=True) if size != 1]
    wide = [i for i, size in enumerate(moved) if size != 1]
    if [moved[i] for i in wide] != [size for size in shape if size != 1]:
        return None
    for place, dim in zip(wide, kept, strict=True):
        places[place] = dim
    return Tag("peak", (x, axes, tuple(places)))
