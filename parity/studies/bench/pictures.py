"""Pictures of the benchmark: rows side by side, scaling, widths around powers of two, roofline."""

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlp_core.files import drawn
from parity.studies.bench.outcome import ROWS, Bench


def draw(bench: Bench) -> Iterator[tuple[str, bytes]]:
    """(file name, PNG) of each picture that the measured rows allow."""
    sizes = bench.sizes
    if len(sizes) == 1:
        yield "rows.png", drawn(_rows(bench))
    for axis in ("width", "depth", "batch"):
        if len({getattr(size, axis) for size in sizes}) > 1:
            yield f"{axis}.png", drawn(_scaling(bench, axis))
    if sizes:
        yield "roofline.png", drawn(_roofline(bench))


def _rows(bench: Bench) -> Figure:
    """Seconds an epoch, each round a stroke, the median a diamond."""
    rows = sorted(bench.rows, key=lambda row: row.epoch.median)
    figure, axes = _axes(f"{bench.sizes[0]}: seconds an epoch", height=0.8 + 0.32 * len(rows))
    for i, row in enumerate(rows):
        color = _color(row.name)
        axes.plot(row.seconds, [i] * len(row.seconds), "|", color=color, markersize=9)
        axes.plot(row.epoch.median, i, "D", color=color, markersize=4)
        axes.annotate(f" {row.epoch}", (max(row.seconds), i), va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 1.6)
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which("{x:g}")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.grid(axis="x", which="both", alpha=0.3)
    return figure


def _scaling(bench: Bench, axis: str) -> Figure:
    """Operations a second over one of the sizes; where it falls, something else than products."""
    figure, axes = _axes(f"GFLOP/s in the products, by {axis}")
    others = [a for a in ("width", "depth", "batch") if a != axis]
    lines = dict.fromkeys((row.name, *(getattr(row.size, a) for a in others)) for row in bench.rows)
    values = sorted({getattr(size, axis) for size in bench.sizes})
    for name, *fixed in lines:
        own = [
            row
            for row in bench.rows
            if row.name == name and [getattr(row.size, a) for a in others] == fixed
        ]
        x = [values.index(getattr(row.size, axis)) for row in own]
        y = [row.rate / 1e9 for row in own]
        around = [
            [row.rate / 1e9 * (1 - row.epoch.median / row.epoch.high) for row in own],
            [row.rate / 1e9 * (row.epoch.median / row.epoch.low - 1) for row in own],
        ]
        label = name + "".join(f", {a} {v}" for a, v in zip(others, fixed, strict=True))
        axes.errorbar(x, y, around, fmt=".-", capsize=2, lw=1, label=label, color=_color(name))
    axes.axhline(bench.peak / 1e9, color="0.5", ls=":", label="largest square product")
    # Evenly spaced: 255, 256, 257 are to be told apart, and 16 to 8192 are seen by their ratios.
    below = [f"\n$2^{{{(v & -v).bit_length() - 1}}}$" if axis == "width" else "" for v in values]
    ticks = [f"{v}{power}" for v, power in zip(values, below, strict=True)]
    axes.set_xticks(range(len(values)), ticks, fontsize=7)
    axes.minorticks_off()
    what = f"{axis}, largest power of two that divides it" if axis == "width" else axis
    axes.set(xlabel=what, ylim=(0, None))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _roofline(bench: Bench) -> Figure:
    """Rate over operations a byte, below the measured peak."""
    figure, axes = _axes("Rate of the products over their arithmetic intensity")
    for name in dict.fromkeys(row.name for row in bench.rows):
        own = sorted((r.size.intensity, r.rate / 1e9) for r in bench.rows if r.name == name)
        axes.plot(*zip(*own, strict=True), ".-", label=name, color=_color(name), lw=0.7)
    peak = bench.peak / 1e9
    axes.axhline(peak, color="0.5", ls=":", label=f"largest square product, {peak:,.0f} GFLOP/s")
    axes.set(xlabel="operations / byte moved at least", ylabel="GFLOP/s", xscale="log",
             yscale="log")  # fmt: skip
    axes.legend(fontsize=6, ncols=2)
    axes.grid(alpha=0.3)
    return figure


def _color(name: str) -> str:
    """One for each row, the same in every picture."""
    return "k" if name == "floor" else f"C{ROWS.index(name) % 10}" if name in ROWS else "0.5"


def _axes(title: str, height: float = 3.8) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    return figure, axes
