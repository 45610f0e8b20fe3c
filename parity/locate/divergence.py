"""First divergence: one step taken apart, from its inputs to its new weights."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from parity.comparison import Comparison, compare, compare_trees
from parity.rounding.bound import Bounds
from parity.sides.memory import is_memory
from parity.sides.pairs import TorchSide
from parity.sides.reference import Reference, room
from parity.sides.side import SIDES, Batch, Evaluation
from parity.trees import Arrays, Leaves, leaves

PARTS = ("logits", "loss", "gradients", "step")


@dataclass(frozen=True)
class Divergence:
    """Where two trainings part: the element that left its bound by the largest factor.

    step counts from 0. level: inputs, weights, logits, loss, gradients or step, the first of the
    step that left its bound. side: whose value did. reference: the float64 value from the shared
    weights (NaN for inputs and weights, which are compared with each other). margins: of each
    level. origins: of each level that left its bound, "made there" if it's wrong even for what it
    was given on its own side, "inherited" if it's right for that, "unknown" where the step isn't
    the composition of its levels. The first one can't have inherited its error: what it was given
    was inside, and its bound allows for that.
    """

    step: int
    precision: str
    level: str
    side: str
    leaf: str
    index: tuple[int, ...]
    jax: float
    torch: float
    reference: float
    bound: float
    margins: dict[str, float]
    origins: dict[str, str]
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"step {self.step:,} {self.precision}, {self.level}: {self.problem}"
        place = f"{self.leaf}[{', '.join(map(str, self.index))}]" if self.index else self.leaf
        both = (
            f"step {self.step:,} {self.precision}, {self.level} {place}: jax {self.jax!r}, torch "
            f"{self.torch!r}"
        )
        if math.isnan(self.reference):  # nothing tells which of the two is right
            return f"{both}, bound {self.bound:.3g}"
        later = [f"{level} {how}" for level, how in self.origins.items() if level != self.level]
        return (
            f"{both}, float64 value {self.reference!r}, bound {self.bound:.3g}; "
            f"{self.side} is outside, by an error {self.origin}"
            + (f"; then {', '.join(later)}" if later else "")
        )

    @classmethod
    def said(cls, level: str, precision: str, c: Comparison) -> "Divergence":
        """What one comparison of the first step found, where no part of the step shows more."""
        values = dict(zip(c.sides, (c.left, c.right), strict=True))
        problem = str(c) if c.problem or c.sides != SIDES else ""  # else it isn't jax against torch
        jax, torch = (values.get(s, float("nan")) for s in SIDES)
        return cls(0, precision, level, c.sides[0], c.name, c.index, jax, torch, float("nan"),
                   c.bound, {level: c.margin}, {}, problem)  # fmt: skip

    @property
    def origin(self) -> str:
        return self.origins.get(self.level, "made there")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def locate(
    reference: Reference,
    torch: TorchSide,
    params: Mapping[str, Any],
    state: Mapping[str, Any],
    memory: Mapping[str, Any],
    batches: tuple[Batch | None, Batch | None],
    step: int,
    given: Mapping[str, Leaves] | None = None,
) -> Divergence | None:
    """The first level of one step that leaves its bound, and where; None if all stay inside.

    params, state, memory: what both sides start from. batches: what JAX's and Torch's pipelines
    give for this step, None where one has ended. given: {side: {leaf: after the step}} of a
    training; None: a first step is taken. What both sides hold stays.
    """
    jax = reference.side
    precision = jax.dtype

    def found(
        level: str, c: Comparison, margins: dict[str, float], values: Any = None, **origins: str
    ) -> Divergence:
        side = c.sides[0] if values else "torch"
        a, b, expected = values or (c.left, c.right, float("nan"))
        return Divergence(step, precision, level, side, c.name, c.index, a, b, expected, c.bound,
                          margins, origins, c.problem)  # fmt: skip

    mine, theirs = batches
    if mine is None or theirs is None:
        lacking = SIDES[mine is not None]
        problem = f"{lacking}'s data has ended, the other's hasn't"
        nothing = compare(np.zeros(0), np.zeros(0), sides=SIDES)
        return found("inputs", replace(nothing, problem=problem), {"inputs": np.inf})
    same = compare_trees(_named(mine), _named(theirs), sides=SIDES)
    margins = {"inputs": max(c.margin for c in same)}
    if wrong := [c for c in same if not c.ok]:
        return found("inputs", wrong[0], margins)

    sides: dict[str, Any] = {"jax": jax, "torch": torch}
    kept = [(side.params(), side.state()) for side in sides.values()]
    weights, statistics, kept_memory = (
        {n: np.asarray(a) for n, a in tree.items()} for tree in (params, state, memory)
    )
    try:
        values = {}
        for s, side in sides.items():
            known = {name: leaf for name, leaf in statistics.items() if name in side.state()}
            side.load(weights, known)
            values[s] = side.evaluate(*mine)
        weights, statistics = jax.held()
        held = compare_trees(jax.params(), torch.params(), sides=SIDES)
        held_slots = jax.memory()
        margins["weights"] = max(c.margin for c in held)
        if wrong := [c for c in held if not c.ok]:
            return found("weights", wrong[0], margins)
        expected = reference.evaluate(*mine)
        right = {part: _parts(expected.value, part, torch, held_slots) for part in PARTS}
        bounds = {part: _parts(expected.bound, part, torch, held_slots) for part in PARTS}
        own = {
            s: {part: _parts(v, part, torch, held_slots) for part in PARTS}
            for s, v in values.items()
        }
        if given is not None:
            b = reference.after(weights, statistics, kept_memory, ((mine),) * jax.accumulated)
            shared = [n for n in b.value if all(n in after for after in given.values())]
            right["step"], bounds["step"] = ({n: t[n] for n in shared} for t in (b.value, b.bound))
            for s, after in given.items():
                own[s]["step"] = {n: np.asarray(after[n]) for n in shared}
        worst: dict[str, Comparison] = {}
        for part in PARTS:
            within = {name: room(leaf) for name, leaf in bounds[part].items()}
            compared = [
                c
                for s in SIDES
                for c in compare_trees(own[s][part], right[part], within, sides=(s, "float64"))
            ]
            margins[part] = max((c.margin for c in compared), default=0.0)
            if not all(c.ok for c in compared):
                worst[part] = max(compared, key=lambda c: (not c.ok, c.margin))
        if not worst:
            return None
        start = weights, statistics, kept_memory, mine
        origins = {
            part: _origin(reference, part, values[c.sides[0]], expected.value, start)
            for part, c in worst.items()
        }
        level, c = next(iter(worst.items()))
        trio = (own["jax"][level], own["torch"][level], right[level])
        numbers = [_at(tree, c) for tree in trio]
        return found(level, c, margins, numbers, **origins)
    finally:
        for side, (held_params, held_state) in zip(sides.values(), kept, strict=True):
            side.load(held_params, held_state)


def _origin(
    reference: Reference, part: str, own: Evaluation, expected: Evaluation, start: Any
) -> str:
    """Is the part right for what its own side gave it? Asked of the reference too, to be sure."""
    if part == "logits":  # its inputs, the weights and the images, are the same bits on both sides
        return "made there"
    params, state, memory, (inputs, targets) = start
    side = reference.side

    def inside(one: Evaluation) -> bool:
        outputs, gradients = side.typed(one.outputs), side.typed(one.gradients)
        functions: dict[str, Callable[[], Bounds]] = {
            "loss": lambda: reference.loss(outputs, targets),
            "gradients": lambda: reference.gradients(params, state, inputs, targets, outputs),
            "step": lambda: reference.update(params, gradients, memory),
        }
        b = functions[part]()
        value, bound = b.value, b.bound
        if part == "step":
            value, bound = value[0], bound[0]
        elif part == "loss":
            value, bound = {"loss": value}, {"loss": bound}
        mine = one.step if part == "step" else one.part(part)
        within = {name: room(leaf) for name, leaf in bound.items()}
        return all(c.ok for c in compare_trees(mine, value, within))

    # The reference, rounded to the side's type on its way in, stays within the same bounds if the
    # composition of the parts is the step.
    try:
        if not inside(expected):
            return "unknown"
        return "inherited" if inside(own) else "made there"
    except (TypeError, ValueError, KeyError):  # a loss that isn't a function of the outputs alone
        return "unknown"


def _parts(one: Evaluation, part: str, torch: TorchSide, held: Collection[str]) -> Arrays:
    """The leaves of a part that both sides have."""
    found = one.part(part)
    if part == "gradients":
        return {name: leaf for name, leaf in found.items() if name not in torch.frozen}
    if part == "step":  # what is kept by both: what one lacks, the levels have said
        return {name: leaf for name, leaf in found.items() if not is_memory(name)}
    return found


def _named(batch: Batch) -> dict[str, Any]:
    inputs, targets = batch
    return leaves(inputs, "images") | leaves({"labels": targets})


def _at(tree: Arrays, c: Comparison) -> float:
    """The compared element; NaN where a side has none."""
    leaf = tree.get(c.name)
    if leaf is None or np.ndim(leaf) != len(c.index):
        return float("nan")
    return float(np.asarray(leaf)[c.index])
