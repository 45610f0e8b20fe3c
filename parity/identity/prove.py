"""Whether both sides' training steps are the same function: evaluated on the same random draws."""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from parity.identity.chain import LOW
from parity.identity.field import Algebra, BadDraw, Field, Undecided
from parity.identity.functions import MAXIMUM
from parity.identity.jax_graph import JaxGraph
from parity.identity.torch_step import Fields, Given, TorchSteps
from parity.sides.jax_side import JaxSide
from parity.sides.memory import paired
from parity.sides.torch_side import TorchSide
from parity.trees import Tree, leaves, mapped

EXAMPLES = 3
ERROR = 60  # bits
DEGREE = 2**8  # of the rational functions that are compared, at most
TRIALS = math.ceil(ERROR / math.log2(LOW / DEGREE))
LENGTHS = (4, 6)  # of the chain of primes
MORE, SECONDS = 12, 2.0  # draws, where some aren't defined or leave a doubt; until then

# A rule that takes an operation's arguments for others: no answer, but no reason to stop a check.
UNFORESEEN = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
PARTS = ("outputs", "loss", "gradients", "step", "state", "memory")


@dataclass(frozen=True)
class Answer:
    """Of one output. verdict: "identical", "different" or "undecided"; says: why, or where."""

    name: str
    verdict: str
    says: str = ""


