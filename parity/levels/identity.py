"""Identity: whether both training steps are one function, for inputs that no data have."""

import math
from collections.abc import Iterable

from parity.comparison import Comparison
from parity.identity.prove import Answer, Proof, prove
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.sides.side import SIDES

KEY = "identity"


def judge_identity(pair: Pair, precision: str) -> list[Comparison]:
    """Outputs, loss, gradients and a step of both graphs, over finite fields.

    Raises Skipped where it is undecided: that is no agreement.
    """
    if KEY not in pair.kept:
        inputs, targets = next(iter(pair.batches.values()))
        infer = pair.infer or pair.outputs_alone
        ours, theirs = pair.jax["float64"], pair.torch["float64"]
        pair.kept[KEY] = prove(ours, theirs, inputs, targets, infer=infer)
    proof: Proof = pair.kept[KEY]
    if proof.verdict == "undecided":
        raise Skipped(f"undecided: {_reason(proof)}")
    return [_comparison(answer) for answer in _judged(pair, proof.answers)]


def _judged(pair: Pair, answers: Iterable[Answer]) -> Iterable[Answer]:
    """Where one output differs, those that are undecided aren't shown."""
    return [a for a in answers if a.verdict != "undecided"]


def _comparison(answer: Answer) -> Comparison:
    ok = answer.verdict == "identical"
    off = 0.0 if ok else math.nan
    problem = "" if ok else f"another function: {answer.says}"
    return Comparison(
        answer.name, ok, 0.0 if ok else math.inf, off, off, (), 0.0, 0.0, 0.0, 1, SIDES, problem
    )


def _reason(proof: Proof) -> str:
    first = next(a for a in proof.answers if a.verdict == "undecided")
    return proof.why or f"{first.name}: {first.says}"


def _note(pair: Pair, precision: str) -> str:
    proof: Proof | None = pair.kept.get(KEY)
    if proof is None or proof.verdict != "identical":
        return ""
    shapes = ", ".join(f"{n} {list(s)}" for n, s in proof.shapes.items())
    return f"as real functions, but for a chance of 2^-{proof.bits:.0f}; shown for {shapes}"


LEVEL = Level(
    "identity",
    "Are forward, loss, gradients and step the same function, for all inputs?",
    "equal in finite fields",
    judge_identity,
    ("all inputs",),
    note=_note,
)
