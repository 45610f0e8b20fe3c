"""Real numbers on which two programs differ: a witness of what the fields doubt."""

import contextlib
import time

import numpy as np

from parity.identity import reals
from parity.identity.answers import Answer, answers, without_numbers
from parity.identity.contest import Contest
from parity.identity.field import Algebra
from parity.identity.number import BadDraw, Field, Undecided
from parity.identity.reals import Reals
from parity.identity.witness import Witness, witness

SECONDS = 10.0  # of the processor, so that what else runs changes no answer


class Search:
    """Draws of real numbers, until one shows a difference. found: the outputs that then differ.
    witness: the numbers."""

    def __init__(self, contest: Contest, seed: int) -> None:
        self.contest, self.seed = contest, seed
        self.found: list[Answer] = []
        self.witness: Witness | None = None
        self._draws, self._spent = 0, 0.0

    def upto(self, draws: int) -> list[Answer]:
        """What so many draws show, those before counted."""
        start = time.process_time()
        while not self.found and self._draws < draws and self._spent < SECONDS:
            draw, self._draws = self._draws, self._draws + 1
            self.contest.on_rows(draw // 2)
            of = Reals(self.seed + draw)
            with contextlib.suppress(BadDraw, Undecided), np.errstate(all="ignore"):
                seen = self.contest.evaluated(of, blank=draw % 4 == 3)
                each = answers(of, self.contest.theirs.frozen, seen, _compared)
                self.found = [a for a in each if a.verdict == "different"]
                if self.found:
                    second = all(a.says.startswith("second step") for a in self.found)
                    self.witness = witness(self.contest, second)
            now = time.process_time()
            self._spent, start = self._spent + now - start, now
        return self.found


def _compared(of: Algebra, name: str, a: object, b: object, where: str) -> Answer:
    """different, with a witness, or identical as far as this draw can tell."""
    if (early := without_numbers(name, a, b, where)) is not None:
        return early
    a, b = (x if isinstance(x, Field) else of.lift(x) for x in (a, b))
    apart = np.argwhere(reals.apart(a, b))
    if not len(apart):
        return Answer(name, "identical")
    at = tuple(int(i) for i in apart[0])
    x, y = (float(np.broadcast_to(f.parts[reals.MIDDLE], a.shape)[at]) for f in (a, b))
    place = f"{list(at)} " if at else ""
    said = (
        f"{where}{len(apart)} of {a.size} elements, {place}for one is {x!r} in JAX, {y!r} in Torch"
    )
    return Answer(name, "different", said)
