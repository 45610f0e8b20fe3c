"""Across devices: JAX on the accelerator against JAX on the CPU, and against Torch where it lies.

Each is within its rounding bound of the float64 value, so any two are within twice that. Without a
bound: by effective bits, as JAX on the device may be no further from the float64 value than on the
CPU, but for 6.5 bits.
"""

from collections.abc import Mapping

from parity.comparison import Comparison, compare, compare_trees
from parity.levels.effective_bits import FLOAT32, RATIO, distance
from parity.levels.evaluated import compared
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.levels.products import on_accelerator
from parity.sides.reference import room
from parity.sides.side import Evaluation, lacks
from parity.trees import Arrays

PARTS = ("logits", "loss", "gradients")


def judge_devices(pair: Pair, precision: str) -> list[Comparison]:
    """Outputs, loss and gradients of a batch on the CPU, against both sides."""
    ours = pair.jax["float32"]
    if not hasattr(ours, "on_the_cpu"):
        raise Skipped("jax: this side computes nowhere else")
    if ours.device.platform == "cpu" and not pair.chosen:
        raise Skipped("JAX computes on the CPU, so there is no other device to compare")
    batch, (inputs, targets) = next(iter(pair.batches.items()))
    alone = pair.infer or pair.outputs_alone or lacks(ours, "gradient")
    there = ours.on_the_cpu()
    if alone:
        here = Evaluation(there.forward(inputs), 0, {}, {})  # type: ignore[arg-type]
    else:
        here = there.evaluate(inputs, targets)
    found = []
    for part in PARTS[:1] if alone else PARTS:
        on_cpu = compared(pair, here, part)
        for s in ("jax", "torch"):
            own = compared(pair, pair.evaluate(s, "float32", batch), part)
            name = f"{batch}, {s} on its device, jax on the CPU: {part}"
            found += _judged(pair, batch, part, own, on_cpu, name)
    return found


def _judged(
    pair: Pair, batch: str, part: str, own: Arrays, on_cpu: Arrays, name: str
) -> list[Comparison]:
    sides = ("there", "on the CPU")
    if not pair.unbounded("float32"):
        bound = compared(pair, pair.expected("float32", batch).bound, part)
        limits = {key: 2 * room(leaf) for key, leaf in bound.items()}
        return compare_trees(own, on_cpu, limits, sides=sides, name=name)
    exact = compared(pair, pair.evaluate("jax", "float64", batch), part)
    return [_by_bits(exact[leaf], own, on_cpu, leaf, name) for leaf in exact]


def _by_bits(exact: object, own: Mapping, on_cpu: Mapping, leaf: str, name: str) -> Comparison:
    least = FLOAT32 * distance(exact, 0)  # type: ignore[arg-type]
    far, near = (distance(tree[leaf], exact) for tree in (own, on_cpu))  # type: ignore[arg-type]
    label = f"{name}.{leaf}: distance from the float64 value"
    return compare(far, 0.0, RATIO * max(near, least), name=label, sides=("there", "expected"))


LEVEL = Level(
    "devices",
    "JAX on the device: what JAX gives on the CPU, and what Torch gives?",
    "twice the rounding bound",
    judge_devices,
    ("float32",),
    needs="gradient",
    applies=on_accelerator,
)
