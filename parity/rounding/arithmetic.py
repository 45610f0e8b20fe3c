"""The arithmetic that's judged: what a rounding, a flush to zero, a library function may cost.

    fl(x op y) = (x op y)(1 + e), |e| <= u          n of them: |error| <= gamma(n) = n u / (1 - n u)

Sources: Higham, Accuracy and Stability of Numerical Algorithms (2002), ch. 3; Higham & Mary,
A New Approach to Probabilistic Rounding Error Analysis (2019), for 6 sqrt(n) u.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from .backend import jnp, lax

Array = Any  # a float64 (or integer, or boolean) array, traced or not
Delta = Any  # its elementwise bound: a float64 array, or EXACT


class _Exact:
    """The bound of an exact value. It costs nothing, and times infinity it's still zero."""

    __array_ufunc__ = None  # NumPy scalars then defer to the operators below

    def __add__(self, other: Any) -> Any:
        return other

    def __mul__(self, other: Any) -> _Exact:
        return self

    __radd__ = __add__
    __rmul__ = __truediv__ = __mul__


EXACT = _Exact()
jax.tree_util.register_pytree_node(_Exact, lambda _: ((), None), lambda *_: EXACT)


class Tag(NamedTuple):
    """Where a value came from, for the few rules that must know it."""

    kind: str
    of: tuple[Any, ...] = ()


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True, eq=False)
class Approx:
    """A float64 value with its deterministic and its probabilistic bound."""

    value: Array
    bound: Delta = EXACT
    likely: Delta = EXACT
    tag: Tag | None = None
    low: Array | float | None = None  # no computed value is below it; see `least`
    constant: bool = False  # nothing that was given reaches it

    def tree_flatten(self) -> tuple[tuple[Array, Delta, Delta], None]:
        return (self.value, self.bound, self.likely), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple[Array, Delta, Delta]) -> Approx:
        return cls(*children)

    def dense(self) -> Approx:
        """The same with both bounds as arrays, so that its structure is that of any other."""
        full = partial(dense, like=self.value)
        return Approx(self.value, full(self.bound), full(self.likely))


def dense(delta: Delta, like: Array) -> Array:
    """delta as a float64 array of the shape of `like`."""
    if type(delta) is np.ndarray and delta.shape == np.shape(like):
        return delta
    return jnp.broadcast_to(0.0 if delta is EXACT else delta, jnp.shape(like))


@dataclass(frozen=True)
class Arithmetic:
    """Unit roundoff u and range of the computation that's judged.

    gamma(n) = n u / (1 - n u), the worst case of n roundings, or with `statistical` at most
    6 sqrt(n) u, passed with probability below 3e-8 n if rounding errors are independent.
    Outside the range: at `huge` the bound is infinite, and every product may lose `tiny`, the
    smallest normal number, because XLA on CPU flushes subnormal operands and results to zero.
    """

    u: float
    operand: float  # (2 u_in + u_in^2) of rounded operands (TF32, bf16), else 0
    tiny: float
    huge: float
    statistical: bool = False
    exact: bool = False  # integers and booleans

    @property
    def double(self) -> bool:
        return self.tiny < 1e-300

    def least(self, x: Approx, d: Array) -> Array:
        """What x can't be below, if it's off by at most d."""
        return x.value - d if x.low is None else jnp.fmax(x.value - d, x.low)

    def of(self, x: Approx) -> Delta:
        """The bound of x that belongs to this arithmetic."""
        return x.likely if self.statistical else x.bound

    def gamma(self, n: Array) -> Array:
        if isinstance(n, int):  # known while tracing: no arithmetic to compile
            known = n * self.u / (1 - n * self.u) if n * self.u < 0.5 else math.inf
            return min(known, 6 * math.sqrt(n) * self.u) if self.statistical else known
        worst = jnp.where(n * self.u < 0.5, n * self.u / jnp.maximum(1 - n * self.u, 0.5), jnp.inf)
        return jnp.minimum(worst, 6 * jnp.sqrt(n) * self.u) if self.statistical else worst

    def round(self, size: Array, n: Array = 1) -> Delta:
        """n roundings of terms whose absolute values sum to at most `size`."""
        if self.exact:
            return EXACT
        error = self.gamma(n) * size + jnp.where(size > 0, 3 * self.tiny * n, 0.0)
        # A partial sum may overflow where the sum doesn't; of one rounding the walk sees the result
        return error if isinstance(n, int) and n == 1 else inside(size < self.huge, error)

    def ulps(self, size: Array, count: Array) -> Delta:
        """An error of count * u relative to `size`, whatever its distribution."""
        if self.exact:
            return EXACT
        return count * self.u * size + jnp.where(size > 0, self.tiny, 0.0)

    def product(self, a: Array, b: Array, count: Array = 1) -> Delta:
        """`count` roundings of a product of sizes a and b; it, a or b may be flushed to zero."""
        if self.exact:
            return EXACT
        return count * self.u * a * b + jnp.where((a > 0) & (b > 0), self.tiny * (1 + a + b), 0.0)

    def read(self, x: Array, dx: Delta) -> Delta:
        """dx, more where x itself is subnormal and may be read as zero."""
        return dx + jnp.where(jnp.abs(x) < self.tiny, jnp.abs(x), 0.0)


