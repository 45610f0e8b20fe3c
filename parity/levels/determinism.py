"""Determinism: the same program on the same numbers twice, on each side alone.

A sum of floats depends on its order. On a CPU the order is the program's; on a GPU some operations
add by atomic instructions, in whatever order threads arrive. So a side that has none must give
the same bits again; one that has must stay within twice its rounding bound, for either order is the
same formula, and its operations are named.
"""

from parity.comparison import Comparison, compare_trees
from parity.levels.level import Level
from parity.levels.pair import Pair
from parity.levels.products import of_step, on_accelerator
from parity.sides.reference import room
from parity.sides.side import SIDES, Evaluation, lacks
from parity.trees import Arrays

TIMES = 2  # after the one that all levels judge
PARTS = ("logits", "loss", "gradients", "step", "state")


def judge_determinism(pair: Pair, precision: str) -> list[Comparison]:
    """All that one batch gives, again; leaf by leaf."""
    batch = next(iter(pair.batches))
    found: list[Comparison] = []
    for s in SIDES:
        first = pair.evaluate(s, precision, batch)
        for run in range(2, 2 + TIMES):
            again = _again(pair, s, precision, batch)
            for part in _parts(pair):
                found += _same(pair, s, part, first, again, f"{s} {part}, run {run}")
    return found


def _same(
    pair: Pair, side: str, part: str, first: Evaluation, again: Evaluation, name: str
) -> list[Comparison]:
    one, other = first.part(part), again.part(part)
    names = "first", "again"
    same = compare_trees(one, other, sides=names, name=name)
    if all(c.ok for c in same) or not of_step(pair)[side].unordered:
        return same
    limits = _bounds(pair, part)
    return compare_trees(one, other, limits, sides=names, name=name) if limits else same


def _bounds(pair: Pair, part: str) -> Arrays:
    """Twice the rounding bound; none where none can be had."""
    batch = next(iter(pair.batches))
    if pair.unbounded("float32"):
        return {}
    bound = pair.expected("float32", batch).bound.part(part)
    return {name: 2 * room(leaf) for name, leaf in bound.items()}


def _again(pair: Pair, side: str, precision: str, batch: str) -> Evaluation:
    kept = pair.kept.pop((side, precision, batch))
    try:
        return pair.evaluate(side, precision, batch)
    finally:
        pair.kept[side, precision, batch] = kept


def _parts(pair: Pair) -> tuple[str, ...]:
    sides = pair.sides("float32").values()
    alone = pair.infer or pair.outputs_alone or any(lacks(side, "gradient") for side in sides)
    return PARTS[:1] if alone else PARTS


def _note(pair: Pair, precision: str) -> str:
    """What may add in another order each time."""
    found = [f"{s} {name}" for s, p in of_step(pair).items() for name in p.unordered]
    if not found:
        return ""
    return f"added by atomic operations on a GPU, in no fixed order: {', '.join(found)}"


LEVEL = Level(
    "determinism",
    "The same program on the same numbers again: the same bits?",
    "same bits; twice the rounding bound where sums have no fixed order",
    judge_determinism,
    ("float32",),
    _note,
    needs="gradient",
    applies=on_accelerator,
)