@dataclass(frozen=True)
class Proof:
    """What was found. bits: the probability that what differs was called identical is at most
    2^-bits, if the degrees are at most DEGREE. shapes: of the inputs that it was shown for."""

    answers: tuple[Answer, ...]
    trials: int
    bits: float
    shapes: Mapping[str, tuple[int, ...]]
    why: str = ""

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
        chance = f" (but for 2^-{self.bits:.0f})" if self.verdict == "identical" else ""
        why = f": {self.why}" if self.why else ""
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
    shapes and integers, floats are drawn. infer: outputs alone. Source: Schwartz and Zippel; Mirage
    (arXiv 2405.05751) for exponentials.
    """
    contest = _Contest(ours, theirs, inputs, targets, infer)
    found, why = None, ""
    for name, side in (("JAX", ours), ("Torch", theirs)):
        narrow = side.narrowest(contest.inputs)
        if narrow.kind not in ("float64", "float32"):
            why = f"{name} computes in {narrow.kind} ({narrow.where})"
            return Proof((Answer("all", "undecided", why),), 0, 0.0, {}, why)
    for length, fine in ((LENGTHS[0], False), (LENGTHS[1], True)):
        try:
            found = contest.judge(trials, seed, length, fine)
        except UNFORESEEN as error:
            why = f"it can't be evaluated: {type(error).__name__}: {error}"
            break
        except Undecided as reason:
            why = str(reason)
            if "nested deeper" in why and not fine:
                try:
                    found = contest.judge(trials, seed, LENGTHS[1], False)
                except Undecided as again:
                    why = str(again)
            if found is None and "nested deeper" not in why:
                break
        same = found is not None and all(a.verdict == "identical" for a in found)
        if same or (found is not None and not contest.coarse):
            break
    shapes = {n: np.shape(x) for n, x in leaves(contest.inputs, "inputs").items()}
    bits = trials * math.log2(LOW / DEGREE)
    if found is None:
        return Proof((Answer("all", "undecided", why),), trials, 0.0, shapes, why)
    return Proof(tuple(found), trials, bits, shapes)


class _Contest:
    """Both sides, and the graph of JAX's, which is traced once."""

    def __init__(
        self, ours: JaxSide, theirs: TorchSide, inputs: Tree, targets: Tree, infer: bool
    ) -> None:
        self.ours, self.theirs, self.infer = ours, theirs, infer
        self.coarse = False
        self.batches = list(_rows(inputs, targets))
        self.inputs, self.targets = self.batches[0]
        self.params, self.state = ours.held()
        self.memory = {} if infer else ours.memory()
        with ours._settings():
            if infer:
                given: Any = self.params, self.state, ours.typed(self.inputs)
                traced = jax.make_jaxpr(ours.outputs, return_shape=True)(*given)
            else:
                repeated = ours.repeated(self.inputs, self.targets)
                given = self.params, self.state, self.memory, repeated
                traced = jax.make_jaxpr(ours.taken, return_shape=True)(*given)
        self.jaxpr, shapes = traced
        self.structure = jax.tree.structure(shapes)

    def judge(self, trials: int, seed: int, length: int, fine: bool) -> list[Answer]:
        """The answers of so many draws, of one with a blank input and biases of 0, and of more
        where what differs has a doubt."""
        answers: dict[str, Answer] = {}
        done, start = 0, time.perf_counter()
        for draw in range(trials + MORE):
            self.inputs, self.targets = self.batches[done % len(self.batches)]
            try:
                of = Algebra(seed + draw, length, fine)
                self._trial(of, answers)
                self.coarse |= of.coarse
            except BadDraw as why:
                if draw == MORE and not done:
                    raise Undecided(f"no draw on which all operations are defined ({why})") from why
                continue
            done += 1
            found = {a.verdict for a in answers.values()}
            late = time.perf_counter() - start > SECONDS
            if "different" in found or (done >= trials and (late or found == {"identical"})):
                break
        if {a.verdict for a in answers.values()} == {"identical"}:
            # More than was promised: ties.
            with contextlib.suppress(BadDraw, Undecided):
                self._trial(Algebra(seed, length, fine), answers, blank=True)
        return list(answers.values())

    def _trial(self, of: Algebra, answers: dict[str, Answer], blank: bool = False) -> None:
        seen = self._evaluated(of, blank)
        found = [_answers(of, self.theirs.frozen, *one) for one in seen]
        flat = [a for row in found for a in row]
        if any(a.verdict == "undecided" for a in flat):
            # Where another choice of the largest changes nothing, it is no doubt.
            other = Algebra(of.seed, of.length, of.fine, choice=1)
            again = self._evaluated(other, blank)
            for (_, *one), (_, *two) in zip(seen, again, strict=True):
                for a, b in zip(one, two, strict=True):
                    _clear(a, b)
            flat = [a for one in seen for a in _answers(of, self.theirs.frozen, *one)]
        for answer in flat:
            old = answers.get(answer.name)
            if old is None or _RANK[answer.verdict] > _RANK[old.verdict]:
                answers[answer.name] = answer

    def _evaluated(self, of: Algebra, blank: bool) -> list[tuple[str, Any, Any]]:
        """(where, JAX's results, Torch's) of a first step, and of one with a memory."""
        names = {n: np.shape(a) for n, a in self.params.items()}
        first = Given(
            {n: _drawn(of, s, blank and len(s) < 2) for n, s in names.items()},
            {n: of.draw(np.shape(a)) for n, a in self.state.items()},
            {n: self._kept(of, a) for n, a in self.memory.items()},
            _fields(of, self.inputs, blank),
            _fields(of, self.targets),
        )
        steps = TorchSteps(self.theirs, of, self.inputs, self.targets)
        if self.infer:
            return [("", {"outputs": self._jax(of, first)}, {"outputs": steps.outputs(first)})]
        with steps.training():
            mine, other = self._jax(of, first), steps.step(first)
            seen = [("blank input: " if blank else "", mine, other)]
            if blank or not mine["memory"]:
                return seen
            kept = {n for n, f in mine["memory"].items() if isinstance(f, Field)}
            shared = kept if kept >= other["memory"].keys() else set()
            memory = {
                n: of.draw(f.shape) if n in shared and n in other["memory"] else f
                for n, f in mine["memory"].items()
            }
            later = Given(
                {n: of.draw(s) for n, s in names.items()},
                {n: of.draw(np.shape(a)) for n, a in self.state.items()},
                memory,
                _fields(of, self.inputs),
                _fields(of, self.targets),
            )
            mine = self._jax(of, later)
            other = steps.step(replace(later, memory=memory if shared else {}))
            return [*seen, ("second step: ", mine, other)]

    def _kept(self, of: Algebra, a: Any) -> Any:
        return of.lift(a) if a.dtype.kind == "f" else a

    def _jax(self, of: Algebra, given: Given) -> Any:
        ours = self.ours
        with ours._settings():
            inputs = _filled(ours.typed(self.inputs), given.inputs)
            if self.infer:
                flat = jax.tree.leaves((given.params, given.state, inputs))
            else:
                targets = _filled(ours.typed(self.targets), given.targets)
                count = ours.accumulated
                batches = ((inputs, targets),) * count
                flat = jax.tree.leaves((given.params, given.state, given.memory, batches))
            out = JaxGraph(of).closed(self.jaxpr, flat)
        found = jax.tree.unflatten(self.structure, out)
        if not self.infer:
            found["loss"] = {"loss": found["loss"]}
        return found