# --- elementary functions ------------------------------------------------------------------------
#
#     |computed f(x) - f(x)| <= u * (relative * |f(x)| + extra(x, f(x)))
#
# Measured, then doubled: the four figures are the largest |error| / (u |f(x)|) of JAX and Torch
# over 2,000,000 float32 points (against float64) and 20,000 float64 points (against mpmath, 200
# bits), in the order jax32 torch32 jax64 torch64; x86 with AVX-512, jax 0.10.2, torch 2.14.1.
# CUDA's documented worst cases (2 ulp = 4 u for exp, tanh, erf, rsqrt) lie within too.


class Function(NamedTuple):
    """f, its drift under an argument off by d, and its own error in units of u.

    limited: f's domain ends somewhere, and its drift takes the least argument as well.
    """

    f: Callable[[Array], Array]
    drift: Callable[..., Array]  # (x, f(x), d[, low]) -> sup |f(x + e) - f(x)|, |e| <= d
    relative: tuple[int, int]  # in float32, in float64
    extra: Callable[[Array, Array], Array] | None = None
    limited: bool = False


def nearest(x: Array, d: Array) -> Array:
    """The least |t| for t in [x - d, x + d]: where a bell-shaped derivative is largest."""
    return jnp.maximum(jnp.abs(x) - d, 0.0)


def inside(domain: Array, drift: Array) -> Array:
    """drift where the whole interval lies in the function's domain, else infinity."""
    return jnp.where(domain, drift, jnp.inf)


def _sech2(t: Array) -> Array:
    e = jnp.exp(-2 * t)
    return 4 * e / (1 + e) ** 2


def _bell(t: Array) -> Array:
    e = jnp.exp(-t)
    return e / (1 + e) ** 2


def _erf_drift(x: Array, v: Array, d: Array) -> Array:
    return jnp.minimum(d * 1.1283791670955126 * jnp.exp(-(nearest(x, d) ** 2)), 2.0)


def _sqrt_drift(x: Array, v: Array, d: Array, low: Array) -> Array:
    root = jnp.sqrt(jnp.maximum(low, 0.0))
    return inside(low >= 0, jnp.where(d > 0, jnp.minimum(d / (v + root), jnp.sqrt(d)), 0.0))


def _rsqrt_drift(x: Array, v: Array, d: Array, low: Array) -> Array:
    root = jnp.sqrt(jnp.where(low > 0, low, 1.0))
    below, above = (x - low) * v / (root * (1 / v + root)), jnp.minimum(v, d * v / (2 * x))
    return inside(low > 0, jnp.maximum(below, above))


def log_drift(x: Array, d: Array, low: Array) -> Array:
    """The largest |log(t) - log(x)| for t in [low, x + d]."""
    below, above = -jnp.log1p(-jnp.where(low > 0, (x - low) / x, 0.0)), jnp.log1p(d / x)
    return inside(low > 0, jnp.maximum(below, above))


