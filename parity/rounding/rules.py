"""For each JAX primitive: its float64 value, and how far rounding can have moved the computed one.

A rule is called with the primitive's float64 operands x, y, ... and returns the value and its
spread, a function of the arithmetic r and of the operands' bounds dx, dy, ... It reads as the
equation that it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax

from .arithmetic import (
    DIVISION,
    EXACT,
    FUNCTIONS,
    ONE_PLUS_ERF,
    POWER,
    Approx,
    Arithmetic,
    Array,
    Delta,
    Function,
    Tag,
    dense,
    inside,
    sqrt_drift,
)


@dataclass(frozen=True)
class Op:
    """One equation of the jaxpr, as far as a rule needs it."""

    name: str
    params: dict[str, Any]
    operands: tuple[Approx, ...]
    bind: Callable[..., Any]  # the primitive itself, with its parameters
    shape: tuple[int, ...]
    dtype: Any
    narrows: bool = False  # the result's type is narrower than the program's

    def tagged(self, kind: str) -> tuple[Any, ...] | None:
        """What the first operand tagged with `kind` carries."""
        return next((x.tag.of for x in self.operands if x.tag and x.tag.kind == kind), None)


Spread = Callable[..., Delta]
Rule = Callable[..., tuple[Any, ...]]  # -> value, spread[, tag]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Enter a rule into the table under the names of its primitives."""

    def enter(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, f))
        return f

    return enter


_SQUARES = {"square", "abs", "exp", "exp2", "logistic", "sqrt", "rsqrt", "erfc"}
_SIGN_KEEPING = {"add", "add_any", "mul", "div", "max", "min", "reduce_sum", "cumsum", "reduce_max",
                 "reduce_window_sum", "reduce_window_max", "copy", "reshape", "broadcast_in_dim",
                 "squeeze", "convert_element_type", "stop_gradient"}  # fmt: skip


def nonnegative(op: Op) -> bool:
    """Whether the result is never negative, in any arithmetic."""
    if op.name == "mul" and op.operands[0] is op.operands[1]:
        return True
    if op.name == "integer_pow" and op.params["y"] % 2 == 0:
        return True
    kept = op.name in _SIGN_KEEPING and all(x.nonnegative for x in op.operands)
    return kept or op.name in _SQUARES


# --- arithmetic ------------------------------------------------------------------------------


