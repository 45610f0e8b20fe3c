"""The PNG of certified steps: what share of its bound each one used."""

import numpy as np
from matplotlib.figure import Figure

from mlp_core.files import drawn
from parity.levels.every_step import Trajectory

COLORS = {"jax": "tab:green", "torch": "tab:red"}


def margins(t: Trajectory, title: str = "") -> bytes:
    """Share of its bound that each step used, on each side; below, what its bound can see."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    share, visible = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    steps = np.arange(t.steps)
    least = 1e-7
    for (side, margin), style in zip(t.margin.items(), ("-", ":"), strict=True):
        shown = np.clip(margin, least, 1e4)
        share.semilogy(steps, shown, style, lw=0.9, color=COLORS[side], label=f"{side}: weights")
        loss = np.clip(t.margins[side]["loss"], least, 1e4)
        share.semilogy(
            steps, loss, style, lw=0.6, alpha=0.5, color=COLORS[side], label=f"{side}: loss"
        )
    share.plot(t.failed, np.full(len(t.failed), 1.0), "kx", ms=4, label="not certified")
    share.axhline(1, color="k", lw=1)
    share.set(ylabel="share of the bound", title=f"{title} {t.precision}: each step from JAX's "
              "weights against its rounding bound")  # fmt: skip
    visible.semilogy(steps, t.visible, lw=0.7, color="tab:blue", label="error of the update that "
                     "would be seen, relative")  # fmt: skip
    visible.set(xlabel="step", ylabel="relative error")
    count = visible.twinx()
    count.plot(steps, t.uncertain, lw=0.5, color="0.6")
    count.set(ylabel="uncertain decisions (grey)")
    for axes in (share, visible):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    return drawn(figure)
