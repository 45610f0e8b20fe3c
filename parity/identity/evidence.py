"""What draws of the fields say of two outputs, element by element, and how much that is worth."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.identity.answers import Answer, without_numbers
from parity.identity.field import Algebra
from parity.identity.number import ROUGH, Field

ERROR = 60  # bits
ASSUMED = 2**8  # the degree, where the computed one is too large to help
MOST = 12  # draws that must agree; where the degree asks for more, it is assumed


@dataclass(frozen=True)
class Compared:
    """One output in one draw. fixed: an answer that no number changes. agreed, differs: of each
    element; neither where a doubt touches what differs, and why. parts: that both sides have."""

    name: str
    where: str
    fixed: Answer | None = None
    agreed: Any = None
    differs: Any = None
    why: frozenset[str] = frozenset()
    parts: frozenset[int] = frozenset()
    degree: int = 1

    @property
    def settled(self) -> bool:
        """Whether all elements agree, or only roots of what is no square stand against it."""
        if self.fixed:
            return True
        rough = all(ROUGH in why for why in self.why) and not self.differs.any()
        return bool(self.agreed.all() or rough)


def in_the_field(of: Algebra, name: str, a: Any, b: Any, where: str) -> Compared:
    """Each element agrees if no part of it differs, or one without a doubt agrees and all that
    differ have one."""
    if (early := without_numbers(name, a, b, where)) is not None:
        return Compared(name, where, early)
    a, b = (x if isinstance(x, Field) else of.lift(x) for x in (a, b))
    common = [k for k in a.parts if k in b.parts]
    if not common:
        return Compared(name, where, Answer(name, "undecided", f"{where}no prime in common"))
    whole = a.doubt | b.doubt
    apart, sure, equal = (np.zeros(a.shape, bool) for _ in range(3))
    why: set[str] = set()
    for k in common:
        differs = a.parts[k] != b.parts[k]
        rough = np.zeros(a.shape, bool)
        for x in (a, b):
            if k in x.rough:
                rough |= np.broadcast_to(x.rough[k], a.shape)
        here = {reason for part, reason in whole if part in (k, -1)} | of.doubts
        doubt = rough | bool(here)
        apart |= differs
        sure |= differs & ~doubt
        equal |= ~differs & ~doubt
        if differs.any():
            why |= here | ({ROUGH} if (differs & rough).any() else set())
    agreed = ~apart | (equal & ~sure)
    degree = of.degrees.of_difference(a.degree, b.degree)
    return Compared(name, where, None, agreed, sure, frozenset(why), frozenset(common), degree)


@dataclass
class Tally:
    """Of one output over all draws. agreed: in how many, of each element."""

    first: Compared
    agreed: Any
    differs: Any
    why: set[str]

    def answer(self, need: int) -> Answer:
        """identical if each element agreed so often and differed in no draw."""
        one = self.first
        if one.fixed:
            return one.fixed
        if self.differs.any():
            said = f"{one.where}{int(self.differs.sum())} of {self.differs.size} elements differ"
            return Answer(one.name, "different", said)
        if not (lone := self.agreed < need).any():
            return Answer(one.name, "identical")
        said = f"{one.where}{int(lone.sum())} of {lone.size} elements differ"
        reasons = ", ".join(sorted(self.why)) or "no time for more draws"
        return Answer(one.name, "undecided", f"{said}, but there is {reasons}")


@dataclass
class Evidence:
    """Of all outputs. bits: all primes are above 2^bits. ways: of each comparison, in how many
    draws some element of it was below 0, was 0, and was above; None where a law tells."""

    bits: int
    tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)
    ways: list[list[int] | None] = field(default_factory=list)
    degree: int = 1
    draws: int = 0
    unaware: int = 0  # the first draws, in which not all constants were known that compare in order
    early: list[list[int] | None] = field(default_factory=list)  # ways, of these alone

    def add(self, of: Algebra, seen: Iterable[Compared]) -> None:
        """What one more draw says."""
        self.draws += 1
        for one in seen:
            self.degree = max(self.degree, one.degree)
            old = self.tallies.get((one.where, one.name))
            if old is None or one.fixed:
                agreed = None if one.fixed else one.agreed.astype(int)
                self.tallies[one.where, one.name] = Tally(one, agreed, one.differs, set(one.why))
            elif not old.first.fixed:
                old.agreed, old.differs = old.agreed + one.agreed, old.differs | one.differs
                old.why |= one.why
        for i, went in enumerate(of.ways):
            if i == len(self.ways):
                self.ways.append([0, 0, 0])
            before = self.ways[i]
            if went is None or before is None:
                self.ways[i] = None
            else:
                self.ways[i] = [n + m for n, m in zip(before, went, strict=True)]
        if self.unaware == self.draws - 1 and not of.laws.aware:
            self.unaware, self.early = self.draws, self.ways[:]

    @property
    def assumed(self) -> bool:
        """Whether the degree is so large that it's assumed to be ASSUMED instead."""
        return self._trials(self.degree) > MOST

    def _trials(self, degree: int) -> int:
        each = self.bits - (degree - 1).bit_length()
        return -(-ERROR // each) if each > 0 else MOST + 1

    @property
    def need(self) -> int:
        """Draws that must agree, for 2^-ERROR."""
        return self._trials(ASSUMED if self.assumed else self.degree)

    @property
    def chance(self) -> float:
        """Bits of the probability that what differs agreed so often."""
        degree = ASSUMED if self.assumed else self.degree
        return float(self.need * (self.bits - (degree - 1).bit_length()))

    def answers(self) -> list[Answer]:
        """Of each output, that which says most against it; of comparisons, if any took one way
        alone too often."""
        found: dict[str, Answer] = {}
        for tally in self.tallies.values():
            worse(found, [tally.answer(min(self.need, self.draws))])
        if found and all(a.verdict == "identical" for a in found.values()) and self.one_way:
            said = f"{self.one_way} of {len(self.ways)} went one way in nearly all of "
            said += f"{self.draws} draws: the other was compared too seldom"
            found["comparisons"] = Answer("comparisons", "undecided", said)
        if found and all(a.verdict == "identical" for a in found.values()):
            if self.draws < self.need:
                said = f"{self.draws} of {self.need} draws were without a division by 0"
                found["draws"] = Answer("draws", "undecided", said)
        return list(found.values())

    @property
    def one_way(self) -> int:
        """Comparisons that went some way in too few draws; of what is always 0 there is one way."""
        return sum(sorted(ways)[1] < self.need for ways in self._unknown)

    @property
    def _unknown(self) -> list[list[int]]:
        """Of each comparison that no law tells, and that isn't of what is 0 once constants are
        known."""
        found = []
        for i, ways in enumerate(self.ways):
            if ways is None:
                continue
            before = (self.early[i] if i < len(self.early) else None) or [0, 0, 0]
            aware = self.draws - self.unaware
            since = [n - m for n, m in zip(ways, before, strict=True)]
            if since == [0, aware, 0] if aware else ways == [0, self.draws, 0]:
                continue
            found.append(ways)
        return found

    @property
    def stuck(self) -> bool:
        """Whether some comparison took one way in all draws, or still in most of many: a law may
        tell which."""
        late = self.draws >= 2 * self.need and self.one_way > 0
        return late or any(sorted(ways)[1] == 0 for ways in self._unknown)

    @property
    def lacking(self) -> list[Tally]:
        """Outputs of which some element agreed too seldom."""
        return [t for t in self.tallies.values()
                if not t.first.fixed and (t.agreed < self.need).any()]  # fmt: skip


RANK = {"identical": 0, "undecided": 1, "different": 2}


def worse(old: dict[str, Answer], found: Iterable[Answer]) -> None:
    """Of each output, keep the answer that says more against it."""
    for answer in found:
        before = old.get(answer.name)
        if before is None or RANK[answer.verdict] > RANK[before.verdict]:
            old[answer.name] = answer
