"""prove: the level "identity" alone, as a library call: nothing is compiled, nothing trained."""

from collections.abc import Mapping
from typing import Any, Literal

from parity import defaults
from parity.identity.prove import Proof
from parity.identity.prove import prove as proven
from parity.problem import Examples, Loss, Problem, Training, Weights
from parity.sides.pairs import sides_of
from parity.sides.usable import as_arrays, told_apart


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
    """
    jax_model, torch_model = told_apart(one, other)
    inputs, targets = as_arrays(like)[:2]
    infer = targets is None
    training = Training(loss, optimizer, lr, accumulate, mode, infer)
    examples = Examples((inputs, targets), batch_size=defaults.BATCH_SIZE)
    problem = Problem(torch_model, jax_model, examples, training, weights, state)
    ours, theirs = sides_of(problem, "float64")
    return proven(ours, theirs, inputs, targets, infer=infer, seed=seed)
