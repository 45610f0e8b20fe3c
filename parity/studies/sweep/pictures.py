"""PNG of an exercise: curves of each value with bands over seeds, and where they end."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from mlp_core.files import drawn
from parity.studies.sweep.outcome import Outcome, Row

COLORED = 10  # as many curves as tab10 tells apart; of more, the best five
GREY: Any = "0.75"


def picture(outcome: Outcome) -> bytes:
    """Validation loss and error over epochs; below, the last error of each value.

    A line is the mean over seeds; its band reaches from the least to the largest. Error is
    1 - accuracy, on a logarithmic axis: there 11% and 12% are told apart beside 90%.
    """
    colors = _colors(outcome)
    figure = Figure(figsize=(10.5, 7.5), layout="constrained")
    loss, error, last = figure.subplot_mosaic([["loss", "error"], ["last", "last"]]).values()
    for row in sorted(outcome.rows, key=lambda row: colors[row.value] != GREY):
        _band(loss, row.curves("loss"), colors[row.value])
        _band(error, 1 - row.curves("acc"), colors[row.value])
    for place, row in enumerate(outcome.rows):
        _end(last, place, row, colors[row.value])
    last.set_xticks(
        range(len(outcome.rows)),
        ["\n".join([row.value, *row.note.split(", ")]) for row in outcome.rows],
        rotation=30 if len(outcome.rows) > COLORED else 0,
    )
    seeds = len(outcome.rows[0].runs)
    loss.set(xlabel="epoch", yscale="log", title="Validation loss (nats)")
    error.set(xlabel="epoch", title="Validation error")
    ends = np.concatenate(
        [[1.0] * (not outcome.ranked), *(1 - r.final("acc") for r in outcome.rows)]
    )
    last.set_ylim(0.9 * max(ends.min(), 1e-4), 1.1 * ends.max())
    last.set_xlim(-0.5, len(outcome.rows) - 0.3)
    last.set(xlabel=outcome.exercise.noun, title=f"Error at the end: each of {seeds} seeds, "
             "mean and standard deviation")  # fmt: skip
    for axes in (error, last):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 1.8, 2, 2.5, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    loss.yaxis.set_major_formatter("{x:g}")
    for axes in (loss, error, last):
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    for axes in (loss, error):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = [
        Line2D([], [], color=color, marker=".", label=value)
        for value, color in colors.items()
        if color != GREY
    ]
    figure.legend(handles=lines, title=outcome.exercise.noun, loc="outside right upper")
    figure.suptitle(outcome.exercise.question)
    return drawn(figure)


def _colors(outcome: Outcome) -> dict[str, Any]:
    """By value: shades for steps of one quantity, else hues; grey where there are too many."""
    rows = outcome.rows
    if outcome.exercise.ordered:
        shades = mpl.colormaps["viridis_r"](np.linspace(0.12, 1, len(rows)))
        return {row.value: tuple(shade) for row, shade in zip(rows, shades, strict=True)}
    chosen = rows if len(rows) <= COLORED else outcome.ranked[:5]
    hues = {row.value: f"C{i}" for i, row in enumerate(chosen)}
    return {row.value: hues.get(row.value, GREY) for row in rows}


def _band(axes: Axes, curves: np.ndarray, color: Any) -> None:
    """curves: [runs, epochs]. Where one has diverged its line ends; the others go on."""
    left = ~np.isnan(curves).all(axis=0)
    if not left.any():
        return
    epochs, curves = 1 + np.flatnonzero(left), curves[:, left]
    low, mean, high = (f(curves, axis=0) for f in (np.nanmin, np.nanmean, np.nanmax))
    if color != GREY:
        axes.fill_between(epochs, low, high, color=color, alpha=0.15, lw=0)
    axes.plot(epochs, mean, color=color, marker=".", lw=1.2)


def _end(axes: Axes, place: int, row: Row, color: Any) -> None:
    ends = 1 - row.final("acc")
    if not len(ends):
        return
    beside = place + np.linspace(-0.1, 0.1, len(ends) + 2)[1:-1]  # so that equal ones are seen
    axes.plot(beside, ends, "o", ms=4, alpha=0.6, color=color)
    deviation = ends.std(ddof=1) if len(ends) > 1 else 0.0
    axes.errorbar(place + 0.18, ends.mean(), deviation, fmt="_", ms=10, capsize=3, color=color)
    if color == GREY:
        return
    axes.annotate(
        f"{ends.mean():.2%}", (place + 0.18, ends.mean()), (6, -3), textcoords="offset points",
        fontsize="small",
    )  # fmt: skip
