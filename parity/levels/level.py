"""What a level is, and what it finds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.comparison import Comparison

if TYPE_CHECKING:
    from parity.levels.pair import Pair

Judge = Callable[["Pair", str], list[Comparison]]


@dataclass(frozen=True)
class Level:
    """One rung. asks: the question; rule: what decides it; precisions: in which it is asked.

    judge: (pair, precision) -> comparisons; raises Skipped where the level doesn't apply. note:
    what a reader should know beside the verdict. part: of the step from the shared weights that is
    judged, if it is one; what fails there can be located. needs: what both sides must be able to
    do: "forward", "gradient" or "train". applies: whether it is climbed unless it is asked for.

        >>> from parity import LEVELS
        >>> step = next(level for level in LEVELS if level.name == "step")
        >>> step.precisions, step.needs
        (('float64', 'float32'), 'gradient')
    """

    name: str
    asks: str
    rule: str
    judge: Judge
    precisions: tuple[str, ...] = ("float64", "float32")
    note: Callable[["Pair", str], str] = lambda pair, precision: ""
    part: str = ""
    needs: str = "forward"
    applies: Callable[["Pair"], bool] = lambda pair: True

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process goes what a report says of a level: functions of a user's can't."""
        said = self.name, self.asks, self.rule
        return Level, (*said, _elsewhere, self.precisions, _no_note, self.part, self.needs)


def _elsewhere(pair: "Pair", precision: str) -> list[Comparison]:
    raise TypeError("a level that came from another process can't judge; name it instead")


def _no_note(pair: "Pair", precision: str) -> str:
    return ""


class Skipped(Exception):
    """Raised by a judge that has nothing to ask of this pair; the message says why."""


@dataclass(frozen=True)
class Result:
    """What a level found at one precision. No comparison at all is vacuous, and not ok.

    skipped: why the level was not asked of this pair. Then it is ok, for nothing failed, but it is
    no agreement either. known: differences that the user accepts, by name of the comparison, with
    the reason.
    """

    level: Level
    precision: str
    comparisons: tuple[Comparison, ...]
    seconds: float
    skipped: str = ""
    note: str = ""
    known: tuple[tuple[str, str], ...] = ()

    @property
    def vacuous(self) -> bool:
        """Whether nothing was judged."""
        return not self.skipped and all(c.unjudged >= c.elements for c in self.comparisons)

    @property
    def failed(self) -> list[Comparison]:
        """The comparisons that differ, but for known differences."""
        accepted = {name for name, _ in self.known}
        return [c for c in self.comparisons if not c.ok and c.name not in accepted]

    @property
    def ok(self) -> bool:
        return bool(self.skipped) or not (self.vacuous or self.failed)

    @property
    def unjudged(self) -> int:
        """Elements that no bound could be found for."""
        return sum(c.unjudged for c in self.comparisons)

    @property
    def verdict(self) -> str:
        """ok, known, FAILED, VACUOUS or skipped."""
        if self.skipped:
            return "skipped"
        if self.failed:
            return "FAILED"
        if self.vacuous:
            return "VACUOUS"
        return "known" if self.known else "ok"

    @property
    def relative(self) -> float:
        """Largest difference over largest value, of all comparisons."""
        return float(np.max([c.relative for c in self.comparisons]))  # a NaN stays

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest margin."""
        return max(self.comparisons, key=lambda c: (not c.ok, c.margin))
