"""Curves of a page as data: SVG paths in the units of what they show, which the page can zoom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from parity.levels.curve import YARDSTICK
from parity.levels.every_step import Trajectory
from parity.levels.verdict import Verdict

POINTS = 70_000  # of all curves of a page, some 15 bytes each
FEW = 60  # points that are seen one by one
ROWS = 10  # of a chart's table
TICKS = 5

RUNS = ("jax float64", "torch float64", "jax float32", "torch float32")
APART = {
    "torch float64": "JAX and Torch, float64",
    "jax float32": "JAX float32 and JAX float64",
    "torch float32": "Torch float32 and JAX float64",
    "yardstick": f"yardstick: JAX float64, updates off by {YARDSTICK:g}",
}


@dataclass(frozen=True)
class Curve:
    """x, y: [points], x rising. kind: how the page draws it. faint: a thin line beneath others."""

    name: str
    kind: str
    x: np.ndarray
    y: np.ndarray
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """Curves over one axis. log: y is drawn by its logarithm, and what isn't positive left out.

    level: where a line is drawn across. says: what a reader learns from it, in a sentence. most:
    points that a curve may have; of more, the least and the greatest of each of most / 2 parts.
    """

    title: str
    unit: str
    curves: tuple[Curve, ...]
    says: str = ""
    log: bool = False
    level: float | None = None
    most: int = POINTS

    def drawn(self, y: np.ndarray | float) -> np.ndarray:
        """In units of the drawing; NaN where nothing can be drawn."""
        with np.errstate(all="ignore"):
            y = np.log10(np.asarray(y, np.float64)) if self.log else np.asarray(y, np.float64)
        return np.where(np.isfinite(y), y, np.nan)

    @property
    def window(self) -> tuple[float, float, float, float]:
        """(x0, x1, y0, y1) of all that is drawn, with some room above and below."""
        x = np.concatenate([c.x for c in self.curves]).astype(float)
        heights = [self.drawn(c.y) for c in self.curves]
        heights += [np.atleast_1d(self.drawn(self.level))] if self.level is not None else []
        y = np.concatenate(heights)
        y = y[~np.isnan(y)] if not np.isnan(y).all() else np.zeros(1)
        low, high = float(y.min()), float(y.max())
        room = 0.05 * (high - low) or max(0.05 * abs(high), 1e-12)
        return float(x.min()), float(max(x.max(), x.min() + 1)), low - room, high + room

    def path(self, curve: Curve) -> str:
        """M begins a line, also where a number can't be drawn; y points up, SVG's down."""
        x, y = thinned(curve.x, self.drawn(curve.y), self.most)
        seen = ~np.isnan(y)
        begins = seen & ~np.concatenate([[False], seen[:-1]])
        parts = zip(np.where(begins, "M", "L")[seen], x[seen], y[seen], strict=True)
        return "".join(f"{letter}{a:.8g} {-b:.6g}" for letter, a, b in parts)

    def dots(self, curve: Curve) -> str:
        """Each point by itself, where there are few."""
        if len(curve.x) > FEW:
            return ""
        points = zip(curve.x, self.drawn(curve.y), strict=True)
        return "".join(f"M{a:.8g} {-b:.6g}h0" for a, b in points if not math.isnan(b))

    @property
    def table(self) -> Iterator[tuple[float, list[float | None]]]:
        """(x, what each curve has there) of some rows, the last among them."""
        at = [dict(zip(c.x.tolist(), c.y.tolist(), strict=True)) for c in self.curves]
        xs = sorted(set.intersection(*map(set, at))) or sorted(set().union(*at))
        chosen = sorted({round(i) for i in np.linspace(0, len(xs) - 1, min(ROWS, len(xs)))})
        for i in chosen:
            yield xs[i], [points.get(xs[i]) for points in at]

    @property
    def x_ticks(self) -> list[tuple[str, float]]:
        """(text, share of the width)."""
        x0, x1, _, _ = self.window
        return [(f"{t:g}", (t - x0) / (x1 - x0)) for t in ticks(x0, x1)]

    @property
    def y_ticks(self) -> list[tuple[str, float]]:
        """(text, share of the height)."""
        _, _, y0, y1 = self.window
        found = ticks(y0, y1, whole=self.log)
        said = [f"1e{t:g}" if self.log else f"{t:.6g}" for t in found]
        return [(text, (t - y0) / (y1 - y0)) for text, t in zip(said, found, strict=True)]


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, or two: of each part the least and the greatest, so no peak is lost.

    NaN counts as the least, so that no gap is lost either.
    """
    if len(x) <= max(2, most):
        return x, y
    filled = np.where(np.isnan(y), -np.inf, y)
    kept: list[int] = []
    for start, stop in pairwise(np.linspace(0, len(x), max(1, most // 2) + 1).astype(int)):
        part = filled[start:stop]
        kept += sorted({start + int(part.argmin()), start + int(part.argmax())})
    return x[kept], y[kept]


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    step = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(step))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= step * (1 - 1e-9))
    step = max(1.0, round(step)) if whole else step
    return [
        float(round(i * step, 12))
        for i in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def charts(verdict: Verdict) -> list[Chart]:
    """What a verdict's curves and certified steps give."""
    found = [*_training(verdict), *(_steps(verdict.trajectory) if verdict.trajectory else ())]
    whole = [replace(c, curves=tuple(x for x in c.curves if len(x.x))) for c in found]
    return [chart for chart in whole if chart.curves]


def within(charts: Sequence[Sequence[Chart]], points: int = POINTS) -> list[list[Chart]]:
    """The same charts with as many points of each curve as the page has room for."""
    count = sum(len(chart.curves) for group in charts for chart in group)
    most = points // max(1, count)
    return [[replace(chart, most=most) for chart in group] if most >= 2 else [] for group in charts]


def _training(verdict: Verdict) -> Iterator[Chart]:
    runs = {name: verdict.curves[name] for name in RUNS if name in verdict.curves}
    if not runs:
        return
    yield Chart(
        "Loss",
        "nats",
        (
            *(
                Curve(f"{name}, each step", _kind(name), _steps_of(run), run["train_loss"], True)
                for name, run in runs.items()
            ),
            *_at_epochs(runs, "val_loss", "validation"),
        ),
        _ends(runs, "val_loss", "Validation loss") or _ends(runs, "train_loss", "Loss"),
    )
    accuracy = tuple(_at_epochs(runs, "val_acc", "validation"))
    yield Chart("Validation accuracy", "share", accuracy, _ends(runs, "val_acc", "Accuracy"))
    if (exact := runs.get("jax float64")) is None:
        return
    apart, same = [], ""
    for name, said in APART.items():
        if name in verdict.curves:
            one, other = exact["train_loss"], verdict.curves[name]["train_loss"]
            steps = min(len(one), len(other))  # the yardstick's is shorter
            with np.errstate(all="ignore"):
                distance = np.abs(other[:steps] - one[:steps])
            apart.append(Curve(said, _kind(name), 1 + np.arange(steps), distance))
            if name == "torch float64" and steps:
                equal = int((distance == 0).sum())
                same = f"In float64 at most {np.max(distance):.2g} apart; at {equal:,} of "
                same += f"{len(distance):,} steps not at all, where nothing is drawn."
    yield Chart("Training loss: how far apart", "nats", tuple(apart), same, log=True)


def _steps(t: Trajectory) -> Iterator[Chart]:
    if not t.steps:
        return
    x = 1 + np.arange(t.steps)
    kind = {"jax": f"jax {t.precision}", "torch": f"torch {t.precision}"}
    weights = [Curve(f"{s}: weights", _kind(kind[s]), x, margin) for s, margin in t.margin.items()]
    loss = [
        Curve(f"{s}: loss", _kind(kind[s]), x, leaves["loss"], True)
        for s, leaves in t.margins.items()
        if "loss" in leaves
    ]
    largest = max(float(np.max(margin)) for margin in t.margin.values())
    yield Chart(
        f"Every step in {t.precision}: share of its rounding bound",
        "of the bound",
        (*weights, *loss),
        f"{t.steps:,} steps, {len(t.failed):,} of them outside; the largest share is {largest:.3g}."
        " Above the line at 1 a step differs.",
        log=True,
        level=1.0,
    )
    yield Chart(
        "What a step's bound can see",
        "relative error",
        (Curve("error of the update that would be seen", "yardstick", x, t.visible),),
        f"At a median step an update off by {np.median(t.visible):.2g} of itself would be seen; "
        f"rounding could have turned {int(t.uncertain.sum()):,} decisions in all steps.",
        log=True,
    )


def _steps_of(run: dict[str, np.ndarray]) -> np.ndarray:
    return 1 + np.arange(len(run["train_loss"]))


def _at_epochs(runs: dict[str, dict[str, np.ndarray]], key: str, said: str) -> Iterable[Curve]:
    """A validation figure at the last step of each epoch."""
    for name, run in runs.items():
        if len(figures := run.get(key, ())):
            x = np.round(np.arange(1, len(figures) + 1) * len(run["train_loss"]) / len(figures))
            yield Curve(f"{name}, {said}", _kind(name), x, np.asarray(figures))


def _ends(runs: dict[str, dict[str, np.ndarray]], key: str, said: str) -> str:
    """The last figure of each run."""
    last = [f"{name} {run[key][-1]:.6g}" for name, run in runs.items() if len(run.get(key, ()))]
    return f"{said} at the end: {', '.join(last)}." if last else ""


def _kind(name: str) -> str:
    return name.replace(" ", "-")
