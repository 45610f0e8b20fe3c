"""What no computed value can be below, in any arithmetic: sqrt(v) + eps >= eps (1 - u).

A value lies in [value - bound, value + bound], and often more is certain: a sum of squares isn't
negative however large its bound is, and what is divided by sqrt(v) + eps stays finite where v is 0.
Rounding is monotone, so such a limit goes through an operation as a value does.
"""

from __future__ import annotations

from typing import Any

from .arithmetic import DIVISION, EXACT, Approx, Arithmetic, Array
from .backend import jnp
from .operation import Op

Least = Any  # an array or a float; None: nothing is known

_NEVER_NEGATIVE = {"square", "abs", "exp", "exp2", "logistic", "sqrt", "rsqrt", "erfc"}
_SIGN_KEEPING = {"expm1", "log1p", "tanh", "erf", "pow", "integer_pow"}  # f(x) >= 0 for x >= 0
_SUMS = {"reduce_sum", "cumsum", "reduce_window_sum"}
_MOVES = {"copy", "reshape", "broadcast_in_dim", "transpose", "squeeze", "expand_dims", "rev",
          "slice", "stop_gradient", "name", "sharding_constraint", "concatenate",
          "reduce_max", "reduce_window_max"}  # fmt: skip


def least(x: Approx, tiny: float) -> Least:
    """The limit of one value: of an exact one itself, or zero where that may be flushed to zero."""
    if x.bound is EXACT:
        v = x.value
        return jnp.where((v > 0) & (v < tiny), 0.0, v) if v.dtype == jnp.float64 else v
    if x.low is not None:
        return x.low
    return x.value - x.bound if jnp.ndim(x.value) == 0 else None


def limit(op: Op, r: Arithmetic) -> Least:
    """The limit of the result of an operation. r: the arithmetic of the worst case."""
    name = op.name
    same = name == "mul" and op.operands[0] is op.operands[1]
    if name in _NEVER_NEGATIVE or same or (name == "integer_pow" and op.params["y"] % 2 == 0):
        return 0.0
    if name not in _LIMITS or all(x.bound is EXACT and jnp.ndim(x.value) for x in op.operands):
        return None  # of exact arrays it would only cost: value - bound is as good
    return _LIMITS[name](op, r, *(least(x, r.tiny) for x in op.operands))


def _down(r: Arithmetic, low: Array, n: int = 1) -> Least:
    """`low` after n roundings downwards; never below zero what can't be."""
    if isinstance(low, float) and low == 0:
        return low
    kept = jnp.maximum(low * (1 - r.gamma(n)) - 3 * n * r.tiny, 0.0)
    return jnp.where(low >= 0, kept, low * (1 + r.gamma(n)) - 3 * n * r.tiny)


def _where(sure: Any, low: Any) -> Least:
    if isinstance(sure, bool) and isinstance(low, float):
        return low if sure else None
    return jnp.where(sure, low, -jnp.inf)


def _add(op: Op, r: Arithmetic, a: Least, b: Least) -> Least:
    return None if a is None or b is None else _down(r, a + b)


def _mul(op: Op, r: Arithmetic, a: Least, b: Least) -> Least:
    if a is None or b is None:
        return None
    zero = any(isinstance(x, float) and x == 0 for x in (a, b))
    sure = (
        a >= 0 and b >= 0 if isinstance(a, float) and isinstance(b, float) else (a >= 0) & (b >= 0)
    )
    return _where(sure, 0.0 if zero else _down(r, a * b))


def _div(op: Op, r: Arithmetic, a: Least, b: Least) -> Least:
    if a is None:
        return None
    y = op.operands[1]
    below = y.value - y.bound if y.bound is not EXACT else y.value
    below = below if b is None else jnp.fmax(below, b)
    above = jnp.abs(y.value) + y.bound if y.bound is not EXACT else jnp.abs(y.value)
    zero = isinstance(a, float) and a == 0
    return _where((a >= 0) & (below > 0), 0.0 if zero else _down(r, a / above, DIVISION))


def _max(op: Op, r: Arithmetic, a: Least, b: Least) -> Least:
    known = [x for x in (a, b) if x is not None]
    if len(known) < 2:
        return known[0] if known else None
    return jnp.maximum(a, b)


def _min(op: Op, r: Arithmetic, a: Least, b: Least) -> Least:
    return None if a is None or b is None else jnp.minimum(a, b)


def _clamp(op: Op, r: Arithmetic, low: Least, x: Least, high: Least) -> Least:
    return _min(op, r, _max(op, r, low, x), high)


def _sum(op: Op, r: Arithmetic, a: Least) -> Least:
    if a is None or isinstance(a, float):
        return 0.0 if isinstance(a, float) and a >= 0 else None
    negative = op.bind(jnp.broadcast_to(jnp.minimum(a, 0.0), op.operands[0].value.shape))
    return jnp.where(negative < 0, -jnp.inf, 0.0)


def _sign(op: Op, r: Arithmetic, a: Least, *_: Least) -> Least:
    return None if a is None else _where(a >= 0, 0.0)


def _move(op: Op, r: Arithmetic, *lows: Least) -> Least:
    if any(low is None for low in lows):
        return None
    if len(lows) == 1 and isinstance(lows[0], float):
        return lows[0]
    shapes = [x.value.shape for x in op.operands]
    return op.bind(*(jnp.broadcast_to(a, s) for a, s in zip(lows, shapes, strict=True)))


def _convert(op: Op, r: Arithmetic, a: Least) -> Least:
    return _down(r, a) if a is not None and jnp.issubdtype(op.dtype, jnp.floating) else None


def _select(op: Op, r: Arithmetic, which: Least, *cases: Least) -> Least:
    if any(case is None for case in cases):
        return None
    if all(isinstance(case, float) for case in cases):
        return min(cases)
    made = [jnp.broadcast_to(case, op.shape) for case in cases]
    if op.operands[0].bound is EXACT:
        return op.bind(op.operands[0].value, *made)
    return jnp.min(jnp.stack(made), axis=0)


_LIMITS: dict[str, Any] = {
    "add": _add, "add_any": _add, "mul": _mul, "div": _div, "max": _max, "min": _min,
    "clamp": _clamp, "convert_element_type": _convert, "select_n": _select,
    **dict.fromkeys(_SUMS, _sum), **dict.fromkeys(_SIGN_KEEPING, _sign),
    **dict.fromkeys(_MOVES, _move),
}  # fmt: skip
