"""What a checkpoint keeps of steps that were judged: the figures of each, and where to go on."""

from typing import Any

import jax
import numpy as np

from mlp_core.checkpoint import told
from mlp_core.work import Work
from parity.levels.step_judge import Judged, StepJudge
from parity.trees import Leaves

Trees = tuple[Leaves, Leaves, Leaves]  # parameters, state, the optimiser's memory
TREES = ("params", "state", "memory")
FIGURES = ("margins", "visible", "apart", "unjudged")
Figures = list[tuple[Any, Judged]]  # loss and figures of each step


def held(start: Any, found: Figures, judge: StepJudge, seconds: float) -> tuple[dict, dict]:
    """start: what the next step starts from. found: loss and figures of each step before it."""
    arrays = trees_held(start)
    arrays["losses"] = np.array([loss for loss, _ in found], np.float64)
    for name in FIGURES:
        arrays[name] = np.array([getattr(judged, name) for _, judged in found])
    # Decisions that nothing reached at first may be reached later: then a row has more of them.
    kinks = np.zeros((len(found), len(judge.decisions)), np.int64)
    for row, (_, judged) in zip(kinks, found, strict=True):
        row[: len(judged.kinks)] = judged.kinks
    arrays["kinks"] = kinks
    facts = {"leaves": judge.leaves, "decisions": judge.decisions, "seconds": seconds}
    return arrays, facts


def taken_up(work: Work, judge: StepJudge) -> tuple[Trees, Figures, float] | None:
    """(what the next step starts from, the figures of those before, their seconds), or None."""
    if work.found is None:
        return None
    arrays, facts = work.found.arrays, work.found.facts
    with told(work.found.path):
        columns = [arrays[name] for name in ("losses", *FIGURES, "kinks")]
        if any(len(column) != work.step for column in columns):
            raise ValueError("its counts contradict each other")
        judge.leaves, judge.decisions = tuple(facts["leaves"]), tuple(facts["decisions"])
        losses, margins, visible, apart, unjudged, kinks = columns
        rows = zip(margins, visible, apart, kinks, unjudged, strict=True)
        found = [(float(x), Judged(*row)) for x, row in zip(losses, rows, strict=True)]
        return trees_of(arrays), found, float(facts["seconds"])


def trees_held(trees: Any) -> dict[str, np.ndarray]:
    named = dict(zip(TREES, jax.tree.map(np.asarray, tuple(trees)), strict=True))
    return {f"{kind}/{n}": array for kind, tree in named.items() for n, array in tree.items()}


def trees_of(arrays: dict[str, np.ndarray]) -> Trees:
    found: dict[str, Leaves] = {kind: {} for kind in TREES}
    for name, array in arrays.items():
        kind, _, leaf = name.partition("/")
        if leaf and kind in found:
            found[kind][leaf] = array
    return found["params"], found["state"], found["memory"]
