"""What an optimiser remembers, under one name on both sides: "mu.W1", "trace.W1", "count".

The names are optax's. A slot that belongs to no parameter (a count) has its name alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# Torch's name of a slot: optax's.
SLOTS = {
    "exp_avg": "mu",
    "exp_avg_sq": "nu",
    "max_exp_avg_sq": "nu_max",
    "momentum_buffer": "trace",
    "square_avg": "nu",
    "sum": "sum_of_squares",
    "acc_delta": "e_x",
    "step": "count",
}
KNOWN = frozenset(SLOTS.values()) | {"acc_grads"}
PREFIX = "optimizer."  # of a leaf of a step
# Of a gradient that is still being accumulated: Torch keeps its sum, where the gradient is.
UNPAIRED = ("acc_grads",)


def slot_names(
    paths: Sequence[tuple[str, ...]], params: Collection[tuple[str, ...]]
) -> list[tuple[str, tuple[str, ...]]]:
    """(slot, path of the parameter, () for none) of each leaf of an optimiser's state.

    paths: of the leaves. params: paths of all parameters; the longest that ends a path is meant.
    """
    found: list[tuple[str, tuple[str, ...]]] = []
    for path in paths:
        starts = (i for i in range(len(path)) if path[i:] in params)
        start = next(starts, len(path))
        words = [word for word in path[:start] if not word.isdigit()]
        slot = words[-1] if words else "state"
        before = sum(1 for other in found if other == (slot, path[start:]))
        found.append((f"{slot}{before + 1}" if before else slot, path[start:]))
    return found


def marked(memory: Mapping[str, T]) -> dict[str, T]:
    """An optimiser's leaves as those of a step, beside the parameters: "optimizer.mu.W1"."""
    return {PREFIX + name: leaf for name, leaf in memory.items()}


def is_memory(name: str) -> bool:
    """Whether a leaf of a step is an optimiser's."""
    return name.startswith(PREFIX)


def is_paired(name: str) -> bool:
    """Whether a leaf of a step, a parameter or "optimizer.mu.W1", is one that both sides keep."""
    if not is_memory(name):
        return True
    slot, param = slot_of(name)
    return bool(param) and slot not in UNPAIRED


def paired(
    step: Mapping[str, T],
    sides: Sequence[Mapping[str, Any]],
    idle: Callable[[], Collection[str]] = lambda: (),
) -> dict[str, T]:
    """The leaves of a step that both sides can have; sides: the leaves of each.

    A slot that a side keeps for other parameters is masked for those that lack it: optax.masked,
    or a parameter that Torch never gave a gradient. An optimiser of the user's own keeps what it
    keeps under names of its own: where a side has such, only what both have is compared. idle:
    asked for slots that no step reads, as that of a momentum of 0. Otherwise what one lacks is a
    difference.
    """
    every = {n for side in sides for n in side if is_memory(n) and is_paired(n)}
    slots = [{slot_of(name)[0] for name in every if name in side} for side in sides]
    strange = any(slot.rstrip("0123456789") not in KNOWN for slot in set().union(*slots))
    excused = {
        name
        for name in every
        for side, own in zip(sides, slots, strict=True)
        if name not in side and (strange or slot_of(name)[0] in own or slot_of(name)[0] in idle())
    }
    return {n: leaf for n, leaf in step.items() if is_paired(n) and n not in excused}


def slot_of(name: str) -> tuple[str, str]:
    """(slot, parameter) of "optimizer.mu.W1"."""
    slot, _, param = name.removeprefix(PREFIX).partition(".")
    return slot, param
