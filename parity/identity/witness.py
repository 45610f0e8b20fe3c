"""Numbers on which two programs differ, as a training step takes them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.identity.contest import Contest, filled
from parity.identity.number import Field
from parity.identity.reals import MIDDLE
from parity.identity.torch_step import Fields
from parity.trees import Leaves, Tree

Lines = tuple[str, str]  # JAX's and Torch's


@dataclass(frozen=True)
class Start:
    """Where a step starts, under the shared names. memory: the optimiser's state."""

    params: Leaves
    state: Leaves
    memory: Leaves
    inputs: Tree
    targets: Tree


@dataclass(frozen=True)
class Witness:
    """steps: the first; and the second, if it's this one that differs."""

    steps: tuple[Start, ...]


Locate = Callable[[Witness], Lines | None]  # the lines at which both sides part there


def witness(contest: Contest, second: bool) -> Witness:
    """What the contest was last evaluated on, among real numbers."""
    made = []
    for given in contest.starts[: 2 if second else 1]:
        inputs = filled(contest.inputs, _numbers(given.inputs))
        targets = filled(contest.targets, _numbers(given.targets))
        params, state, memory = map(_numbers, (given.params, given.state, given.memory))
        made.append(Start(params, state, memory, inputs, targets))
    return Witness(tuple(made))


def _numbers(fields: Fields) -> dict[str, Any]:
    return {
        name: np.array(x.parts[MIDDLE]) if isinstance(x, Field) else x for name, x in fields.items()
    }
