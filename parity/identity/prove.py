"""Whether both sides' training steps are the same function: evaluated on the same random draws."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core

from parity.identity.answers import (
    Answer,
    among_reals,
    answers,
    clear_of_maxima,
    in_the_field,
    worse,
)
from parity.identity.chain import LOW
from parity.identity.contest import Contest
from parity.identity.field import Algebra, BadDraw, Field, Undecided
from parity.identity.lines import Lines, first_apart
from parity.identity.reals import Reals
from parity.sides.jax_side import JaxSide
from parity.sides.torch_side import TorchSide
from parity.trees import Tree, leaves

ERROR = 60  # bits
DEGREE = 2**8  # of the rational functions that are compared, at most
TRIALS = math.ceil(ERROR / math.log2(LOW / DEGREE))
LENGTHS = (4, 6)  # of the chain of primes
MORE, SECONDS = 12, 2.0  # draws, where some aren't defined or leave a doubt; until then
REAL_SECONDS = 10.0  # of the processor, so that what else runs changes no answer
REAL = 40  # draws of real numbers in which a witness of a difference is looked for


@dataclass(frozen=True)
class Proof:
    """What was found. bits: the probability that what differs was called identical is at most
    2^-bits, if the degrees are at most DEGREE. shapes: of the inputs that it was shown for."""

    answers: tuple[Answer, ...]
    trials: int
    bits: float
    shapes: Mapping[str, tuple[int, ...]]
    why: str = ""
    lines: tuple[str, str] | None = None  # JAX's and Torch's first operation without a partner

    @property
    def verdict(self) -> str:
        """different if any output is, else undecided if any is, else identical."""
        found = [a.verdict for a in self.answers]
        if "different" in found:
            return "different"
        return "undecided" if "undecided" in found or not found else "identical"

    def __str__(self) -> str:
        lines = [f"{a.name}: {a.verdict}{': ' + a.says if a.says else ''}" for a in self.answers
                 if a.verdict != "identical"]  # fmt: skip
        shapes = ", ".join(f"{n} {list(s)}" for n, s in self.shapes.items())
        chance = f" (but for 2^-{self.bits:.0f}; {shapes})" if self.verdict == "identical" else ""
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
    trials: int = TRIALS,
    seed: int = 0,
) -> Proof:
    """Whether outputs, loss, gradients, a first step and a later one are the same real functions.

    ours, theirs: in float64, under shared names. inputs, targets: a batch; its first rows give
    shapes and integers, floats are drawn. infer: outputs alone. What the fields call different is
    different if real numbers show it, too; else it is undecided. Source: Schwartz and Zippel;
    Mirage (arXiv 2405.05751) for exponentials.
    """
    for name, side in (("JAX", ours), ("Torch", theirs)):
        narrow = side.narrowest(inputs)
        if narrow.kind not in ("float64", "float32"):
            why = f"{name} computes in {narrow.kind} ({narrow.where})"
            return Proof((Answer("all", "undecided", why),), 0, 0.0, {}, why)
    contest = Contest(ours, theirs, inputs, targets, infer)
    found, why = _in_fields(contest, trials, seed)
    shapes = {n: np.shape(x) for n, x in leaves(contest.batches[0][0], "inputs").items()}
    same = bool(found) and all(a.verdict == "identical" for a in found)
    witnesses = _among_reals(contest, 1 if same else REAL, seed)
    found += _lone_state(ours, theirs, inputs) if found else []
    if not found:
        found = witnesses or [Answer("all", "undecided", why)]
    judged = tuple(_judged(answer, witnesses) for answer in found)
    bits = trials * math.log2(LOW / DEGREE)
    lines = _lines(contest, seed, judged) if witnesses else None
    return Proof(judged, trials, bits, shapes, "" if witnesses else why, lines)


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
    for draw in range(MORE):
        of = Algebra(seed + draw, LENGTHS[1])
        both = Lines(of.primes), Lines(of.primes)
        try:
            seen = contest.evaluated(of, blank, both)
        except BadDraw:
            continue
        except Undecided:
            return None
        results: list[tuple[Field, Field]] = []

        def apart(of: Algebra, name: str, a: Any, b: Any, where: str) -> Answer:
            found = in_the_field(of, name, a, b, where)
            if found.verdict != "identical" and isinstance(a, Field) and isinstance(b, Field):
                results.append((a, b))  # noqa: B023
            return found

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


def _in_fields(contest: Contest, trials: int, seed: int) -> tuple[list[Answer], str]:
    """The answers; or none, and why."""
    found: list[Answer] = []
    why, coarse = "", False
    for length, fine in ((LENGTHS[0], False), (LENGTHS[1], True)):
        try:
            found, coarse = _trials(contest, trials, seed, length, fine)
        except Undecided as reason:
            why = str(reason)
            if "nested deeper" in why and not fine:
                try:
                    found, coarse = _trials(contest, trials, seed, LENGTHS[1], False)
                except Undecided as again:
                    why = str(again)
            if not found and "nested deeper" not in why:
                break
        if found and (not coarse or all(a.verdict == "identical" for a in found)):
            break
    return found, "" if found else why


def _trials(
    contest: Contest, trials: int, seed: int, length: int, fine: bool
) -> tuple[list[Answer], bool]:
    """The answers of so many draws, of one with a blank input and biases of 0, and of more where
    what differs has a doubt; and whether a function stood for what `fine` writes by exp."""
    found: dict[str, Answer] = {}
    done, start, coarse = 0, time.process_time(), False
    for draw in range(trials + MORE):
        contest.on_rows(done)
        try:
            of = Algebra(seed + draw, length, fine)
            worse(found, _trial(contest, of))
            coarse |= of.coarse
        except BadDraw as why:
            if draw == MORE and not done:
                raise Undecided(f"no draw on which all operations are defined ({why})") from why
            continue
        done += 1
        said = {a.verdict for a in found.values()}
        late = time.process_time() - start > SECONDS
        if "different" in said or (done >= trials and (late or said == {"identical"})):
            break
    if {a.verdict for a in found.values()} == {"identical"}:
        # More than was promised: ties.
        with contextlib.suppress(BadDraw, Undecided):
            worse(found, _trial(contest, Algebra(seed, length, fine), blank=True))
    return list(found.values()), coarse


def _trial(contest: Contest, of: Algebra, blank: bool = False) -> list[Answer]:
    seen, frozen = contest.evaluated(of, blank), contest.theirs.frozen
    found = answers(of, frozen, seen, in_the_field)
    if any(a.verdict != "identical" for a in found):  # once more, with what is known now
        of = Algebra(of.seed, of.length, of.fine, laws=of.laws.again())
        seen = contest.evaluated(of, blank)
        found = answers(of, frozen, seen, in_the_field)
    if any(a.verdict == "undecided" for a in found):
        other = Algebra(of.seed, of.length, of.fine, choice=1, laws=of.laws)
        for (_, *one), (_, *two) in zip(seen, contest.evaluated(other, blank), strict=True):
            for a, b in zip(one, two, strict=True):
                clear_of_maxima(a, b)
        found = answers(of, frozen, seen, in_the_field)
    return found


def _among_reals(contest: Contest, draws: int, seed: int) -> list[Answer]:
    """The outputs of which real numbers show that they differ, in the first draw that shows any."""
    start = time.process_time()
    for draw in range(draws):
        contest.on_rows(draw // 2)
        of = Reals(seed + draw)
        with contextlib.suppress(BadDraw, Undecided), np.errstate(all="ignore"):
            seen = contest.evaluated(of, blank=draw % 4 == 3)
            found = answers(of, contest.theirs.frozen, seen, among_reals)
            if apart := [a for a in found if a.verdict == "different"]:
                return apart
        if time.process_time() - start > REAL_SECONDS:
            break
    return []
