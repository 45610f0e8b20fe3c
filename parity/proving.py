"""prove: the level "identity" alone, as a library call: nothing is compiled, nothing trained."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from parity import defaults
from parity.identity.prove import Proof
from parity.identity.prove import prove as proven
from parity.locate.witness import lines_at
from parity.problem import Loss, Weights
from parity.sides.asked import asked
from parity.sides.pairs import plain_settings, sides_of


@plain_settings()
def prove(
    one: Any,
    other: Any,
    like: tuple[Any, Any],
    *,
    loss: Loss = None,
    optimizer: tuple[Any, Any] | None = None,
    weights: Weights = None,
    state: Mapping[str, str] | None = None,
    mode: Literal["train", "eval"] | None = None,
    accumulate: int = 1,
    lr: float = defaults.LEARNING_RATE,
    seed: int = defaults.SEED,
) -> Proof:
    """Whether two models train by the same real functions, for all inputs: docs/identity.md.

    like: (inputs, targets) that give shapes and integers, of a few rows; floats in them are not
    read. Targets None: outputs alone. All else as `check` takes it.
    Returns a Proof: "identical", "different" or "undecided" for each output. Raises as `check`.

        >>> proof = prove(theirs, ours, (X, None), weights="guess")
        >>> print(proof.verdict)
        identical
    """
    problem = asked(
        one,
        other,
        like,
        loss=loss,
        optimizer=optimizer,
        mode=mode,
        lr=lr,
        accumulate=accumulate,
        weights=weights,
        state=state,
    )
    if (arrays := problem.examples.arrays) is None:
        raise TypeError(f"like: {like!r}, expected (inputs, targets) of a few rows")
    ours, theirs = sides_of(problem, "float64")
    inputs, targets = arrays[:2]
    infer = problem.training.infer
    locate = partial(lines_at, ours, theirs, infer=infer)
    return proven(ours, theirs, inputs, targets, infer=infer, seed=seed, locate=locate)