FUNCTIONS: dict[str, Function] = {
    # 1.38 1.03 1.96 1.10. The extra u|x|: GPUs compute 2^(x log2 e) with a rounded argument, and
    # Torch takes the exponential of a rounded log-softmax, one rounding more than exp(x - max).
    "exp": Function(
        jnp.exp,
        # Not v expm1(d): where v is zero and d large, as under a mask of -3e38, it's NaN.
        lambda x, v, d: jnp.exp(x + d) * -jnp.expm1(-d),
        (4, 4),
        lambda x, v: jnp.where(v > 0, jnp.abs(x) * v, 0.0),
    ),
    # XLA's grows as 0.73|x|: 69 and 89 at |x| = 122; Torch 1.16 1.12.
    "exp2": Function(
        jnp.exp2,
        lambda x, v, d: v * jnp.expm1(0.6931471805599454 * d),
        (4, 4),
        lambda x, v: jnp.where(v > 0, 2 * jnp.abs(x) * v, 0.0),
    ),
    # 6.25 1.50 4.04 1.49
    "expm1": Function(jnp.expm1, lambda x, v, d: (1 + v) * jnp.expm1(d), (14, 14)),
    # 2.00 1.01 0.99 1.03
    "log": Function(jnp.log, lambda x, v, d, low: log_drift(x, d, low), (4, 4), limited=True),
    # 3.37 1.05 237 1.16: XLA's float64 log1p loses 7 bits near x = -0.41.
    "log1p": Function(
        jnp.log1p,
        lambda x, v, d, low: log_drift(1 + x, d, 1 + low),
        (8, 512),
        limited=True,
    ),
    # 4.71 1.06 6.92 1.09
    "tanh": Function(
        jnp.tanh, lambda x, v, d: jnp.minimum(d * _sech2(nearest(x, d)), 2.0), (14, 14)
    ),
    # 2.41 2.41 2.51 2.23
    "logistic": Function(
        lax.logistic, lambda x, v, d: jnp.minimum(d * _bell(nearest(x, d)), 1.0), (6, 6)
    ),
    # 5.61 1.05 1.36 1.24
    "erf": Function(lax.erf, _erf_drift, (12, 12)),
    # For x < 0: 1.35 1.46 1.76 1.46. XLA's grows as 0.9 x^2 in the tail of x > 0: 67 and 67 near
    # x = 9, where Torch has 1.50 1.50; below x = 1 it takes 1 - erf(x), absolute 2.7 2.7.
    "erfc": Function(
        lax.erfc, _erf_drift, (6, 6), lambda x, v: 2 * jnp.maximum(x, 0) ** 2 * v + 8.0
    ),
    # 1.00 1.05 1.00 1.18
    "sqrt": Function(jnp.sqrt, _sqrt_drift, (3, 3), limited=True),
    # 2.71 1.50 1.40 1.47; until jax 0.11 1.24
    "rsqrt": Function(lax.rsqrt, _rsqrt_drift, (6, 4), limited=True),
    # 1.06 1.09 1.00 1.00 for |x| <= 1,000,000
    "sin": Function(jnp.sin, lambda x, v, d: jnp.minimum(d, 2.0), (3, 3)),
    "cos": Function(jnp.cos, lambda x, v, d: jnp.minimum(d, 2.0), (3, 3)),
}

# Torch's exact GELU takes 1 + erf(x) where JAX takes erfc(-x): an absolute error, whatever is left
# of the sum. 12.0 in float32, where on a CPU oneDNN evaluates erf(x) = 1 - (a1 t + ... + a5 t^5)
# exp(-x^2), t = 1 / (1 + p x), itself off by 1.5e-7 = 2.5 u (Abramowitz & Stegun 7.1.26), also next
# to 0. In float64 2.24, erf's own and the sum's. Measured on x Phi(x) / x and its derivative at
# 4,000,000 points in [-12, 12]; the same with AVX2, AVX-512 and neither.
ONE_PLUS_ERF = (24, 8)
# x / c: 2.00 0.67 1.33 1.00, because XLA multiplies by a rounded reciprocal of a constant.
DIVISION = 4
# pow(x, y), seven exponents from -1.3 to 30.1: 1.00 1.06 0.99 1.06
POWER = 4
