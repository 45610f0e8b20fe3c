"""Rules of what looks through windows: convolutions and pooling.

conv[i] = sum over the window at i of A B;    pool[i] = max or sum over the window at i
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from .arithmetic import EXACT, Arithmetic, Array, Delta, Tag, dense
from .backend import add_at, evaluate, jnp, lax
from .rules import Op, products, rule


@rule("conv_general_dilated")
def _convolution(op: Op, A: Array, B: Array) -> tuple[Any, ...]:
    outputs = B.shape[op.params["dimension_numbers"].rhs_spec[0]]
    n = B.size // outputs  # products for each of them
    highest = {"precision": (lax.Precision.HIGHEST,) * 2, "preferred_element_type": None}

    def conv(a: Array, b: Array, precision: Any = None) -> Array:
        return evaluate(lax.conv_general_dilated_p, op.params | highest, a, b)

    def reach(a: Array, b: Array) -> Array:
        pairs = conv((a > 0).astype(jnp.float32), (b > 0).astype(jnp.float32))
        return (pairs > 0).astype(jnp.float64)

    v = conv(A.astype(op.dtype), B.astype(op.dtype))
    return v, products(conv, n, A, B, reach), Tag("dot", (n,))


@rule("reduce_window_max", "reduce_window_min")
def _pool(op: Op, x: Array) -> tuple[Any, ...]:
    def spread(r: Arithmetic, dx: Delta) -> Delta:
        largest = {k: op.params[k] for k in (*_WINDOW, "base_dilation", "window_dilation")}
        return dx if dx is EXACT else evaluate(lax.reduce_window_max_p, largest, dx)

    return op.bind(x), spread


_WINDOW = ("window_dimensions", "window_strides", "padding")


@rule("select_and_scatter_add")
def _unpool(op: Op, y: Array, x: Array) -> tuple[Any, ...]:
    """The gradient of max or min pooling: y[i] is added where window i of x has its largest, or its
    smallest, entry, the first of equal ones in JAX as in Torch. Where rounding may turn which that
    is, it goes to each candidate or to none."""
    size, strides, padding = (op.params[k] for k in _WINDOW)
    sign = 1.0 if op.params["select_prim"] is lax.ge_p else -1.0
    overlaps = math.prod(-(-s // t) for s, t in zip(size, strides, strict=True))

    def through(x: Array, edge: float) -> list[tuple[Array, Any]]:
        """The first entry of each window, the second ...; with where they lie in the padded x."""
        wide = lax.pad(x, edge, [(low, high, 0) for low, high in padding])
        found = []
        for offset in itertools.product(*map(range, size)):
            places = tuple(
                slice(o, o + (n - 1) * t + 1, t)
                for o, n, t in zip(offset, y.shape, strides, strict=True)
            )
            found.append((wide[places], places))
        return found

    def spread(r: Arithmetic, dy: Delta, dx: Delta) -> Delta:
        sizes = jnp.abs(y) + dy
        drift = EXACT if dy is EXACT else op.bind(dy, x)
        if dx is not EXACT:
            entries = through(sign * x, -jnp.inf)
            errors = [d for d, _ in through(dense(dx, x), 0.0)]
            pairs = [(value, d) for (value, _), d in zip(entries, errors, strict=True)]
            least = jnp.max(jnp.stack([value - d for value, d in pairs]), axis=0)
            candidates = jnp.stack([value + d >= least for value, d in pairs])
            unsure = jnp.any(candidates & (jnp.stack(errors) > 0), axis=0)
            unsure = unsure & (jnp.sum(candidates, axis=0) > 1)
            shape = [n + low + high for n, (low, high) in zip(x.shape, padding, strict=True)]
            wide = jnp.zeros(shape)
            for candidate, (_, places) in zip(candidates, entries, strict=True):
                wide = add_at(wide, places, jnp.where(candidate & unsure, sizes, 0.0))
            inner = tuple(slice(low, low + n) for (low, _), n in zip(padding, x.shape, strict=True))
            drift = drift + wide[inner]
        if overlaps > 1 and not r.exact:
            drift = drift + r.round(op.bind(sizes, x) + drift, overlaps - 1)
        return drift

    return op.bind(y, x), spread
