"""More functions of one number or two: trigonometric, hyperbolic, gamma; and those that jump.

The table is that of `arithmetic.FUNCTIONS`: f, its drift under an argument off by d, its own error.
Measured likewise, at 1,000,000 float32 points (against float64) and 3,000 float64 points (against
mpmath, 200 bits) in each of two to four ranges, then doubled: jax32 torch32 jax64 torch64.
"""

from __future__ import annotations

import math
from typing import Any

from .arithmetic import (
    EXACT,
    Arithmetic,
    Array,
    Delta,
    Function,
    dense,
    inside,
    log_drift,
    nearest,
)
from .backend import jnp, lax
from .rules import RULES, Op, _elementary, rule


def _tan_drift(x: Array, v: Array, d: Array) -> Array:
    """tan(x + e) - tan(x) = sin(e) / (cos(x) cos(x + e))"""
    c = jnp.abs(jnp.cos(x))
    return inside(c > d, d / (c * jnp.where(c > d, c - d, 1.0)))


def _arc_drift(x: Array, v: Array, d: Array) -> Array:
    """Of asin and acos: their slope is 1 / sqrt(1 - t^2)."""
    edge = jnp.abs(x) + d
    room = jnp.where(edge < 1, (1 - edge) * (1 + edge), 1.0)
    return inside((edge < 1) | ((edge == 1) & (d == 0)), d / jnp.sqrt(room))


def _acosh_drift(x: Array, v: Array, d: Array) -> Array:
    low = x - d
    room = jnp.where(low > 1, (low - 1) * (low + 1), 1.0)
    return inside((low > 1) | ((low == 1) & (d == 0)), d / jnp.sqrt(room))


def _atanh_drift(x: Array, v: Array, d: Array) -> Array:
    edge = jnp.abs(x) + d
    return inside(edge < 1, d / jnp.where(edge < 1, (1 - edge) * (1 + edge), 1.0))


def _cbrt_drift(x: Array, v: Array, d: Array) -> Array:
    """At most cbrt(4 d), as from -d/2 to d/2; away from zero by the slope."""
    low = jnp.abs(x) - d
    slope = 1 / (3 * jnp.cbrt(jnp.where(low > 0, low, 1.0)) ** 2)
    return jnp.minimum(1.5875 * jnp.cbrt(d), jnp.where(low > 0, d * slope, jnp.inf))


def _erf_inv_drift(x: Array, v: Array, d: Array) -> Array:
    edge = jnp.abs(x) + d
    top = lax.erf_inv(jnp.where(edge < 1, edge, 0.0))
    return inside(edge < 1, d * _HALF_ROOT_PI * jnp.exp(top * top))


def _lgamma_drift(x: Array, v: Array, d: Array) -> Array:
    """Its slope, digamma, grows with x > 0: largest at either end."""
    low = jnp.where(x > d, x - d, 1.0)
    slope = jnp.maximum(jnp.abs(lax.digamma(low)), jnp.abs(lax.digamma(jnp.abs(x) + d)))
    return inside(x > d, d * slope * (1 + 2.0**-40))


def _digamma_drift(x: Array, v: Array, d: Array) -> Array:
    low = jnp.where(x > d, x - d, 1.0)  # trigamma(x) < 1 / x + 1 / x^2
    return inside(x > d, d * (1 + 1 / low) / low)


_HALF_ROOT_PI = math.sqrt(math.pi) / 2

SPECIAL: dict[str, Function] = {
    # 1.37 1.42 1.00 1.00
    "tan": Function(jnp.tan, _tan_drift, (3, 3)),
    # 2.89 1.35 1.66 1.31
    "asin": Function(jnp.arcsin, _arc_drift, (6, 4)),
    # 3.18 1.50 2.40 1.35
    "acos": Function(jnp.arccos, _arc_drift, (7, 5)),
    # 4.59 1.38 4.27 1.07; until jax 0.11 1.40 and 0.99
    "atan": Function(jnp.arctan, lambda x, v, d: d / (1 + nearest(x, d) ** 2), (10, 9)),
    # 7.27 2.32 4.94 0.99 for |x| < 1; XLA's grows as 0.91|x|: 24.5 and 18.6 below |x| = 64, where
    # it takes exp(|x| + log(1/2)).
    "sinh": Function(
        jnp.sinh,
        lambda x, v, d: d * jnp.cosh(jnp.abs(x) + d),
        (16, 10),
        lambda x, v: 2 * jnp.abs(x * v),
    ),
    # 2.32 1.97 2.16 0.99 for |x| < 1, and as sinh beyond.
    "cosh": Function(
        jnp.cosh,
        lambda x, v, d: d * jnp.sinh(jnp.abs(x) + d),
        (16, 10),
        lambda x, v: 2 * jnp.abs(x) * v,
    ),
    # 4.01 2.19 3.05 1.94
    "asinh": Function(jnp.arcsinh, lambda x, v, d: d / jnp.sqrt(1 + nearest(x, d) ** 2), (9, 7)),
    # 5.18 2.18 3.87 2.19; until jax 0.11 4.92 and 3.41
    "acosh": Function(jnp.arccosh, _acosh_drift, (11, 8)),
    # 3.21 1.00 143 1.73: by XLA's log1p, see there.
    "atanh": Function(jnp.arctanh, _atanh_drift, (7, 300)),
    # 1.57 - 4.03 -. Torch has none: its x ** (1/3), with a third rounded, 8.63 and 8.61 at 7e19.
    "cbrt": Function(
        jnp.cbrt,
        _cbrt_drift,
        (8, 9),
        lambda x, v: jnp.abs(v) * jnp.abs(jnp.log(jnp.where(x != 0, jnp.abs(x), 1.0))) / 2,
    ),
    # 3.11 1.00 16.9 0.97; towards |x| = 1 XLA's is that of a rounded 1 - x^2: 96 and 970,000.
    "erf_inv": Function(
        lax.erf_inv,
        _erf_inv_drift,
        (8, 36),
        lambda x, v: x * x * _HALF_ROOT_PI * jnp.exp(v * v),
    ),
    # 2.75 1.16 1.66 1.00; a primitive from jax 0.11 on, log(x) times a rounded 1 / log(2) before.
    "log2": Function(
        jnp.log2,
        lambda x, v, d, low: log_drift(x, d, low) * (1 / math.log(2)),
        (6, 4),
        limited=True,
    ),
    # Absolute, by Lanczos' sum of terms of this size: 2.55 0.65 2.10 0.50 of it.
    "lgamma": Function(
        lax.lgamma,
        _lgamma_drift,
        (6, 6),
        lambda x, v: 5.2 * (x * jnp.log(jnp.abs(x) + 7) + x + 8),
    ),
    # 4.81 6.86 4.72 6.59 of |v| + 4: its root at 1.46 has an absolute error.
    "digamma": Function(lax.digamma, _digamma_drift, (14, 14), lambda x, v: 56.0),
}

