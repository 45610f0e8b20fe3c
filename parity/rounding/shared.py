"""Quotients of two things made of the same x, as Adam's m / (sqrt(v) + eps) is of the gradient.

    |m| <= a |x| + rest,  s >= b |x|         =>         |m / s| <= a / b + rest / least(s)

An error of x alone may be many times eps where x is nearly zero, but it's in both. Tags say what a
value is made of: a multiple of x and a rest; at least a multiple of x^2 (a square); at least a
multiple of |x| (a size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .arithmetic import EXACT, Approx, Array, Tag
from .backend import jnp
from .least import least
from .operation import Op

Rest = Callable[[], Array] | None  # evaluated where it's asked for only


def parts(x: Approx) -> tuple[Approx, Any, Any, Rest]:
    """(root, most, least, rest): least |root| <= |x| without a rest, |x| <= most |root| + rest."""
    return x.tag.of if x.tag and x.tag.kind == "multiple" else (x, 1.0, 1.0, None)


def _range(c: Approx) -> tuple[Array, Array]:
    off = 0.0 if c.bound is EXACT else c.bound
    return jnp.maximum(c.value - off, 0.0), jnp.abs(c.value) + off


def _largest(x: Approx) -> Array:
    return _range(x)[1]


def scaled(op: Op) -> Tag | None:
    """Of a product with a scalar, or a quotient by one."""
    pairs = (op.operands, op.operands[::-1]) if op.name == "mul" else (op.operands[::-1],)
    for c, x in pairs:
        if c.value.ndim or not x.value.ndim:
            continue
        low, high = _range(c)  # from zero on, where it may be negative
        if op.name == "div":
            low, high = 1 / high, 1 / low
        if x.tag and x.tag.kind in ("square", "size"):
            return Tag(x.tag.kind, (x.tag.of[0], x.tag.of[1] * low))
        root, most, least_, rest = parts(x)
        return Tag("multiple", (root, most * high, least_ * low, _times(high, rest)))
    return None


def _times(factor: Array, rest: Rest) -> Rest:
    return None if rest is None else lambda: factor * rest()


def squared(x: Approx) -> Tag:
    root, _, low, rest = parts(x)
    return Tag("square", (root, low * low) if rest is None else (x, 1.0))


def rooted(op: Op) -> Tag | None:
    """Of sqrt or rsqrt of a square."""
    x = op.operands[0]
    if x.tag is None or x.tag.kind != "square" or op.name not in ("sqrt", "rsqrt"):
        return None
    root = jnp.sqrt(x.tag.of[1])
    return Tag("size", (x.tag.of[0], root)) if op.name == "sqrt" else inverse(x.tag.of[0], 1 / root)


def inverse(root: Approx, factor: Array) -> Tag:
    """What is at most factor / |root|."""
    return Tag("inverse", (root, factor))


def divided(op: Op) -> Tag | None:
    """Of a quotient: by a scalar, or of a scalar by a size."""
    x, y = op.operands
    if y.tag is not None and y.tag.kind == "size" and x.value.ndim == 0:
        return inverse(y.tag.of[0], _largest(x) / y.tag.of[1])
    return scaled(op)


def added(op: Op, tiny: float) -> Tag | None:
    """Of a sum or a difference."""
    x, y = op.operands
    for one, other in ((x, y), (y, x)):
        if one.tag is not None and one.tag.kind in ("square", "size"):
            low = least(other, tiny) if op.name != "sub" else None
            if low is None or one.value.shape != op.shape:
                return None
            root, factor = one.tag.of
            return Tag(one.tag.kind, (root, jnp.where(low >= 0, factor, 0.0)))
    known = [one for one in (x, y) if one.tag is not None and one.tag.kind == "multiple"]
    if not known:
        return None
    # Of Adam's .1 g + .9 m, the gradient's multiple: m is known exactly.
    one = next((k for k in known if parts(k)[0].bound is not EXACT), known[0])
    other = y if one is x else x
    (root, most, low, rest), (root2, most2, _, rest2) = parts(one), parts(other)
    if root2 is root:
        both = [r for r in (rest, rest2) if r is not None]
        return Tag("multiple", (root, most + most2, low, lambda: sum(r() for r in both)))
    return Tag(
        "multiple",
        (root, most, low, lambda: _largest(other) + (rest() if rest is not None else 0.0)),
    )


def quotient(op: Op, low: Array, tiny: float) -> Array | None:
    """The largest |x / y| that may be computed, y no less than `low`; None if they share nothing.

    A square below tiny may be flushed to zero, while x isn't yet.
    """
    x, y = op.operands
    if y.tag is None or y.tag.kind != "size":
        return None
    (root, factor), (own, a, _, rest) = y.tag.of, parts(x)
    if own is not root:
        return None
    left = (0.0 if rest is None else rest()) + a * 4 * tiny**0.5
    return (a / factor + left / low) * _ROOM


def product(op: Op, tiny: float) -> Array | None:
    """The same of x times the inverse of a size."""
    for x, y in (op.operands, op.operands[::-1]):
        if y.tag is not None and y.tag.kind == "inverse" and parts(x)[0] is y.tag.of[0]:
            _, a, _, rest = parts(x)
            left = (0.0 if rest is None else rest()) + a * 4 * tiny**0.5
            return (a * y.tag.of[1] + left * _largest(y)) * _ROOM
    return None


_ROOM = 1 + 2.0**-10  # for the roundings of what is computed, and of these few operations
