"""The command `prove`: the book's pairs, at small sizes, over finite fields."""

from collections.abc import Iterator

import numpy as np

from parity.config import ProveConfig
from parity.identity.prove import Proof, prove
from parity.problem import Examples, Problem
from parity.sides.pairs import book_pair, sides_of

ROWS = 12  # a few at a time; together they have more classes


def run(config: ProveConfig) -> Iterator[tuple[str, Proof]]:
    """(pair, what was found) of each pair that the configuration names."""
    X = np.zeros((ROWS, config.inputs), np.float32)
    y = np.arange(ROWS, dtype=np.int32) % config.outputs
    for name in ("scratch", "mlp") if config.model == "both" else (config.model,):
        sizes = config.inputs, config.outputs
        ours, theirs = book_pair(
            name, config.hiddens, config.lr, config.seed, *sizes, activation=config.activation
        )
        sides = sides_of(Problem(theirs, ours, Examples((X, y), ROWS)), "float64")
        yield name, prove(*sides, X, y, seed=config.seed)