RULES |= {name: _elementary(function) for name, function in SPECIAL.items()}

# atan2(y, x), y as large, 100 times larger or smaller than x: 2.05 1.15 0.99 1.17
ATAN2 = 5


@rule("atan2")
def _atan2(op: Op, y: Array, x: Array) -> tuple[Any, ...]:
    v = jnp.arctan2(y, x)

    def spread(r: Arithmetic, dy: Delta, dx: Delta) -> Delta:
        dy, dx = r.read(y, dy), r.read(x, dx)
        size, moved = jnp.hypot(x, y), jnp.hypot(dx, dy)
        sure = moved < size
        turned = jnp.arcsin(jnp.where(sure, moved / jnp.where(sure, size, 1.0), 0.0))
        torn = (jnp.abs(y) <= dy) & (x - dx < 0) & (moved > 0)  # from pi to -pi
        drift = jnp.where(moved == 0, 0.0, jnp.where(sure & ~torn, turned, 2 * math.pi))
        return drift * (1 + 2.0**-40) + r.ulps(jnp.abs(v) + drift, ATAN2)

    return v, spread


@rule("one_minus_square")
def _one_minus_square(op: Op, x: Array) -> tuple[Any, ...]:
    """1 - x^2, of tanh and others in JAX's derivatives: (1 + x)(1 - x) there, 1 - x x in Torch."""
    v = (1 + x) * (1 - x)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        d = r.read(x, dx)
        drift = d * (2 * jnp.abs(x) + d)
        return drift + r.round(jnp.abs(v) + drift, 3) + r.product(jnp.abs(x) + d, jnp.abs(x) + d)

    return v, spread


# --- functions that jump ---------------------------------------------------------------------


@rule("floor", "ceil", "round")
def _to_integer(op: Op, x: Array) -> tuple[Any, ...]:
    v = op.bind(x)

    def spread(r: Arithmetic, dx: Delta) -> Delta:  # none of them ever falls
        d = r.read(x, dx)
        return jnp.maximum(op.bind(x + d) - v, v - op.bind(x - d))

    return v, spread


@rule("rem")
def _rem(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    """x - trunc(x / y) y, which is exact; where rounding may turn the quotient, any remainder."""
    v = op.bind(x, y)

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        dx, dy = r.read(x, dx), r.read(y, dy)
        low = jnp.abs(y) - dy
        q = jnp.abs(x) / jnp.where(low > 0, jnp.abs(y), 1.0)
        doubt = (dx + q * dy) / jnp.where(low > 0, low, 1.0)
        doubt += jnp.where(doubt > 0, 2.0**-50 * q, 0.0)
        sure = (jnp.trunc(q - doubt) == jnp.trunc(q + doubt)) & ((q > doubt) | (doubt == 0))
        drift = jnp.where(sure, dx + jnp.trunc(q) * dy, jnp.abs(v) + jnp.abs(y) + dy)
        return inside(low > 0, drift) + r.ulps(jnp.abs(v) + drift, 1)

    return v, spread


@rule("nextafter")
def _nextafter(op: Op, x: Array, y: Array) -> tuple[Any, ...]:
    """Its step is the program's, not float64's: an ulp, at most 2u|x|."""
    v = op.bind(x, y)

    def spread(r: Arithmetic, dx: Delta, dy: Delta) -> Delta:
        return dx + 2.5 * r.u * (jnp.abs(x) + dx) + r.tiny

    return v, spread


@rule("bitcast_convert_type")
def _bitcast(op: Op, x: Array) -> tuple[Any, ...]:
    """Bits of exact numbers; those of others are unknown."""
    if jnp.issubdtype(x.dtype, jnp.floating) and not jnp.issubdtype(op.dtype, jnp.floating):
        v = op.bind(x.astype({4: jnp.float32, 8: jnp.float64}[jnp.dtype(op.dtype).itemsize]))
    else:
        v = op.bind(x).astype(op.dtype)

    def spread(r: Arithmetic, dx: Delta) -> Delta:
        if dx is EXACT:
            return EXACT
        return jnp.where(dense(dx, x) > 0, jnp.inf, 0.0)

    return v, spread
