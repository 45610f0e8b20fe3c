"""First divergence: one step taken apart, from its inputs to its new weights."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parity.compare import Comparison, compare, compare_trees
from parity.levels.rungs import ROUNDOFF
from parity.rounding.bound import bound
from parity.sides.pairs import Evaluation, JaxSide, Side, TorchSide
from parity.sides.side import SIDES
from parity.sides.stages import stages_of

Batch = tuple[np.ndarray, np.ndarray]
Trees = dict[str, np.ndarray]

# The reference is itself rounded in float64, by 2^-29 of a float32 bound and less.
ROOM = 1 + 2.0**-28


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
        later = [f"{level} {how}" for level, how in self.origins.items() if level != self.level]
        return (
            f"step {self.step:,} {self.precision}, {self.level} {place}: jax {self.jax!r}, torch "
            f"{self.torch!r}, float64 value {self.reference!r}, bound {self.bound:.3g}; "
            f"{self.side} is outside, by an error {self.origin}"
            + (f"; then {', '.join(later)}" if later else "")
        )

    @property
    def origin(self) -> str:
        return self.origins.get(self.level, "made there")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def locate(
    jax: JaxSide,
    torch: TorchSide,
    names: Mapping[str, tuple[str, str]],
    params: Trees,
    batches: tuple[Batch | None, Batch | None],
    step: int,
) -> Divergence | None:
    """The first level of one step that leaves its bound, and where; None if all stay inside.

    names: {reported name: (name in JAX, name in Torch)}. params: the weights that both sides start
    from, by reported name. batches: what JAX's and Torch's pipelines give for this step, None where
    one has ended. Both sides' loaded parameters stay.
    """
    precision = jax.dtype

    def found(
        level: str, c: Comparison, margins: dict[str, float], values: Any = None, **origins: str
    ) -> Divergence:
        side = c.sides[0] if values else "torch"
        a, b, reference = values or (c.left, c.right, float("nan"))
        return Divergence(step, precision, level, side, c.name, c.index, a, b, reference, c.bound,
                          margins, origins, c.problem)  # fmt: skip

    mine, theirs = batches
    if mine is None or theirs is None:
        lacking = SIDES[mine is not None]
        problem = f"{lacking}'s data has ended, the other's hasn't"
        nothing = compare(np.zeros(0), np.zeros(0), sides=SIDES)
        return found("inputs", _with(nothing, problem), {"inputs": np.inf})
    given = [
        compare(a, b, name=name, sides=SIDES)
        for a, b, name in zip(mine, theirs, ("images", "labels"), strict=True)
    ]
    margins = {"inputs": max(c.margin for c in given)}
    if wrong := [c for c in given if not c.ok]:
        return found("inputs", wrong[0], margins)

    both: tuple[Side, ...] = (jax, torch)
    kept = [side.params() for side in both]
    try:
        held, values = {}, {}
        for place, (s, side) in enumerate(zip(SIDES, both, strict=True)):
            side.load({own[place]: params[name] for name, own in names.items()})
            held[s] = {name: side.params()[own[place]] for name, own in names.items()}
            one = side.evaluate(*mine)
            trees = [{n: t[o[place]] for n, o in names.items()} for t in (one.gradients, one.step)]
            values[s] = Evaluation(one.logits, one.loss, *trees)
        weights = compare_trees(held["jax"], held["torch"], sides=SIDES)
        margins["weights"] = max(c.margin for c in weights)
        if wrong := [c for c in weights if not c.ok]:
            return found("weights", wrong[0], margins)
        expected = jax.bounds(*mine, ROUNDOFF[precision])
        reference, bounds = (
            Evaluation(one.logits, one.loss, *({n: t[o[0]] for n, o in names.items()}
                       for t in (one.gradients, one.step)))
            for one in (expected.value, expected.bound)
        )  # fmt: skip
        worst: dict[str, Comparison] = {}
        for level in ("logits", "loss", "gradients", "step"):
            right, room = reference.part(level), bounds.part(level)
            room = {name: ROOM * leaf for name, leaf in room.items()}
            compared = [
                c
                for s in SIDES
                for c in compare_trees(values[s].part(level), right, room, sides=(s, "float64"))
            ]
            margins[level] = max(c.margin for c in compared)
            if not all(c.ok for c in compared):
                worst[level] = max(compared, key=lambda c: (not c.ok, c.margin))
        if not worst:
            return None
        origins = {
            level: _origin(jax, names, level, values[c.sides[0]], reference, params, mine)
            for level, c in worst.items()
        }
        level, c = next(iter(worst.items()))
        trio = (values["jax"].part(level), values["torch"].part(level), reference.part(level))
        numbers = [float(np.asarray(tree[c.name])[c.index]) for tree in trio]
        return found(level, c, margins, numbers, **origins)
    finally:
        for side, before in zip(both, kept, strict=True):
            side.load(before)


def _origin(
    jax: JaxSide,
    names: Mapping[str, tuple[str, str]],
    level: str,
    own: Evaluation,
    reference: Evaluation,
    params: Trees,
    batch: Batch,
) -> str:
    """Is the level right for what its own side gave it? Asked of the reference too, to be sure."""
    if level == "logits":  # its inputs, the weights and the images, are the same bits on both sides
        return "made there"
    stages, (X, y) = stages_of(jax), batch
    dtype = np.dtype(jax.dtype)
    weights = {own_names[0]: params[name].astype(dtype) for name, own_names in names.items()}
    X = X.astype(dtype)

    def inside(one: Evaluation) -> bool:
        logits = one.logits.astype(dtype)
        gradients = {own_names[0]: one.gradients[n].astype(dtype) for n, own_names in names.items()}
        functions: dict[str, tuple[Callable, tuple]] = {
            "loss": (stages.loss, (logits, y)),
            "gradients": (stages.gradients, (weights, X, y, logits)),
            "step": (stages.update, (weights, gradients)),
        }
        function, args = functions[level]
        with jax._settings():
            b = bound(function, *args, roundoff=ROUNDOFF[jax.dtype])
        value, room = (
            {n: tree[o[0]] for n, o in names.items()} if isinstance(tree, dict) else {level: tree}
            for tree in (b.value, b.bound)
        )
        room = {name: ROOM * leaf for name, leaf in room.items()}
        return all(c.ok for c in compare_trees(one.part(level), value, room))

    # The reference, rounded to the side's type on its way in, stays within the same bounds if the
    # composition of the levels is the step.
    if not inside(reference):
        return "unknown"
    return "inherited" if inside(own) else "made there"


def _with(c: Comparison, problem: str) -> Comparison:
    return Comparison(**(asdict(c) | {"problem": problem}))
