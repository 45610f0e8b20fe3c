"""Which numbers come from the root of what is no square, element by element.

The square of such a root is minus what it should be, so where two of them differ, that proves
nothing; where they agree, and in what comes from roots of squares alone, it does.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Array = Any
Rough = Mapping[int, Array]  # {part: of booleans, of the shape of the number}; missing: none


def joined(a: Rough, b: Rough, shape: tuple[int, ...]) -> Rough:
    """Of a sum or a product."""
    if not a and not b:
        return {}
    found = dict(a)
    for k, r in b.items():
        found[k] = found[k] | r if k in found else r
    return {k: r if r.shape == shape else np.broadcast_to(r, shape) for k, r in found.items()}


def linear(f: Callable[..., Any], a: Rough) -> Rough:
    """Of what f adds up."""
    return {k: np.asarray(f(r.astype(np.float64))) != 0 for k, r in a.items()}


def bilinear(
    f: Callable[..., Any], a: Rough, b: Rough, a_shape: tuple[int, ...], b_shape: tuple[int, ...]
) -> Rough:
    """Of sums of products."""
    one, other = (
        {k: np.asarray(found) != 0 for k, found in side}
        for side in (
            ((k, f(r.astype(np.float64), np.ones(b_shape))) for k, r in a.items()),
            ((k, f(np.ones(a_shape), r.astype(np.float64))) for k, r in b.items()),
        )
    )
    return {k: one.get(k, False) | other.get(k, False) for k in one.keys() | other.keys()}


def moved(f: Callable[..., Any], xs: Iterable[tuple[Rough, tuple[int, ...]]]) -> Rough:
    """Of what f puts elsewhere."""
    xs = list(xs)
    found = {}
    for k in {k for rough, _ in xs for k in rough}:
        each = (rough.get(k, np.zeros(shape)).astype(np.float64) for rough, shape in xs)
        found[k] = np.asarray(f(*each)) != 0
    return {k: r for k, r in found.items() if r.any()}


def turned(a: Rough, turn: int) -> Rough:
    """Of an exponential or a logarithm, whose parts are those above or below."""
    return {k + turn: r for k, r in a.items() if k + turn >= 0}
