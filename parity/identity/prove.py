"""Whether both sides' training steps are the same function: evaluated on the same random draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core

from parity.identity.among_reals import Search
from parity.identity.answers import Answer, answers
from parity.identity.contest import Contest
from parity.identity.evidence import ASSUMED, in_the_field
from parity.identity.field import Algebra
from parity.identity.lines import Lines, first_apart
from parity.identity.number import BadDraw, Field, Undecided
from parity.identity.trials import LENGTHS, Trials
from parity.identity.witness import Locate
from parity.sides.jax_side import JaxSide
from parity.sides.torch_side import TorchSide
from parity.trees import Tree, leaves

REAL = 40  # draws of real numbers in which a witness of a difference is looked for
LINES = 12  # draws in which the lines that part are looked for


@dataclass(frozen=True)
class Proof:
    """What was found. trials: draws in which everything agreed. bits: the probability that what
    differs was called identical is at most 2^-bits. degree: of what was compared, at most, as a
    power of 2; assumed: that it is smaller, 2^8, for of this one no such probability would follow.
    shapes: of the inputs that it was shown for.

        >>> from parity import prove
        >>> proof = prove(theirs, ours, (X, None), weights="guess")
        >>> proof.verdict, proof.bits > 20
        ('identical', True)
    """

    answers: tuple[Answer, ...]
    trials: int
    bits: float
    shapes: Mapping[str, tuple[int, ...]]
    why: str = ""
    degree: float = 0.0
    assumed: bool = False
    lines: tuple[str, str] | None = None  # JAX's and Torch's first operation without a partner

    @property
    def verdict(self) -> str:
        """different if any output is, else undecided if any is, else identical."""
        found = [a.verdict for a in self.answers]
        if "different" in found:
            return "different"
        return "undecided" if "undecided" in found or not found else "identical"

    @property
    def chance(self) -> str:
        """The probability of error, and what it follows from."""
        said = f"degree 2^{self.degree:.0f} computed, "
        said = f"{said}2^{math.log2(ASSUMED):.0f} assumed" if self.assumed else said[:-2]
        return f"2^-{self.bits:.0f}: {self.trials} draws, {said}"

    def __str__(self) -> str:
        lines = [f"{a.name}: {a.verdict}{': ' + a.says if a.says else ''}" for a in self.answers
                 if a.verdict != "identical"]  # fmt: skip
        shapes = ", ".join(f"{n} {list(s)}" for n, s in self.shapes.items())
        chance = f" (but for {self.chance}; {shapes})" if self.verdict == "identical" else ""
        why = f": {self.why}" if self.why else ""
        if self.lines:
            lines += [f"they part: JAX {self.lines[0]}", f"           Torch {self.lines[1]}"]
        return "\n  ".join([f"{self.verdict}{chance}{why}", *lines])


def prove(
    ours: JaxSide,
    theirs: TorchSide,
    inputs: Tree,
    targets: Tree,
    *,
    infer: bool = False,
    seed: int = 0,
    locate: Locate | None = None,
) -> Proof:
    """Whether outputs, loss, gradients, a first step and a later one are the same real functions.

    ours, theirs: in float64, under shared names. inputs, targets: a batch; its first rows give
    shapes and integers, floats are drawn. infer: outputs alone. What the fields call different is
    different if real numbers show it, too; else it is undecided. locate: names the lines at which
    they part on these; where it can't, the fields do. Source: Schwartz and Zippel; Mirage (arXiv
    2405.05751) for exponentials.
    """
    for name, side in (("JAX", ours), ("Torch", theirs)):
        narrow = side.narrowest(inputs)
        if narrow.kind not in ("float64", "float32"):
            why = f"{name} computes in {narrow.kind} ({narrow.where})"
            return Proof((Answer("all", "undecided", why),), 0, 0.0, {}, why)
    contest = Contest(ours, theirs, inputs, targets, infer)
    search = Search(contest, seed)
    trials = Trials(contest, search, seed)
    found = trials.answers()
    shapes = {n: np.shape(x) for n, x in leaves(contest.batches[0][0], "inputs").items()}
    same = bool(found) and all(a.verdict == "identical" for a in found)
    witnesses = search.upto(1 if same else REAL)
    found += _lone_state(ours, theirs, inputs) if found else []
    why = "" if found else trials.why
    if not found:
        found = witnesses or [Answer("all", "undecided", why)]
    judged = tuple(_judged(answer, witnesses) for answer in found)
    lines = None
    if search.witness and locate:
        lines = locate(search.witness)
    if witnesses and not lines:
        lines = _lines(contest, seed, judged)
    of = trials.evidence
    return Proof(
        judged, of.need, of.chance, shapes, "" if witnesses else why, math.log2(of.degree),
        of.assumed, lines,
    )  # fmt: skip


def elements(ours: JaxSide, inputs: Tree, targets: Tree, infer: bool) -> int:
    """Numbers in JAX's graph of a few rows, by which the time goes."""

    def of(jaxpr: Any) -> int:
        count = 0
        for eqn in jaxpr.eqns:
            inner = [of(j) for j in core.jaxprs_in_params(eqn.params)]
            own = sum(math.prod(v.aval.shape) for v in eqn.outvars)
            count += int(eqn.params.get("length", 1)) * sum(inner) if inner else own
        return count

    return of(Contest.traced(ours, inputs, targets, infer)[0].jaxpr)


def _lines(contest: Contest, seed: int, judged: Sequence[Answer]) -> tuple[str, str] | None:
    """The first operations of both sides that part before the first output that differs."""
    blank = all(a.says.startswith("blank") for a in judged if a.verdict == "different")
    for draw in range(LINES):
        of = Algebra(seed + draw, LENGTHS[-1])
        both = Lines(of.primes), Lines(of.primes)
        try:
            seen = contest.evaluated(of, blank, both)
        except BadDraw:
            continue
        except Undecided:
            return None
        results: list[tuple[Field, Field]] = []

        def apart(of: Algebra, name: str, a: Any, b: Any, where: str) -> None:
            found = in_the_field(of, name, a, b, where)
            if isinstance(a, Field) and isinstance(b, Field) and not np.all(found.agreed):
                results.append((a, b))  # noqa: B023

        answers(of, contest.theirs.frozen, seen, apart)
        if results:
            ours, theirs = results[0]
            first = first_apart(both[0], both[1], ours), first_apart(both[1], both[0], theirs)
            return tuple(str(n) if n else "computes nothing here" for n in first)  # type: ignore
    return None


def _lone_state(ours: JaxSide, theirs: TorchSide, inputs: Tree) -> list[Answer]:
    """Statistics without a partner: whatever they start from, the other side knows nothing of. One
    that Torch's model only carries along is no part of its function."""
    shared = set(ours.state()) | theirs.untouched(inputs)
    return [
        Answer(f"state.{name}", "undecided", f"{side.name} alone has it")
        for side in (ours, theirs)
        for name in sorted(set(side.all_state()) - shared)
    ]


def _judged(answer: Answer, witnesses: list[Answer]) -> Answer:
    """What fields and real numbers say of an output together."""
    witness = next((w for w in witnesses if w.name == answer.name), None)
    if witness is not None:
        return witness
    if answer.verdict != "different":
        return answer
    said = f"{answer.says} in finite fields; no real numbers were found that show it"
    return Answer(answer.name, "undecided", said)