def _answers(of: Algebra, frozen: set[str], where: str, mine: Any, other: Any) -> list[Answer]:
    found = []
    for part in PARTS:
        if part not in mine:
            continue
        one, two = mine[part], other[part]
        if part == "gradients":
            one, two = ({n: f for n, f in x.items() if n not in frozen} for x in (one, two))
        if part == "memory":
            prefixed = [{f"optimizer.{n}": f for n, f in x.items()} for x in (one, two)]
            one, two = (paired(x, prefixed) for x in prefixed)
        label = {"outputs": "logits", "memory": "step"}.get(part, part)
        for leaf in dict.fromkeys([*one, *two]):
            name = label if leaf in (label, "logits") else f"{label}.{leaf}"
            found.append(_answer(of, name, one.get(leaf), two.get(leaf), where))
    return found


def _clear(one: dict[str, Fields], two: dict[str, Fields]) -> None:
    for part, fields in one.items():
        for name, a in fields.items():
            b = two[part][name]
            if not isinstance(a, Field) or not isinstance(b, Field):
                continue
            if all(np.array_equal(v, b.parts[k]) for k, v in a.parts.items()):
                doubt = frozenset(d for d in a.doubt if d[1] != MAXIMUM)
                fields[name] = replace(a, doubt=doubt)


_RANK = {"identical": 0, "undecided": 1, "different": 2}


def _answer(of: Algebra, name: str, a: Any, b: Any, where: str) -> Answer:
    if a is None or b is None:
        return Answer(name, "undecided", f"{where}only one side has it")
    if not isinstance(a, Field) and not isinstance(b, Field):
        return Answer(name, "identical" if np.array_equal(a, b) else "different", where)
    a, b = (x if isinstance(x, Field) else of.lift(x) for x in (a, b))
    if a.shape != b.shape:
        return Answer(name, "different", f"{where}shapes {a.shape} and {b.shape}")
    common = [k for k in a.parts if k in b.parts]
    if not common:
        return Answer(name, "undecided", f"{where}no prime in common")
    doubt, apart = a.doubt | b.doubt, np.zeros(a.shape, bool)
    sure = np.zeros(a.shape, bool)
    unsure = {k for k, _ in doubt}
    for k in common:
        differs = a.parts[k] != b.parts[k]
        apart |= differs
        if not unsure & {k, -1}:
            sure |= differs
    if not apart.any():
        return Answer(name, "identical")
    said = f"{where}{int(apart.sum())} of {apart.size} elements differ"
    if sure.any() and not of.doubts:
        return Answer(name, "different", said)
    reasons = {why for _, why in doubt} | of.doubts
    return Answer(name, "undecided", f"{said}, but there is {', '.join(sorted(reasons))}")


def _rows(inputs: Tree, targets: Tree) -> Iterator[tuple[Tree, Tree]]:
    """Batches of a few rows; together the first ones, and then such as bring new labels."""
    count = len(next(iter(leaves((inputs, targets)).values())))
    size = min(EXAMPLES, count)
    for start in range(0, min(count - size + 1, 4 * size), size):
        yield (
            mapped(lambda x: x[start : start + size], inputs),  # noqa: B023
            mapped(lambda x: x[start : start + size], targets),  # noqa: B023
        )


def _drawn(of: Algebra, shape: tuple[int, ...], blank: bool = False) -> Field:
    drawn = of.draw(shape)
    if not blank:
        return drawn
    return replace(drawn, parts={k: np.zeros_like(v) for k, v in drawn.parts.items()})


def _fields(of: Algebra, tree: Tree, blank: bool = False) -> Fields:
    """{name: a draw} of its floats. blank: the first row is 0."""
    floats = {n: x for n, x in leaves(tree).items() if np.asarray(x).dtype.kind in "fV"}
    drawn = {name: of.draw(np.shape(x)) for name, x in floats.items()}
    for field in drawn.values():
        for part in field.parts.values():
            part[: int(blank)] = 0
    return drawn


def _filled(tree: Tree, fields: Fields) -> Tree:
    """The tree with Fields for its floats."""
    names = iter(leaves(tree))
    return mapped(lambda x: fields.get(next(names), np.asarray(x)), tree)
