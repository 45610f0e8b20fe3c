"""What a level is, what it finds, and what the levels of one pair share."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from parity.compare import Comparison
from parity.rounding.bound import UnsupportedPrimitive
from parity.sides.pairs import Evaluation, Examples, JaxSide, Reference, Run, TorchSide
from parity.sides.side import SIDES

ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclass
class Rungs:
    """What the levels of one pair share; everything is computed once, when first asked for."""

    jax: dict[str, JaxSide]
    torch: dict[str, TorchSide]
    names: dict[str, tuple[str, str]]
    examples: Examples
    epochs: int
    params: dict[str, np.ndarray] = field(default_factory=dict)
    on_start: Callable[[str], None] = lambda what: None
    certify: bool = True
    certified: Any = None  # the Trajectory of the level "every step", once it was climbed
    _evaluations: dict[Any, Any] = field(default_factory=dict)
    _runs: dict[Any, Run] = field(default_factory=dict)

    @cached_property
    def batches(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The first batch of the first epoch and its last, which is partial if any is."""
        first = last = None
        for last in self.jax["float32"].batches():
            first = first or last
        assert first is not None and last is not None
        return {f"batch of {len(y)}": (X, y) for X, y in (first, last)}

    @cached_property
    def val_examples(self) -> int:
        return sum(len(y) for _, y in self.jax["float32"].batches(train=False))

    def evaluate(self, side: str, precision: str, batch: str) -> Evaluation:
        key = side, precision, batch
        if key not in self._evaluations:
            one = getattr(self, side)[precision].evaluate(*self.batches[batch])
            self._evaluations[key] = self._canonical(one, side)
        return self._evaluations[key]

    def unbounded(self, precision: str) -> str:
        """Why no rounding bound can be computed for this pair; empty if it can."""
        key = "unbounded", precision
        if key not in self._evaluations:
            self._evaluations[key] = ""
            try:
                self.reference(precision, next(iter(self.batches)))
            except UnsupportedPrimitive as error:
                self._evaluations[key] = str(error)
        return self._evaluations[key]

    def reference(self, precision: str, batch: str) -> Reference:
        """What an evaluation should give, and how far rounding may move it.

        Raises UnsupportedPrimitive.
        """
        key = "reference", precision, batch
        if key not in self._evaluations:
            found = self.jax[precision].bounds(*self.batches[batch], roundoff=ROUNDOFF[precision])
            parts = (found.value, found.bound, found.likely)
            value, bound, likely = (self._canonical(one, "jax") for one in parts)
            self._evaluations[key] = Reference(value, bound, likely, found.kinks)
        return self._evaluations[key]

    def run(self, side: str, precision: str, update_scale: float = 1.0) -> Run:
        """All epochs; with another update_scale, one."""
        key = side, precision, update_scale
        if key not in self._runs:
            epochs = self.epochs if update_scale == 1.0 else 1
            self.on_start(f"{epochs} epochs, {side} {precision}")
            run = getattr(self, side)[precision].train(epochs, update_scale)
            self._runs[key] = Run(run.history, self.rename(run.params, side))
        return self._runs[key]

    def twins(self, precision: str, count: int, spread: float) -> list[Run]:
        """So many float64 runs of JAX's model, from weights moved by up to `spread` of themselves;
        kept for this precision."""
        key = "twins", precision
        if key not in self._evaluations:
            self.on_start(f"{self.epochs} epochs of {count} twins in float64")
            made = self.jax["float64"].twins(self.epochs, count, spread)
            self._evaluations[key] = [Run(t.history, self.rename(t.params, "jax")) for t in made]
        return self._evaluations[key]

    def has_twins(self, precision: str) -> bool:
        """Whether they were asked for."""
        return ("twins", precision) in self._evaluations

    def runs(self) -> Iterator[tuple[tuple[str, str, float], Run]]:
        """(side, precision, update scale) and run, of all runs made so far."""
        yield from self._runs.items()

    def rename(self, arrays: dict[str, np.ndarray], side: str) -> dict[str, np.ndarray]:
        """From the names of one side's model to the ladder's."""
        return {name: arrays[own[SIDES.index(side)]] for name, own in self.names.items()}

    def _canonical(self, one: Evaluation, side: str) -> Evaluation:
        trees = self.rename(one.gradients, side), self.rename(one.step, side)
        return Evaluation(one.logits, one.loss, *trees)


Judge = Callable[[Rungs, str], list[Comparison]]


@dataclass(frozen=True)
class Level:
    """One rung. asks: the question; rule: what decides it; precisions: in which it is asked.

    note: what a reader should know beside the verdict.
    """

    name: str
    asks: str
    rule: str
    judge: Judge
    precisions: tuple[str, ...] = ("float64", "float32")
    note: Callable[[Rungs, str], str] = lambda rungs, precision: ""


class Skipped(Exception):
    """Raised by a judge that has nothing to ask of this pair; the message says why."""


@dataclass(frozen=True)
class Result:
    """What a level found at one precision. No comparison at all is vacuous, and not ok.

    skipped: why the level was not asked of this pair. Then it is ok, for nothing failed, but it is
    no agreement either.
    """

    level: Level
    precision: str
    comparisons: tuple[Comparison, ...]
    seconds: float
    skipped: str = ""
    note: str = ""

    @property
    def vacuous(self) -> bool:
        return not self.comparisons and not self.skipped

    @property
    def ok(self) -> bool:
        return not self.vacuous and all(c.ok for c in self.comparisons)

    @property
    def relative(self) -> float:
        """Largest difference over largest value, of all comparisons."""
        return float(np.max([c.relative for c in self.comparisons]))  # a NaN stays

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest margin."""
        return max(self.comparisons, key=lambda c: (not c.ok, c.margin))
