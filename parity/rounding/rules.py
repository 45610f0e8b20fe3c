"""For each JAX primitive: its float64 value, and how far rounding can have moved the computed one.

A rule is called with the primitive's float64 operands x, y, ... and returns the value and its
spread, a function of the arithmetic r and of the operands' bounds dx, dy, ... It reads as the
equation that it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from . import shared
from .arithmetic import (
    DIVISION,
    EXACT,
    FUNCTIONS,
    ONE_PLUS_ERF,
    POWER,
    Arithmetic,
    Array,
    Delta,
    Function,
    Tag,
    dense,
    inside,
    log_drift,
)
from .backend import jnp, lax
from .operation import Op

Spread = Callable[..., Delta]
Rule = Callable[..., tuple[Any, ...]]  # -> value, spread[, tag]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule into the table under the names of its primitives."""

    def enter(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, f))
        return f

    return enter


# --- arithmetic ------------------------------------------------------------------------------


@rule("add", "add_any", "sub")
def _add(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    v = x - y if op.name == "sub" else x + y
    x_, y_ = op.operands
    log, logsum = op.tagged("log"), op.tagged("logsum") if op.name == "sub" else None

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        drift = dx + dy
        rounding = r.round(jnp.minimum(jnp.abs(v) + drift, r.huge))
        if rounding is not EXACT:  # x + 0 is x: without a gradient, a weight stays what it is
            idle = ((x == 0) | (y == 0)) & (dense(drift, v) == 0) & (jnp.abs(v) >= r.tiny)
            rounding = jnp.where(idle, 0.0, rounding)
        drift = drift + rounding
        # A bias may be the first term of the product's sum, and then takes part in n + 1 roundings.
        for product, other, d in ((x_, y, dy), (y_, x, dx)):
            if product.tag and product.tag.kind == "dot":
                drift = drift + r.round(jnp.abs(other) + d, product.tag.of[0] + 1)
        # Torch's cross-entropy: (max - logit) + log(sum) where optax has (max + log(sum)) - logit.
        if logsum and not r.exact:
            drift = drift + r.round(jnp.abs(v) + jnp.abs(logsum[0]))
        if op.tagged("erf") is not None and not r.exact:  # a GELU's
            drift = drift + ONE_PLUS_ERF[r.double] * r.u
        # Torch's AdamW has (1 - lr decay) w where optax has w - lr (... + decay w).
        for multiple, other in ((x_, y_), (y_, x_)):
            if multiple.tag and multiple.tag.kind == "multiple" and multiple.tag.of[0] is other:
                drift = drift + r.round(jnp.abs(other.value) + r.of(other), 2)
        return drift if r.exact else in_range(r, v, drift, (x, dx), (y, dy))

    if log and op.name != "sub":
        return v, spread, Tag("logsum", log)
    return v, spread, shared.added(op, 2.0**-126)


def in_range(r: Arithmetic, v: Array, drift: Delta, *terms: tuple[Array, Delta]) -> Delta:
    """drift of a sum of two; infinite where it may overflow, none where a term is an infinity.

    A computed term is no larger than the largest number, and a small one added to that leaves it:
    a mask of finfo.min overflows nowhere.
    """
    top, limit = (r.huge, jnp.inf) if r.double else (r.huge * (1 - 0.999 * r.u), r.huge)
    (x, dx), (y, dy) = terms
    size = jnp.minimum(jnp.abs(x) + dx, top) + jnp.minimum(jnp.abs(y) + dy, top)
    drift = inside(jnp.minimum(size, jnp.abs(v) + (dx + dy)) < limit * (1 - 0.5 * r.u), drift)
    known = jnp.isfinite(dense(dx, x)) & jnp.isfinite(dense(dy, y)) & ~jnp.isnan(v)
    return jnp.where((jnp.isinf(x) | jnp.isinf(y)) & known, 0.0, drift)


@rule("mul")
def _mul(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    halves = _halves(op)

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        a, b = jnp.abs(x), jnp.abs(y)
        drift = a * dy + dx * (b + dy)
        largest = shared.product(op, r.tiny)
        if largest is not None and drift is not EXACT:
            drift = jnp.fmin(drift, jnp.abs(x * y) + largest)
        rounding = r.product(a + dx, b + dy)
        if halves is not None and rounding is not EXACT:
            rounding = jnp.where(halves & (dense(drift, halves) == 0), 0.0, rounding)
        return drift + rounding

    same = op.operands[0] is op.operands[1]
    return x * y, spread, shared.squared(op.operands[0]) if same else shared.scaled(op)


def _halves(op: Op) -> Array | None:
    """Where an integer is multiplied by a power of two, which rounds nothing: JAX's sinc asks so
    whether it is even. None where no factor is a constant."""
    for c, x in (op.operands, op.operands[::-1]):
        if c.constant and c.bound is EXACT and jnp.ndim(c.value) == 0:
            return (jnp.frexp(jnp.abs(c.value))[0] == 0.5) & (x.value == jnp.round(x.value))
    return None


@rule("div")
def _div(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    v = x / y
    branches = op.operands[1].tag  # a divisor that's one of several: never between them

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        size, off = jnp.abs(y), dense(r.read(y, dy), y)
        low = size - off
        if op.operands[1].low is not None:
            low = jnp.fmax(low, op.operands[1].low)
        if branches and branches.kind == "cases":
            cases = [jnp.abs(c.value) - dense(r.of(c), c.value) for c in branches.of]
            low = jnp.maximum(low, jnp.min(jnp.stack(jnp.broadcast_arrays(*cases)), axis=0))
        # x'/y' - x/y = (x' - x)/y' + x/y (y - y')/y', for the least |y'| and for the largest
        near = dx + jnp.abs(v) * jnp.maximum(size - low, 0.0) + jnp.zeros(op.shape)
        far = dx * (1 / size) + jnp.abs(v) * (off / (size + off))
        drift = jnp.maximum(near / low, dense(far, v))
        largest = shared.quotient(op, low, r.tiny)
        if largest is not None:
            drift = jnp.fmin(drift, jnp.abs(v) + largest)
        drift = jnp.where(low > 0, drift, jnp.inf)
        lost = r.tiny * (1 + jnp.abs(x) + dx + 1 / low)
        return (
            drift
            + DIVISION * r.u * (jnp.abs(v) + drift)
            + jnp.where(jnp.abs(x) + dx > 0, lost, 0.0)
        )

    return v, spread, shared.divided(op)


@rule("square", "integer_pow")
def _integer_pow(op: Op, x: Array) -> tuple[Any, ...]:
    n = op.params.get("y", 2)
    v = lax.integer_pow(x, n)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        d = r.read(x, dx)
        if n == 1:
            return d
        edge = jnp.abs(x) + d if n > 0 else jnp.abs(x) - d  # where |n t^(n-1)| is largest
        if n < 0 and op.operands[0].low is not None:
            edge = jnp.fmax(edge, op.operands[0].low)
        drift = abs(n) * lax.integer_pow(jnp.where(edge > 0, edge, 1.0), n - 1) * d
        drift = jnp.where(edge > 0, drift, 0.0 if n > 0 else jnp.inf)
        size = jnp.abs(v) + drift + jnp.where(x != 0, r.tiny, 0.0)
        if n < 0:  # x^|n| may be flushed to zero, and its inverse infinite
            drift = jnp.where(size * r.tiny < 0.5, drift, jnp.inf)
        return drift + r.round(size, abs(n) + (n < 0))

    return v, spread, shared.squared(op.operands[0]) if n == 2 else None


@rule("pow")
def _pow(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    v = x**y

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        d = dense(r.read(x, dx), x)
        size = jnp.abs(x)
        low = jnp.where(x > 0, r.least(op.operands[0], d), size - d)
        sure = low > 0
        # A constant base is rounded itself: Torch takes Adam's 0.999^t in double precision.
        shift = log_drift(jnp.where(sure, size, 1.0), d + r.u * size, low - r.u * size)
        drift = jnp.abs(v) * jnp.expm1(jnp.abs(y) * shift + (jnp.abs(jnp.log(size)) + shift) * dy)
        drift = jnp.where(sure, drift, jnp.where((x == 0) & (d == 0) & (y > 0), 0.0, jnp.inf))
        return drift + r.ulps(jnp.abs(v) + drift, POWER)

    return v, spread


def _elementary(function: Function) -> Rule:
    def apply(op: Op, x: Array) -> tuple[Any, ...]:
        v = function.f(x)

        def spread(r: Arithmetic, dx: Delta) -> Delta:
            d = r.read(x, dx)
            limits = (r.least(op.operands[0], d),) if function.limited else ()
            drift = function.drift(x, v, d, *limits)
            error = r.ulps(jnp.abs(v) + drift, function.relative[r.double])
            if function.extra:
                extra = function.extra(x, v)
                if op.name == "erfc":  # in JAX's GELU; either way to compute it
                    extra = jnp.maximum(extra, ONE_PLUS_ERF[r.double])
                error = error + r.u * extra
            # Not |v| > 0: exp(-800) is zero in float64 too, yet Torch returns a subnormal.
            certain = jnp.isinf(x) | ((x == 0) & (v == 0) & (drift == 0))
            return drift + error + jnp.where(certain, 0.0, r.tiny)

        tags = {"exp": Tag("exp"), "erf": Tag("erf"), "log": Tag("log", (v,))}
        return v, spread, tags.get(op.name, shared.rooted(op))

    return apply


RULES |= {name: _elementary(function) for name, function in FUNCTIONS.items()}


# --- sums and products -----------------------------------------------------------------------


@rule("reduce_sum", "cumsum", "reduce_window_sum")
def _sum(op: Op, x: Array) -> tuple[Any, ...]:
    v = op.bind(x)
    if op.name == "reduce_window_sum":
        n = math.prod(op.params["window_dimensions"])
    else:
        axes = op.params["axes"] if op.name == "reduce_sum" else (op.params["axis"],)
        n = math.prod(x.shape[axis] for axis in axes)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        drift = dx if dx is EXACT else op.bind(dx)
        if n > 1 and not r.exact:
            drift = drift + r.round(op.bind(jnp.abs(x) + dx), n - 1)
        # Torch's log-softmax divides by this sum as exp(-log(sum)).
        if op.tagged("exp") is not None and not r.exact:
            drift = drift + r.ulps(v * jnp.abs(jnp.log(jnp.maximum(v, r.tiny))), 4)
        return drift

    return v, spread


@rule("dot_general")
def _dot_general(op: Op, A: Array, B: Array) -> tuple[Any, ...]:
    (contract, _), _ = op.params["dimension_numbers"]
    n = math.prod(A.shape[axis] for axis in contract)
    dot = partial(lax.dot_general, dimension_numbers=op.params["dimension_numbers"])
    v = dot(A, B, preferred_element_type=op.dtype)
    reach = partial(_nonzero, dimension_numbers=op.params["dimension_numbers"])
    return v, products(dot, n, A, B, reach), Tag("dot", (n,))


def products(dot: Callable[..., Array], n: int, A: Array, B: Array, reach: Callable) -> Spread:
    """The spread of sums of n products each. dot: bilinear, at the type of its operands, with an
    option `precision`. reach: 1 for the sums that hold a product of two nonzeros, else 0."""

    def spread(r: Arithmetic, dA: Delta, dB: Delta) -> Delta:
        if r.exact and dA is EXACT and dB is EXACT:
            return EXACT
        a, b = jnp.abs(A).astype(jnp.float64), jnp.abs(B).astype(jnp.float64)
        c = 0.0 if r.exact else r.gamma(n + 1) * (1 + r.operand) + r.operand
        # |A| dB + dA |B| + dA dB + c (|A| + dA)(|B| + dB), in one product per inexact factor
        above = dot if r.double or r.exact or n > 2**20 else partial(_above, dot, n)
        if dA is EXACT:
            drift = above(a, c * (b + dB) + dB)
        elif dB is EXACT:
            drift = above(c * (a + dA) + dA, b)
        else:
            drift = above(c * (a + dA) + dA, b + dB) + above(a, dB)
        if r.exact:
            return drift
        drift = jnp.where(drift < r.huge * c, drift, jnp.inf)
        a, b = a + dA, b + dB
        sizes = 1 + sum(jnp.max(jnp.where(x < r.huge, x, 0.0), initial=0.0) for x in (a, b))
        # Five of six for `above`, whose factors are at most twice these.
        return drift + 6 * r.tiny * n * sizes * reach(a, b)

    return spread


def _above(dot: Callable[..., Array], n: int, a: Array, b: Array) -> Array:
    """At least the product of two nonnegative factors, in float32: half the time of float64.

    It's computed from factors rounded once, by sums of n products: at least 1 - (n + 3) u of it.
    What is flushed to zero on the way isn't counted here.
    """
    short = dot(a.astype(jnp.float32), b.astype(jnp.float32), precision=lax.Precision.HIGHEST)
    return (1 + 4 * (n + 3) * 2.0**-24) * short.astype(jnp.float64)


def _nonzero(a: Array, b: Array, dimension_numbers: Any) -> Array:
    """1 where a row of a and a column of b both have a nonzero: blank inputs stay exact."""
    contract, batch = dimension_numbers
    rows, columns = (
        jnp.any(x > 0, axis=tuple(over)).astype(jnp.float64)
        for x, over in zip((a, b), contract, strict=True)
    )
    kept = [
        tuple(i - sum(j < i for j in over) for i in axes)
        for axes, over in zip(batch, contract, strict=True)
    ]
    left, right = kept
    return lax.dot_general(rows, columns, (((), ()), (left, right)))


@rule("scatter-add", "scatter-sub")
def _scatter_add(op: Op, x: Array, index: Array, y: Array) -> tuple[Any, ...]:
    flags = {k: op.params[k] for k in ("indices_are_sorted", "unique_indices", "mode")}

    def add(x: Array, index: Array, y: Array) -> Array:
        return lax.scatter_add(x, index, y, op.params["dimension_numbers"], **flags)

    def spread(r: Arithmetic, dx: Delta, di: Delta, dy: Delta) -> Delta:
        sizes = jnp.abs(y) + dy
        drift = add(dense(dx, x), index, dense(dy, y))
        terms, astray = jnp.zeros(()), jnp.zeros(())
        if di is not EXACT:  # an update whose place is in doubt may be missing, or land anywhere
            window = op.params["dimension_numbers"].update_window_dims
            doubt = jnp.expand_dims(jnp.any(di > 0, -1), window)
            terms, astray = jnp.sum(jnp.broadcast_to(doubt, y.shape)), jnp.sum(doubt * sizes)
            drift = drift + jnp.where(terms > 0, astray, 0.0)
        if not r.exact:
            terms = terms + add(jnp.zeros(x.shape), index, jnp.ones(y.shape))
            drift = drift + r.round(add(jnp.abs(x) + dx, index, sizes) + astray, terms)
        return drift

    return add(x, index, -y if op.name == "scatter-sub" else y), spread


def unless(index: Delta, delta: Delta) -> Delta:
    """delta, but infinity if any index isn't certain."""
    if index is EXACT:
        return delta
    return jnp.where(jnp.any(index > 0), jnp.inf, 0.0 if delta is EXACT else delta)
