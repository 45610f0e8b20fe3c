"""Weights: what both sides hold after the shared weights were loaded."""

from parity.comparison import Comparison, compare_trees
from parity.levels.level import Level
from parity.levels.pair import Pair
from parity.sides.side import SIDES


def judge_weights(pair: Pair, precision: str) -> list[Comparison]:
    """The shared weights and state, read back from both models."""
    jax, torch = pair.sides("float32").values()
    found = compare_trees(jax.params(), torch.params(), name="params", sides=SIDES)
    found += compare_trees(jax.params(), pair.params, name="params", sides=("jax", "source"))
    if pair.state:
        found += compare_trees(jax.state(), torch.state(), name="state", sides=SIDES)
    return found


LEVEL = Level(
    "weights",
    "Do both models hold the shared weights after the round trip?",
    "same bits",
    judge_weights,
    ("bits",),
)
