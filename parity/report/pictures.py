"""PNGs of a check: curves and their difference, margins of the ladder."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mlp_core.files import drawn
from parity.levels.curve import YARDSTICK
from parity.levels.verdict import Verdict

STYLES = {
    "jax float64": ("tab:blue", "-"),
    "torch float64": ("tab:orange", "--"),
    "jax float32": ("tab:green", "-."),
    "torch float32": ("tab:red", ":"),
}
APART = {
    "torch float64": ("tab:orange", "JAX and Torch, float64"),
    "jax float32": ("tab:green", "JAX float32 and JAX float64"),
    "torch float32": ("tab:red", "Torch float32 and JAX float64"),
    "yardstick": ("0.4", f"yardstick: JAX float64, updates off by {YARDSTICK:g}"),
}


def curves(verdict: Verdict) -> bytes:
    """Losses and accuracy of all runs overlaid, and below how far apart they are."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    loss, accuracy, apart = figure.subplot_mosaic(
        [["loss", "accuracy"], ["apart", "apart"]], height_ratios=(1, 1.1)
    ).values()
    for name, (color, ls) in STYLES.items():
        if name not in verdict.curves:
            continue
        run = verdict.curves[name]
        epochs = len(run.get("val_loss", [1]))
        steps = (1 + np.arange(len(run["train_loss"]))) / len(run["train_loss"]) * epochs
        style: dict[str, Any] = {"color": color, "ls": ls, "label": name}
        loss.plot(steps, run["train_loss"], lw=0.5, alpha=0.5, color=color)
        for key, axes in (("val_loss", loss), ("val_acc", accuracy)):
            if key in run:
                axes.plot(1 + np.arange(epochs), run[key], marker=".", **style)
    loss.set(xlabel="epoch", ylabel="loss (nats)", title=f"{verdict.pair}: loss (thin: each step)")
    accuracy.set(xlabel="epoch", ylabel="share", title=f"{verdict.pair}: validation accuracy")
    exact = verdict.curves.get("jax float64")
    if exact:
        for name, (color, label) in APART.items():
            if name in verdict.curves:
                other = verdict.curves[name]["train_loss"]  # the yardstick's is shorter
                difference = np.abs(other - exact["train_loss"][: len(other)])
                apart.semilogy(
                    1 + np.arange(len(difference)), difference, color=color, lw=0.7, label=label
                )
    apart.set(xlabel="step", ylabel="|difference| (nats)", title="Training loss: how far apart")
    for axes in (loss, accuracy, apart):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    if apart.lines:
        apart.set_ylim(1e-17, 1e3 * apart.get_ylim()[1])
        apart.legend(fontsize="small", loc="upper center", ncols=2)
    return drawn(figure)


def ladder(verdicts: Sequence[Verdict]) -> bytes:
    """Largest share of its bound that each level used; right of 1 it fails."""
    rows = list(dict.fromkeys((r.level.name, r.precision) for v in verdicts for r in v.results))
    figure = Figure(figsize=(9, 0.6 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel="share of the bound used by the worst element", xscale="log")
    least = 1e-9
    height = 0.8 / len(verdicts)
    for i, v in enumerate(verdicts):
        found = {(r.level.name, r.precision): r for r in v.results}
        for y, place in enumerate(rows):
            if place not in found:
                continue
            result, at = found[place], y + (i - (len(verdicts) - 1) / 2) * height
            margin = result.worst.margin if result.comparisons else 0.0
            said = result.verdict if not result.comparisons else "no difference"
            if margin == 0:
                axes.text(least * 1.3, at, f"{v.pair}: {said}", va="center", fontsize="x-small")
            shown = float(np.clip(margin, least, 1e3))
            color = f"C{i}" if result.ok else "tab:red"
            axes.barh(at, shown - least, height, least, color=color)
        axes.barh(0, 0, color=f"C{i}", label=v.pair)
    axes.axvline(1, color="k", lw=1)
    axes.set_yticks(range(len(rows)), [f"{level} {precision}" for level, precision in rows])
    axes.invert_yaxis()
    axes.set_xlim(least, 30)
    axes.legend(fontsize="small", loc="upper right")
    return drawn(figure)
