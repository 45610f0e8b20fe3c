"""What an optimiser remembers, under one name on both sides: "mu.W1", "trace.W1", "count".

The names are optax's. A slot that belongs to no parameter (a count) has its name alone.
"""

from collections.abc import Collection, Sequence

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


def is_paired(name: str, held: Collection[str] = ()) -> bool:
    """Whether a leaf of a step, a parameter or "optimizer.mu.W1", is one that both sides keep.

    held: what JAX's optimiser remembers; of parameters that it masks it remembers nothing, where
    Torch's side shows zeros.
    """
    if not name.startswith("optimizer."):
        return True
    slot, _, param = name.removeprefix("optimizer.").partition(".")
    masked = any(other.startswith(f"{slot}.") for other in held) and f"{slot}.{param}" not in held
    return bool(param) and slot not in UNPAIRED and not masked
