"""Draws of the fields: as many as the degree asks for, and more where a doubt is to be cleared."""

import contextlib
import time
from collections.abc import Iterator

from parity.identity.among_reals import Search
from parity.identity.answers import Answer, answers, clear_of_maxima
from parity.identity.chain import bits
from parity.identity.contest import Contest
from parity.identity.evidence import Compared, Evidence, in_the_field, worse
from parity.identity.field import Algebra
from parity.identity.inequalities import Inequalities
from parity.identity.number import ROUGH, BadDraw, Undecided
from parity.identity.renewals import Renewals

LENGTHS = (2, 4, 6)  # of the chain of primes
RENEWING = (3, 5)  # the same where a deep model's tensors are renewed
TIES = 100
COMPARING = 60.0  # for comparisons that went one way: as good as never needed
MORE, SECONDS = 40, 6.0  # draws beyond those that must agree; of the processor
FEW = 4  # draws of real numbers, when a field first shows a difference


class Trials:
    """All draws of one contest. search: among real numbers, for a witness of a difference."""

    def __init__(self, contest: Contest, search: Search, seed: int) -> None:
        self.contest, self.search, self.seed = contest, search, seed
        self.why = ""
        self.renewals: Renewals | None = None
        self.evidence = Evidence(bits(LENGTHS[0]))

    def answers(self) -> list[Answer]:
        """The answers; or none, and why. First with functions of which only symmetries are known;
        where that isn't enough, with such as are written by exp."""
        found: list[Answer] = []
        for fine in (False, True):
            for length in LENGTHS:
                try:
                    found, coarse = self._of(length, fine)
                except Undecided as reason:
                    self.why = str(reason)
                    if "nested deeper" in self.why:
                        continue
                    return found
                break
            else:
                found, coarse = self._renewing(fine)
            if found and (not coarse or all(a.verdict == "identical" for a in found)):
                break
            if not found or self.search.found:
                break
        return found

    def _renewing(self, fine: bool) -> tuple[list[Answer], bool]:
        """The answers of a deep model, if they are that it is identical: else none."""
        for length in RENEWING:
            with contextlib.suppress(Undecided, BadDraw):
                self.renewals = Renewals()
                of = Algebra(self.seed, length, fine)
                of.renewals = self.renewals
                self.contest.evaluated(of, partly=True)
                if self.renewals.learn():
                    found, coarse = self._of(length, fine)
                    if all(a.verdict == "identical" for a in found):
                        return found, coarse
        self.renewals = None
        return [], False

    def _of(self, length: int, fine: bool) -> tuple[list[Answer], bool]:
        """The answers, and whether a function stood for what `fine` writes by exp."""
        evidence = Evidence(bits(length))
        start, coarse, draw = time.process_time(), False, 0
        cleaned, laws = self._cleaned(evidence), Inequalities()
        while draw < evidence.need + MORE:
            self.contest.on_rows(draw)
            late = time.process_time() - start > (SECONDS if evidence.lacking else COMPARING)
            enough = evidence.draws >= evidence.need
            if enough and (late or not (evidence.lacking or evidence.one_way)):
                break
            rough = enough and any(ROUGH in why for t in evidence.lacking for why in t.why)
            clean = next(cleaned) if rough else frozenset[int]()
            laws = Inequalities(constants=laws.known_constants())
            of = Algebra(self.seed + draw, length, fine, clean=clean, laws=laws)
            of.renewals = self.renewals
            draw += 1
            try:
                found = self._trial(of, twice=enough and evidence.stuck)
            except BadDraw as why:
                if draw > MORE and not evidence.draws:
                    said = f"no draw on which all operations are defined ({why})"
                    raise Undecided(said) from why
                continue
            evidence.add(of, found)
            coarse |= of.coarse
            if evidence.draws == 1 and not all(one.settled for one in found):
                if self.search.upto(FEW):
                    break
            if any(a.verdict == "different" for a in evidence.answers()):
                break
        self.evidence, found_ = evidence, {a.name: a for a in evidence.answers()}
        if {a.verdict for a in found_.values()} == {"identical"}:
            # More than was promised: ties.
            with contextlib.suppress(Undecided):
                worse(found_, self._of_ties(length, fine, laws.known_constants()))
        return list(found_.values()), coarse

    def _of_ties(self, length: int, fine: bool, constants: tuple[float, ...]) -> list[Answer]:
        """The answers of a draw with a blank input and biases of 0."""
        found: list[Answer] = []
        clean = frozenset[int]()
        for draw in range(TIES):
            laws, evidence = Inequalities(constants=constants), Evidence(bits(length))
            of = Algebra(self.seed + draw, length, fine, clean=clean, laws=laws)
            of.renewals = self.renewals
            try:
                seen = self._trial(of, blank=True)
            except BadDraw:
                continue
            evidence.add(of, seen)
            found = [t.answer(1) for t in evidence.tallies.values()]
            if not any(ROUGH in why for one in seen for why in one.why):
                break
            clean = frozenset(range(length))
        return found

    @staticmethod
    def _cleaned(evidence: Evidence) -> Iterator[frozenset[int]]:
        """Parts in which roots are to be of squares: each that is lacking, with those below it,
        from which exponentials bring doubts."""
        while True:
            for k in sorted({k for t in evidence.lacking for k in t.first.parts}):
                yield frozenset(range(k + 1))

    def _trial(self, of: Algebra, blank: bool = False, twice: bool = False) -> list[Compared]:
        """twice: even if nothing is left to settle, for signs that a second evaluation knows."""
        contest = self.contest
        frozen = contest.theirs.frozen
        seen = contest.evaluated(of, blank)
        found = answers(of, frozen, seen, in_the_field)
        if all(one.settled for one in found) and not twice:
            return found
        again = of.again()
        seen = contest.evaluated(again, blank)  # once more, with what is known now
        found = answers(again, frozen, seen, in_the_field)
        if not all(one.settled for one in found):
            other = contest.evaluated(again.again(choice=1), blank)
            for (_, *one), (_, *two) in zip(seen, other, strict=True):
                for a, b in zip(one, two, strict=True):
                    clear_of_maxima(a, b)
            found = answers(again, frozen, seen, in_the_field)
        of.ways = again.ways
        return found
