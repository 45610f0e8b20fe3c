"""Same bits: an epoch in reproducible arithmetic, where no tolerance exists."""

import numpy as np

from parity.comparison import Comparison, compare, compare_trees
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.sides.side import SIDES


def judge_bits(pair: Pair, precision: str) -> list[Comparison]:
    """One epoch in reproducible arithmetic on each side: all losses and final weights, bit by bit.

    Skipped where a model computes by other operations than those that have one result everywhere.
    Runs that diverge, both at the same step, are compared until there.
    """
    sides = pair.sides("float32")
    for s, side in sides.items():
        if why := side.not_reproducible():
            raise Skipped(f"{s}: {why[0]}")
    runs = {}
    for s, side in sides.items():
        pair.on_start(f"1 epoch, {s} reproducible")
        runs[s] = side.reproducible_epoch()
    losses = [np.array(run.history.train_loss, np.float32) for run in runs.values()]
    if end := diverged(*losses):
        pair.kept["diverged", "same bits"] = end
        return [compare(*(x[:end] for x in losses), name="train_loss", sides=SIDES)]
    each_step = compare(*losses, name="train_loss", sides=SIDES)
    finals = (run.params for run in runs.values())
    return [each_step, *compare_trees(*finals, name="final", sides=SIDES)]


def diverged(ours: np.ndarray, theirs: np.ndarray) -> int:
    """The step at which both losses cease to be finite, the same on both sides; else 0."""
    ends = [np.flatnonzero(~np.isfinite(losses)) for losses in (ours, theirs)]
    if len(ours) != len(theirs) or not all(len(end) for end in ends):
        return 0
    return int(ends[0][0]) if ends[0][0] == ends[1][0] else 0


def _note(pair: Pair, precision: str) -> str:
    end = pair.kept.get(("diverged", "same bits"), 0)
    return f"both runs diverge at step {end:,}, and were compared until there" if end else ""


LEVEL = Level(
    "same bits",
    "20,000 examples in reproducible arithmetic: same bits, every loss and weight?",
    "same bits",
    judge_bits,
    ("bits",),
    _note,
    needs="train",
)
