"""The catalogue as a picture: faults by levels, the colour the margin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mlp_core.files import drawn

LEAST, MOST = -3.0, 15.0  # decades of the margin that the colours tell apart


def matrix(outcomes: Sequence[Any], levels: Sequence[str]) -> bytes:
    """A PNG. Red is over the bound, blue under it, grey not asked; a frame marks the first catch.

    outcomes: parity.studies.faults.run.Outcome.
    """
    shown = np.full((len(outcomes), len(levels)), np.nan)
    for row, outcome in enumerate(outcomes):
        for s in outcome.sights:
            margin = s.margin if np.isfinite(s.margin) else 10**MOST
            decades = np.log10(max(margin, 10**LEAST))
            shown[row, levels.index(s.level)] = np.clip(decades, LEAST, MOST)
    figure = Figure(figsize=(9, 1.6 + 0.155 * len(outcomes)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("0.85")
    norm = TwoSlopeNorm(0.0, LEAST, MOST)
    image = axes.imshow(shown, cmap="RdBu_r", norm=norm, aspect="auto", interpolation="none")
    for row, outcome in enumerate(outcomes):
        if outcome.first is not None:
            corner = levels.index(outcome.first) - 0.5, row - 0.5
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, lw=1.2, ec="k"))
    names = [f"{o.fault.name}  ({o.fault.kind})" for o in outcomes]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    for label, outcome in zip(axes.get_yticklabels(), outcomes, strict=True):
        label.set_color("k" if outcome.ok else "tab:red")
    axes.set_xticks(range(len(levels)), levels, rotation=45, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    bar = figure.colorbar(image, location="bottom", aspect=60, pad=0.01)
    bar.set_ticks([-3, -2, -1, 0, 3, 6, 9, 12, 15])
    bar.set_label("decades of the effect over the bound (15: or other bits, or not finite)")
    return drawn(figure)