@rule("add", "add_any", "sub")
def _add(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    v = x - y if op.name == "sub" else x + y
    x_, y_ = op.operands
    log, logsum = op.tagged("log"), op.tagged("logsum") if op.name == "sub" else None

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        drift = dx + dy
        drift += r.round(jnp.abs(v) + drift)
        # A bias may be the first term of the product's sum, and then takes part in n + 1 roundings.
        for product, other, d in ((x_, y, dy), (y_, x, dx)):
            if product.tag and product.tag.kind == "dot":
                drift += r.round(jnp.abs(other) + d, product.tag.of[0] + 1)
        # Torch's cross-entropy: (max - logit) + log(sum) where optax has (max + log(sum)) - logit.
        if logsum and not r.exact:
            drift += r.round(jnp.abs(v) + jnp.abs(logsum[0]))
        if op.tagged("erf") is not None and not r.exact:  # a GELU's
            drift += ONE_PLUS_ERF[r.double] * r.u
        return drift if r.exact else in_range(r, v, drift, (x, dx), (y, dy))

    return v, spread, Tag("logsum", log) if log and op.name != "sub" else None


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
    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        a, b = jnp.abs(x), jnp.abs(y)
        return a * dy + dx * (b + dy) + r.product(a + dx, b + dy)

    return x * y, spread


@rule("div")
def _div(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    v = x / y
    branches = op.operands[1].tag  # a divisor that's one of several: never between them

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        low = jnp.abs(y) - dense(r.read(y, dy), y)
        if branches and branches.kind == "cases":
            cases = [jnp.abs(c.value) - dense(r.of(c), c.value) for c in branches.of]
            low = jnp.maximum(low, jnp.min(jnp.stack(jnp.broadcast_arrays(*cases)), axis=0))
        drift = jnp.where(low > 0, (dx + jnp.abs(v) * dy + jnp.zeros(op.shape)) / low, jnp.inf)
        return drift + r.product(jnp.abs(x) + dx, 1 / low, DIVISION)

    return v, spread


@rule("square", "integer_pow")
def _integer_pow(op: Op, x: Array) -> tuple[Any, ...]:
    n = op.params.get("y", 2)
    v = lax.integer_pow(x, n)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        d = r.read(x, dx)
        edge = jnp.abs(x) + d if n > 0 else jnp.abs(x) - d  # where |n t^(n-1)| is largest
        drift = abs(n) * lax.integer_pow(jnp.where(edge > 0, edge, 1.0), n - 1) * d
        drift = jnp.where(edge > 0, drift, 0.0 if n > 0 else jnp.inf)
        size = jnp.abs(v) + drift + jnp.where(x != 0, r.tiny, 0.0)
        if n < 0:  # x^|n| may be flushed to zero, and its inverse infinite
            drift = jnp.where(size * r.tiny < 0.5, drift, jnp.inf)
        return drift + r.round(size, abs(n) + (n < 0))

    return v, spread


@rule("pow")
def _pow(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    v = x**y

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        d = dense(r.read(x, dx), x)
        sure = jnp.abs(x) > d
        shift = -jnp.log1p(-jnp.where(sure, d / jnp.abs(x), 0.0))
        drift = jnp.abs(v) * jnp.expm1(
            jnp.abs(y) * shift + (jnp.abs(jnp.log(jnp.abs(x))) + shift) * dy
        )
        drift = jnp.where(sure, drift, jnp.where((x == 0) & (d == 0) & (y > 0), 0.0, jnp.inf))
        return drift + r.ulps(jnp.abs(v) + drift, POWER)

    return v, spread


def _elementary(function: Function) -> Rule:
    def apply(op: Op, x: Array) -> tuple[Any, ...]:
        v = function.f(x)
        drifts = function.drift
        if op.name == "sqrt":  # a norm: its square can't have been rounded below zero
            drifts = partial(sqrt_drift, nonnegative=op.operands[0].nonnegative)

        def spread(r: Arithmetic, dx: Delta) -> Delta:
            drift = drifts(x, v, r.read(x, dx))
            error = r.ulps(jnp.abs(v) + drift, function.relative[r.double])
            if function.extra:
                extra = function.extra(x, v)
                if op.name == "erfc":  # in JAX's GELU; either way to compute it
                    extra = jnp.maximum(extra, ONE_PLUS_ERF[r.double])
                error += r.u * extra
            # Not |v| > 0: exp(-800) is zero in float64 too, yet Torch returns a subnormal.
            certain = jnp.isinf(x) | ((x == 0) & (v == 0) & (drift == 0))
            return drift + error + jnp.where(certain, 0.0, r.tiny)

        tags = {"exp": Tag("exp"), "erf": Tag("erf"), "log": Tag("log", (v,))}
        return v, spread, tags.get(op.name)

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
            drift += r.round(op.bind(jnp.abs(x) + dx), n - 1)
        # Torch's log-softmax divides by this sum as exp(-log(sum)).
        if op.tagged("exp") is not None and not r.exact:
            drift += r.ulps(v * jnp.abs(jnp.log(jnp.maximum(v, r.tiny))), 4)
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
        terms, astray = 0.0, 0.0
        if di is not EXACT:  # an update whose place is in doubt may be missing, or land anywhere
            window = op.params["dimension_numbers"].update_window_dims
            doubt = jnp.expand_dims(jnp.any(di > 0, -1), window)
            terms, astray = jnp.sum(jnp.broadcast_to(doubt, y.shape)), jnp.sum(doubt * sizes)
            drift += jnp.where(terms > 0, astray, 0.0)
        if not r.exact:
            terms += add(jnp.zeros(x.shape), index, jnp.ones(y.shape))
            drift += r.round(add(jnp.abs(x) + dx, index, sizes) + astray, terms)
        return drift

    return add(x, index, -y if op.name == "scatter-sub" else y), spread


def unless(index: Delta, delta: Delta) -> Delta:
    """delta, but infinity if any index isn't certain."""
    if index is EXACT:
        return delta
    return jnp.where(jnp.any(index > 0), jnp.inf, 0.0 if delta is EXACT else delta)
