"""PNGs of free runs: the envelope of one, figures over seeds."""

import numpy as np
from matplotlib.figure import Figure

from mlp_core.files import drawn
from parity.report.steps_picture import COLORS
from parity.studies.trajectory.envelope import Envelope
from parity.studies.trajectory.seeds import Seeds


def envelope(e: Envelope, title: str = "") -> bytes:
    """Distance of Torch's free run from the copies' mean, among the copies' own."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="rms distance of a weight")
    for i, copy in enumerate(e.copies):
        label = f"{len(e.copies)} JAX copies, one ulp apart at the start" if i == 0 else None
        axes.semilogy(e.checkpoints, copy, lw=0.6, alpha=0.5, color=COLORS["jax"], label=label)
    axes.semilogy(e.checkpoints, e.limit, "k", lw=1, label="limit")
    axes.semilogy(e.checkpoints, e.torch, lw=1.5, color=COLORS["torch"], label="Torch")
    axes.semilogy(e.checkpoints, e.way, "--", lw=1, color="0.5", label="the way that training went")
    if e.saturated is not None:
        axes.axvline(e.saturated, ls=":", color="tab:blue", label="from here on not amplified")
    axes.set(title=f"{title}: float32 runs on their own")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return drawn(figure)


def seeds(s: Seeds, title: str = "") -> bytes:
    """Each run's final figure, side by side, with means and the margin."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    rng = np.random.default_rng(0)
    grid = figure.subplots(1, len(s.figures), squeeze=False)
    for axes, f in zip(grid[0], s.figures, strict=True):
        for place, (side, values) in enumerate((("jax", f.jax), ("torch", f.torch))):
            x = place + rng.uniform(-0.15, 0.15, len(values))  # so that equal runs are seen apart
            axes.plot(x, values, "o", ms=4, alpha=0.6, color=COLORS[side])
            axes.hlines(values.mean(), place - 0.3, place + 0.3, color=COLORS[side])
        middle = (f.jax.mean() + f.torch.mean()) / 2
        axes.axhspan(middle - f.margin / 2, middle + f.margin / 2, color="0.9", zorder=0)
        axes.set_xticks([0, 1], [f"jax ({len(f.jax)})", f"torch ({len(f.torch)})"])
        axes.set(title=f"{title} {f.name}: {f.verdict} (grey: margin)", xlim=(-0.6, 1.6))
        axes.grid(alpha=0.3)
    return drawn(figure)
