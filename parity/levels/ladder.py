"""The levels, from the first input byte to the last weight, and what each of them asks.

A level is a judge: (Rungs, precision) -> comparisons. Later levels join by a line in LEVELS.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

import numpy as np

from parity.compare import Comparison, compare, compare_trees
from parity.levels.curve import judge_curve, note_curve
from parity.levels.effective_bits import same_bits, same_in_float64
from parity.levels.every_step import judge_every_step, note_every_step
from parity.levels.masks import judge_masks, note_masks
from parity.levels.precision import judge_precision
from parity.levels.probes import judge_probes
from parity.levels.rungs import Judge, Level, Result, Rungs, Skipped
from parity.sides.pairs import Side
from parity.sides.side import SIDES


def judge_inputs(rungs: Rungs, precision: str) -> list[Comparison]:
    """Every batch of the first epoch, and every validation batch, as each pipeline makes it."""
    found = []
    for train, kind in ((True, "train"), (False, "val")):
        both = (getattr(rungs, s)["float32"].batches(train) for s in SIDES)
        counts = [0, 0]
        for i, (mine, theirs) in enumerate(zip_longest(*both)):
            counts = [
                count + (b is not None) for count, b in zip(counts, (mine, theirs), strict=True)
            ]
            if mine is None or theirs is None:
                continue
            for part, a, b in zip(("images", "labels"), mine, theirs, strict=True):
                found.append(compare(a, b, name=f"{kind} batch {i} {part}", sides=SIDES))
        if counts != [0, 0]:
            found.append(compare(*counts, name=f"{kind} batches", sides=SIDES))
    return found


def judge_weights(rungs: Rungs, precision: str) -> list[Comparison]:
    """The shared weights, read back from both models."""
    jax = rungs.rename(rungs.jax["float32"].params(), "jax")
    torch = rungs.rename(rungs.torch["float32"].params(), "torch")
    return compare_trees(jax, torch, name="params", sides=SIDES) + compare_trees(
        jax, rungs.params, name="params", sides=("jax", "source")
    )


def judge_part(part: str) -> Judge:
    """A part of the evaluation, on a full and on a partial batch, against its rounding bound.

    float32: each side against the float64 value. float64: the sides against each other, within
    twice the bound, since both err. Where the model has no bound, by effective bits.
    """

    def judge(rungs: Rungs, precision: str) -> list[Comparison]:
        if rungs.unbounded(precision):
            return _by_bits(rungs, part, precision)
        found = []
        for batch in rungs.batches:
            sides = {s: rungs.evaluate(s, precision, batch).part(part) for s in SIDES}
            reference = rungs.reference(precision, batch)
            value, bound = reference.value.part(part), reference.bound.part(part)
            name = f"{batch}: "
            if precision == "float64":
                twice = {key: 2 * leaf for key, leaf in bound.items()}
                found += compare_trees(sides["jax"], sides["torch"], twice, sides=SIDES, name=name)
            else:
                # The reference is itself rounded, in float64: 2^-29 of this bound and less.
                room = {key: (1 + 2.0**-28) * leaf for key, leaf in bound.items()}
                for s in SIDES:
                    against = (s, "float64 value")
                    found += compare_trees(sides[s], value, room, sides=against, name=name)
        return found

    return judge


def _by_bits(rungs: Rungs, part: str, precision: str) -> list[Comparison]:
    found = []
    for batch in rungs.batches:
        exact, own = (
            {s: rungs.evaluate(s, p, batch).part(part) for s in SIDES}
            for p in ("float64", "float32")
        )
        for leaf, value in exact["jax"].items():
            name = f"{batch}: .{leaf}"
            float64, float32 = ({s: tree[s][leaf] for s in SIDES} for tree in (exact, own))
            if precision == "float64":
                found.append(same_in_float64(float64, float32, name))
            else:
                found += same_bits(value, float32, f"{name}: distance from the float64 value")
    return found


def note_part(part: str) -> Callable[[Rungs, str], str]:
    """The share of the probabilistic bound that was used, and the kinks that the bounds allow for.

    Above 1 rounding alone is an unlikely reason: suspicious, if still no proof.
    """

    def note(rungs: Rungs, precision: str) -> str:
        if why := rungs.unbounded(precision):
            return f"judged by effective bits, for there is no rounding bound: {why}"
        if precision == "float64":
            return ""
        share, kinks = 0.0, Counter[str]()
        for batch in rungs.batches:
            reference = rungs.reference(precision, batch)
            value, likely = reference.value.part(part), reference.likely.part(part)
            for s in SIDES:
                own = rungs.evaluate(s, precision, batch).part(part)
                found = compare_trees(own, value, likely)
                share = max([share, *(c.margin for c in found)])
            kinks.update(reference.kinks)
        said = f"{share:.2g} of the probabilistic bound" + ("; SUSPICIOUS" * (share > 1))
        if part == "gradients":
            places = "".join(f", {count} at {place}" for place, count in kinks.items())
            said += f"; {kinks.total()} signs within rounding of 0, either is allowed{places}"
        return said

    return note


def judge_bits(rungs: Rungs, precision: str) -> list[Comparison]:
    """One epoch in reproducible arithmetic on each side: all losses and final weights, bit by bit.

    Skipped where a model computes by other operations than those that have one result everywhere.
    """
    sides: dict[str, Side] = {s: getattr(rungs, s)["float32"] for s in SIDES}
    for s, side in sides.items():
        if why := side.not_reproducible():
            raise Skipped(f"{s}: {why[0]}")
    losses, weights = [], []
    for s, side in sides.items():
        rungs.on_start(f"1 epoch, {s} reproducible")
        run = side.reproducible_epoch()
        losses.append(np.array(run.history.train_loss, np.float32))
        weights.append(rungs.rename(run.params, s))
    each_step = compare(*losses, name="train_loss", sides=SIDES)
    return [each_step, *compare_trees(*weights, name="final", sides=SIDES)]


LEVELS = (
    Level(
        "inputs",
        "Does every batch hold the same images and labels?",
        "same bits",
        judge_inputs,
        ("bits",),
    ),
    Level(
        "weights",
        "Do both models hold the shared weights after the round trip?",
        "same bits",
        judge_weights,
        ("bits",),
    ),
    Level(
        "probes",
        "Small integers through the model and back: the same bits, whatever the arithmetic?",
        "same bits",
        judge_probes,
        ("float32",),
    ),
    Level(
        "precision",
        "Does every matrix product use all 24 bits of its float32 operands?",
        "half an ulp of float32",
        judge_precision,
        ("float32",),
    ),
    Level(
        "logits",
        "Same outputs for the same batch?",
        "rounding bound",
        judge_part("logits"),
        note=note_part("logits"),
    ),
    Level(
        "masks",
        "Same hidden units active for each example?",
        "equal, but where rounding may turn the sign",
        judge_masks,
        note=note_masks,
    ),
    Level("loss", "Same mean loss?", "rounding bound", judge_part("loss"), note=note_part("loss")),
    Level(
        "gradients",
        "Same gradient of the loss, leaf by leaf?",
        "rounding bound",
        judge_part("gradients"),
        note=note_part("gradients"),
    ),
    Level(
        "step",
        "Same weights after one step?",
        "rounding bound",
        judge_part("step"),
        note=note_part("step"),
    ),
    Level(
        "every step",
        "Does every step of all epochs, from shared weights, stay within its own bound?",
        "rounding bound of each step",
        judge_every_step,
        ("float32",),
        note_every_step,
    ),
    Level(
        "curve",
        "Same losses, step by step, and same weights at the end?",
        "closer than updates off by 1e-9 would bring; in float32, same effective bits; or no "
        "further than weights off by 6.5 bits of their precision at the start bring a run",
        judge_curve,
        note=note_curve,
    ),
    Level(
        "same bits",
        "20,000 examples in reproducible arithmetic: same bits, every loss and weight?",
        "same bits",
        judge_bits,
        ("bits",),
    ),
)


def climb(rungs: Rungs, levels: Sequence[Level] = LEVELS) -> Iterator[Result]:
    """Judge every level at each of its precisions, from the first input to the last weight."""
    for level in levels:
        for precision in level.precisions:
            rungs.on_start(f"{level.name} {precision}")
            start = time.perf_counter()
            comparisons: tuple[Comparison, ...] = ()
            skipped = note = ""
            try:
                comparisons = tuple(level.judge(rungs, precision))
                note = level.note(rungs, precision)
            except Skipped as reason:
                skipped = str(reason)
            seconds = time.perf_counter() - start
            yield Result(level, precision, comparisons, seconds, skipped, note)
