"""Both sides of one problem, and what the levels share: computed once, when first asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from parity.problem import Examples, Known, Problem
from parity.rounding.bound import UnsupportedPrimitive
from parity.sides.pairs import Evaluation, JaxSide, Run, TorchSide, sides_of
from parity.sides.reference import Expected, Reference
from parity.sides.side import SIDES, Batch, Narrowest, lacks
from parity.trees import Arrays, length


@dataclass
class Pair:
    """The contestants at each precision, with the same names and the same weights.

    params, state: the shared ones that both start from. certified: the Trajectory of the level
    that judges every step, once it was climbed. remarks: what a reader of the verdict must know.
    """

    jax: dict[str, JaxSide]
    torch: dict[str, TorchSide]
    examples: Examples
    epochs: int
    params: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    on_start: Callable[[str], None] = lambda what: None
    certify: bool = True
    known: tuple[Known, ...] = ()
    initial: Any = None
    infer: bool = False
    outputs_alone: bool = False  # no level that is asked needs more
    chosen: bool = False  # the levels to climb were named
    without_step: bool = False  # nor what comes behind the gradients
    certified: Any = None
    remarks: list[str] = field(default_factory=list)
    kept: dict[Any, Any] = field(default_factory=dict)
    unexercised_before: list[Any] = field(default_factory=list)  # of levels that were saved
    _runs: dict[Any, Run] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        problem: Problem,
        on_start: Callable[[str], None] = lambda what: None,
        precisions: Sequence[str] = ("float32", "float64"),
    ) -> "Pair":
        """Both sides of a problem. Raises as sides_of does."""
        both = {dtype: sides_of(problem, dtype) for dtype in precisions}
        ours, theirs = both[precisions[0]]
        for side in (side for sides in both.values() for side in sides):
            side.load(theirs.params(), theirs.state())  # lazy layers drew each its own
        return cls(
            {dtype: sides[0] for dtype, sides in both.items()},
            {dtype: sides[1] for dtype, sides in both.items()},
            problem.examples,
            problem.epochs,
            theirs.params(),
            theirs.state(),
            on_start,
            problem.certify,
            tuple(problem.known),
            _initial(problem, ours, theirs),
            problem.training.infer,
        )

    def forget(self) -> None:
        """Let go of what was computed and compiled for this pair."""
        self.kept.clear()
        self._runs.clear()
        for side in self.jax.values():
            side.forget()

    def sides(self, precision: str) -> dict[str, Any]:
        """{"jax": its side, "torch": its side}."""
        return {s: getattr(self, s)[precision] for s in SIDES}

    @cached_property
    def batches(self) -> dict[str, Batch]:
        """The first batch of the first epoch and its last, which is partial if any is."""
        first = last = None
        for last in self.jax["float32"].batches():
            first = first or last
        assert first is not None and last is not None
        return {f"batch of {length(inputs)}": (inputs, y) for inputs, y in (first, last)}

    @cached_property
    def val_examples(self) -> int:
        batches = self.jax["float32"].batches(train=False)
        return sum(length(inputs) for inputs, _ in batches)

    def evaluate(self, side: str, precision: str, batch: str) -> Evaluation:
        key = side, precision, batch
        if key not in self.kept:
            contestant = self.sides(precision)[side]
            inputs, targets = self.batches[batch]
            if self.infer or self.outputs_alone or lacks(contestant, "gradient"):
                self.kept[key] = Evaluation(contestant.forward(inputs), np.zeros(()), {}, {})
            else:
                self.kept[key] = contestant.evaluate(inputs, targets, not self.without_step)
        return self.kept[key]

    def prepare(self) -> None:
        """Begin to compile JAX's programs for both batches, in the order in which levels ask."""
        if self.infer or self.outputs_alone or self.on_accelerator:
            return
        for precision in ("float64", "float32"):
            for inputs, targets in self.batches.values():
                self.jax[precision].prepare(inputs, targets, not self.without_step)

    def unbounded(self, precision: str) -> str:
        """Why no rounding bound can be computed for this pair; empty if it can."""
        key = "unbounded", precision
        if key not in self.kept:
            self.kept[key] = ""
            try:
                self.expected(precision, next(iter(self.batches)))
            except UnsupportedPrimitive as error:
                self.kept[key] = str(error)
        return self.kept[key]

    def expected(self, precision: str, batch: str) -> Expected:
        """What an evaluation should give, and how far rounding may move it.

        Raises UnsupportedPrimitive.
        """
        key = "expected", precision, batch
        if key not in self.kept:
            reference, batches = self.reference(precision), self.batches[batch]
            self.kept[key] = (
                reference.forward(batches[0])
                if self.infer or self.outputs_alone
                else reference.evaluate(*batches, not self.without_step)
            )
        return self.kept[key]

    def reference(self, precision: str) -> Reference:
        """One object for each precision, so that what was compiled is found again."""
        key = "reference", precision
        if key not in self.kept or self.kept[key].side is not self.jax[precision]:
            self.kept[key] = Reference(self.jax[precision])
        return self.kept[key]

    def run(self, side: str, precision: str, update_scale: float = 1.0) -> Run:
        """All epochs; with another update_scale, one."""
        key = side, precision, update_scale
        if key not in self._runs:
            epochs = self.epochs if update_scale == 1.0 else 1
            self.on_start(f"{epochs} epochs, {side} {precision}")
            self._runs[key] = self.sides(precision)[side].train(epochs, update_scale)
        return self._runs[key]

    def strayed(self, batch: str, part: str, count: int, spread: float) -> dict[str, float]:
        """{leaf: how far the furthest of so many float64 evaluations is from the float64 value}, of
        JAX's model with weights moved by up to `spread` of themselves; kept."""
        key = "strayed", batch
        if key not in self.kept:
            self.on_start(f"{count} twins of one batch in float64")
            exact, far = self.evaluate("jax", "float64", batch), dict[Any, float]()
            for twin in self.jax["float64"].moved(*self.batches[batch], count, spread):
                alone = self.infer or self.outputs_alone
                for one in ("logits",) if alone else ("logits", "loss", "gradients"):
                    for name, leaf in twin.part(one).items():
                        apart = float(np.sqrt(np.mean(np.square(leaf - exact.part(one)[name]))))
                        far[one, name] = max(far.get((one, name), 0.0), apart)
            self.kept[key] = far
        return {name: far for (one, name), far in self.kept[key].items() if one == part}

    def has_strayed(self, batch: str) -> bool:
        """Whether that was asked."""
        return ("strayed", batch) in self.kept

    def twins(self, precision: str, count: int, spread: float) -> list[Run]:
        """So many float64 runs of JAX's model, from weights moved by up to `spread` of themselves;
        kept for this precision."""
        key = "twins", precision
        if key not in self.kept:
            self.on_start(f"{self.epochs} epochs of {count} twins in float64")
            self.kept[key] = self.jax["float64"].twins(self.epochs, count, spread)
        return self.kept[key]

    def has_twins(self, precision: str) -> bool:
        """Whether they were asked for."""
        return ("twins", precision) in self.kept

    @cached_property
    def narrow(self) -> str:
        """Why float64 can't be asked of a model: it computes in a narrower type all the same."""
        if self.without_float64:
            return self.without_float64
        # That is how a model is written, unless one side narrows what the other keeps in float32,
        # or one alone has no product in float64: then x64, say, isn't on.
        found = [*self.narrow_in_float64.values()]
        off = len(found) == 1 and found[0].kind == "float32" and found[0].whole
        if not found or off or len({self.narrower.get(s) for s in SIDES}) > 1:
            return ""
        return "; ".join(
            f"{s} computes {'constants ' * n.constant}in {n.kind} ({n.where}) whatever it is given"
            for s, n in self.narrow_in_float64.items()
        )

    @cached_property
    def narrow_in_float64(self) -> dict[str, Narrowest]:
        """{side: what it computes in a narrower type all the same}, of the float64 run."""
        inputs, _ = next(iter(self.batches.values()))
        found = {s: side.narrowest(inputs) for s, side in self.sides("float64").items()}
        return {s: n for s, n in found.items() if n.kind != "float64"}

    @cached_property
    def without_float64(self) -> str:
        """Why a model can't compute in float64 at all: it mixes its own types with those given."""
        inputs, _ = next(iter(self.batches.values()))
        for s, side in self.sides("float64").items():
            try:
                side.narrowest(inputs)  # traces JAX's model, and compiles nothing
            except Exception as error:  # the user's own code
                said = f"{type(error).__name__}: {error}".splitlines()[0]
                return f"{s} can't compute in float64: {said:.120}"
        return ""

    @cached_property
    def narrower(self) -> dict[str, str]:
        """{side: the type that it computes in}, where that is narrower than float32."""
        inputs, _ = next(iter(self.batches.values()))
        kinds = {s: side.narrowest(inputs).kind for s, side in self.sides("float32").items()}
        return {s: kind for s, kind in kinds.items() if kind not in ("float32", "float64")}

    @cached_property
    def frozen(self) -> set[str]:
        """Parameters that Torch's model doesn't train."""
        return self.torch["float32"].frozen

    @cached_property
    def idle(self) -> set[str]:
        """Slots of JAX's optimiser that no step reads."""
        ours = self.jax["float32"]
        return ours.idle(self.evaluate("jax", "float32", next(iter(self.batches))).gradients)

    @property
    def on_accelerator(self) -> bool:
        """Whether either side computes elsewhere than on the CPU."""
        where = [getattr(side, "device", None) for side in self.sides("float32").values()]
        kinds = {getattr(d, "platform", getattr(d, "type", "cpu")) for d in where}
        return kinds != {"cpu"}

    @property
    def unexercised(self) -> list[str]:
        """Decisions that went one way for all the data that was judged."""
        seen = self.all_unexercised()
        return (
            [what for what in dict.fromkeys(seen[0]) if all(what in s for s in seen)]
            if (seen)
            else []
        )

    def all_unexercised(self) -> list[Sequence[str]]:
        """Of each bound that was computed, the decisions that went one way."""
        own = [e.unexercised for e in self.kept.values() if isinstance(e, Expected)]
        return [*self.unexercised_before, *own]

    def take_up(self, key: tuple[str, str, float], run: Run) -> None:
        """A run that a level made before the check was killed: it isn't made again."""
        self._runs[key] = run

    def runs(self) -> Iterator[tuple[tuple[str, str, float], Run]]:
        """(side, precision, update scale) and run, of all runs made so far."""
        yield from self._runs.items()


def _initial(
    problem: Problem, jax: JaxSide, torch: TorchSide
) -> dict[str, Callable[[int], Arrays]] | None:
    """{side: seed -> the parameters of a new model, under the shared names}."""
    if problem.initial is None:
        return None
    theirs, ours = problem.initial
    return {"jax": lambda seed: jax.of_another(ours(seed)),
            "torch": lambda seed: torch.of_another(theirs(seed))}  # fmt: skip
