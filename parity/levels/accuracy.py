"""Accuracy: what both models count as a hit."""

import numpy as np
from jaxtyping import Float, Int

from parity.comparison import Comparison, compare
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.sides.side import SIDES


def judge_accuracy(pair: Pair, precision: str) -> list[Comparison]:
    """Hits and accuracy of both sides on the same small-integer logits, many of them tied.

    A hit is 0 or 1 and has no room. The mean is a sum of ones, exact, divided by n or multiplied by
    its rounded inverse: two roundings a side, 2 * (2 u + u^2) of it.
    """
    outputs = pair.evaluate("torch", "float32", next(iter(pair.batches))).outputs
    if len(outputs) != 1:
        raise Skipped("accuracy is of a model with one output, its logits")
    z, y = tied_logits(next(iter(outputs.values())).shape[-1])
    found = []
    for s, side in pair.sides("float32").items():
        if s == "torch" or ("accuracy", s) not in pair.kept:
            pair.kept["accuracy", s] = side.accuracy(z, y)
        if pair.kept["accuracy", s] is None:
            raise Skipped(f"{s}: the model has no accuracy(logits, labels, averaged) of its own")
        found.append(pair.kept["accuracy", s])
    ours, theirs = found
    u = 2.0**-24
    room = 2 * (2 * u + u * u) * abs(float(ours[1]))
    return [
        compare(ours[0], theirs[0], name="hits", sides=SIDES),
        compare(ours[1], theirs[1], room, name="accuracy", sides=SIDES),
    ]


def tied_logits(
    classes: int,
) -> tuple[Float[np.ndarray, "examples classes"], Int[np.ndarray, "examples"]]:
    """Logits of 0, 1, 2 and all labels, so that two largest logits are often equal."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (7 * classes, classes)).astype(np.float32)
    z[0] = 0
    return z, np.resize(np.arange(classes, dtype=np.int32), len(z))


LEVEL = Level(
    "accuracy",
    "Same hits on the same logits, tied ones too?",
    "same bits",
    judge_accuracy,
    ("float32",),
)
