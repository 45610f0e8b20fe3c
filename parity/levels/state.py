"""State: what a model holds and doesn't train, as running means, after a step and after a run."""

from parity.comparison import Comparison, compare_trees
from parity.levels.evaluated import judge_part
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.sides.reference import ROUNDOFF, room
from parity.sides.side import SIDES

_after_a_step = judge_part("state")


def judge_state(pair: Pair, precision: str) -> list[Comparison]:
    """Statistics after one step, within their rounding bound; and outputs by them, in the mode of
    validation."""
    if not pair.state:
        raise Skipped("both models hold nothing but parameters")
    found = _after_a_step(pair, precision)
    batch = next(iter(pair.batches))
    inputs, _ = pair.batches[batch]
    outputs = {s: side.forward(inputs, training=False) for s, side in pair.sides(precision).items()}
    name = f"{batch}, in the mode of validation: "
    if why := pair.unbounded(precision):
        raise Skipped(f"no rounding bound: {why}")
    expected = pair.reference(precision).forward(inputs, training=False)
    bound = expected.bound.outputs
    if ROUNDOFF[precision] == ROUNDOFF["float64"]:
        twice = {key: 2 * leaf for key, leaf in bound.items()}
        ours, theirs = outputs.values()
        return found + compare_trees(ours, theirs, twice, sides=SIDES, name=name)
    within = {key: room(leaf) for key, leaf in bound.items()}
    for s in SIDES:
        value = expected.value.outputs
        found += compare_trees(outputs[s], value, within, sides=(s, "float64 value"), name=name)
    return found


LEVEL = Level(
    "state",
    "Same running statistics after a step, and same outputs by them?",
    "rounding bound",
    judge_state,
    part="state",
    needs="gradient",
)
