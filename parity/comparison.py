"""Two arrays and a bound give a Comparison. NumPy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """How far two arrays are apart, against how far they may be.

    margin: largest |left - right| / bound; at most 1 if the arrays agree, 0 for equal arrays, inf
    for a NaN, an infinity, a shape that differs, or any difference where the bound is 0.
    unjudged: elements whose bound is infinite, which proves nothing either way.
    The element named by index, left, right, bound is the one with the largest margin.
    relative: largest |left - right| over the largest |right|; compares magnitudes, decides nothing.

        >>> from parity import compare
        >>> print(compare(1.0, 1.25, 0.5, name="loss"))
        loss: left 1.0, right 1.25, difference 0.25 within bound 0.5 (margin 0.5, 1 elements)
    """

    name: str
    ok: bool
    margin: float
    error: float
    relative: float
    index: tuple[int, ...]
    left: float
    right: float
    bound: float
    elements: int
    sides: tuple[str, str] = ("left", "right")
    problem: str = ""
    unjudged: int = 0

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name}: {self.problem}"
        place = f"{self.name}[{', '.join(map(str, self.index))}]" if self.index else self.name
        relation = "within" if self.ok else "OUTSIDE"
        return (
            f"{place}: {self.sides[0]} {self.left!r}, {self.sides[1]} {self.right!r}, "
            f"difference {self.error:.3g} {relation} bound {self.bound:.3g} "
            f"(margin {self.margin:.3g}, {self.elements:,} elements"
            + (f", {self.unjudged:,} of them not judged)" if self.unjudged else ")")
        )


def compare(
    left: Any,
    right: Any,
    bound: Any = None,
    *,
    name: str = "",
    sides: tuple[str, str] = ("left", "right"),
) -> Comparison:
    """|left - right| <= bound, elementwise. A NaN or an infinity on either side, or both, fails.

    left, right: arrays of one shape. bound: broadcast to it; None asks for the same bits, so that
    -0.0 differs from 0.0 and float32 from float64. Where it is infinite, nothing is judged.

        >>> compare([1.0, 2.0], [1.0, 2.5], bound=0.25).ok
        False
        >>> compare(np.float32(0.1), np.float64(0.1)).ok  # no bound: the same bits
        False
    """
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        problem = f"shapes differ: {sides[0]} {left.shape}, {sides[1]} {right.shape}"
        return _failed(name, sides, problem)
    if not np.size(left):
        return _failed(name, sides, "nothing to compare: empty arrays")
    exact = bound is None
    if exact and left.dtype != right.dtype:
        problem = f"types differ: {sides[0]} {left.dtype}, {sides[1]} {right.dtype}"
        return _failed(name, sides, problem)
    a, b = (np.atleast_1d(x).astype(np.float64) for x in (left, right))
    limit = np.asarray(0.0 if bound is None else bound, np.float64)
    limit = np.broadcast_to(limit, np.shape(left)).reshape(a.shape)
    with np.errstate(all="ignore"):
        error = np.abs(a - b)
        margin = np.where(error == 0, 0.0, error / limit)  # x / 0 is inf, x / inf 0
    if exact:
        margin = np.where(_bits(left) == _bits(right), 0.0, np.inf).reshape(a.shape)
    finite = np.isfinite(a) & np.isfinite(b) & ~np.isnan(limit) & ~np.isnan(margin)
    margin = np.where(finite, margin, np.inf)
    worst = np.unravel_index(np.argmax(margin), margin.shape)
    ok = bool((margin <= 1).all())
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    largest = float(error.max()) if finite.all() else float("nan")
    problem = ""
    if not finite.all():
        index = tuple(int(i) for i in worst)
        values = f"{sides[0]} {a[worst]}, {sides[1]} {b[worst]}, bound {limit[worst]}"
        problem = f"{int((~finite).sum())} not finite, first at {index}: {values}"
    return Comparison(
        name=name,
        ok=ok,
        margin=float(margin[worst]),
        error=float(error[worst]),
        relative=largest / scale if scale else largest,
        index=tuple(int(i) for i in worst) if left.ndim else (),
        left=float(a[worst]),
        right=float(b[worst]),
        bound=float(limit[worst]),
        elements=int(np.size(left)),
        sides=sides,
        problem=problem,
        unjudged=int(np.isposinf(limit).sum()),
    )


def compare_trees(
    left: Mapping[str, Any],
    right: Mapping[str, Any],
    bounds: Mapping[str, Any] | float | None = None,
    *,
    name: str = "",
    sides: tuple[str, str] = ("left", "right"),
) -> list[Comparison]:
    """`compare` leaf by leaf; a leaf that one side lacks is a failed comparison."""
    results = []
    for key in dict.fromkeys([*left, *right]):
        leaf = f"{name}.{key}" if name else key
        if key in left and key in right:
            bound = bounds[key] if isinstance(bounds, Mapping) else bounds
            results.append(compare(left[key], right[key], bound, name=leaf, sides=sides))
        else:
            lacking = sides[key in left]
            results.append(_failed(leaf, sides, f"missing from {lacking}"))
    return results


def _bits(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(np.atleast_1d(array))
    return array.view(f"u{array.itemsize}")


def _failed(name: str, sides: tuple[str, str], problem: str) -> Comparison:
    nan, inf = float("nan"), float("inf")
    return Comparison(name, False, inf, nan, nan, (), nan, nan, nan, 0, sides, problem)
