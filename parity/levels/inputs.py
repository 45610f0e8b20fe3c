"""Inputs: the same numbers in every batch, as each side's own pipeline makes them."""

from itertools import zip_longest

from parity.comparison import Comparison, compare, compare_trees
from parity.levels.level import Level
from parity.levels.pair import Pair
from parity.sides.side import SIDES, Batch
from parity.trees import leaves


def judge_inputs(pair: Pair, precision: str) -> list[Comparison]:
    """Every batch of the first epoch, and every validation batch, as each pipeline makes it."""
    found = []
    for train, kind in ((True, "train"), (False, "val")):
        both = (side.batches(train) for side in pair.sides("float32").values())
        counts = [0, 0]
        for i, (mine, theirs) in enumerate(zip_longest(*both)):
            counts = [n + (b is not None) for n, b in zip(counts, (mine, theirs), strict=True)]
            if mine is not None and theirs is not None:
                # By name: JAX sorts the keys of a dict, Torch's batches hold them as given.
                named = ({f"{kind} batch {i} {n}": x for n, x in parts(b).items()}
                         for b in (mine, theirs))  # fmt: skip
                found += compare_trees(*named, sides=SIDES)
        if counts != [0, 0]:
            found.append(compare(*counts, name=f"{kind} batches", sides=SIDES))
    return found


def parts(batch: Batch) -> dict[str, object]:
    """The leaves of a batch by name; a single input is called images, single targets labels."""
    inputs, targets = batch
    named = leaves({"targets": targets}) if isinstance(targets, dict) else leaves(targets, "labels")
    return leaves(inputs, "images") | named


LEVEL = Level(
    "inputs",
    "Does every batch hold the same images and labels?",
    "same bits",
    judge_inputs,
    ("bits",),
)
