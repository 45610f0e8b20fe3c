"""Identity: whether both training steps are one function, for inputs that no data have."""

import math
from functools import partial

from parity.collector import set_aside
from parity.comparison import Comparison
from parity.identity.prove import Answer, Proof, elements, prove
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.locate.witness import lines_at
from parity.sides.side import SIDES

KEY = "identity", "jax", "torch"
MOST = 2**24  # elements in JAX's graph of a few rows: half a minute


def judge_identity(pair: Pair, precision: str) -> list[Comparison]:
    """Outputs, loss, gradients and steps of both graphs, over finite fields and real numbers.

    Raises Skipped where it is undecided, which is no agreement, and where it would take long.
    """
    proof = _proof(pair)
    if proof.verdict == "undecided":
        raise Skipped(f"undecided: {_reason(proof)}")
    # Beside what differs, what is undecided isn't shown.
    return [_comparison(a, proof) for a in proof.answers if a.verdict != "undecided"]


def _proof(pair: Pair) -> Proof:
    if KEY not in pair.kept:
        if pair.narrow:
            raise Skipped(f"undecided: {pair.narrow}")
        inputs, targets = next(iter(pair.batches.values()))
        infer = pair.infer or pair.outputs_alone
        ours, theirs = pair.jax["float64"], pair.torch["float64"]
        if theirs.processes > 1:
            raise Skipped(f"undecided: Torch's gradients come from {theirs.processes} processes, "
                          "and what they add is no part of the graph")  # fmt: skip
        count = elements(ours, inputs, targets, infer)
        if count > MOST:
            raise Skipped(f"undecided: a step has {count:,} numbers, and more than {MOST:,} take "
                          "over half a minute; parity.prove takes its time")  # fmt: skip
        try:
            locate = partial(lines_at, ours, theirs, infer=infer)
            with set_aside():  # both traces, which every draw goes through
                pair.kept[KEY] = prove(ours, theirs, inputs, targets, infer=infer, locate=locate)
        except Exception as error:  # the user's own code, run on numbers that aren't real
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise Skipped(f"undecided: it can't be evaluated: {said:.200}") from None
    found: Proof = pair.kept[KEY]
    return found


def _comparison(answer: Answer, proof: Proof) -> Comparison:
    ok = answer.verdict == "identical"
    off = 0.0 if ok else math.nan
    problem = "" if ok else f"another function: {answer.says}"
    if not ok and proof.lines:
        problem += f"; they part: JAX {proof.lines[0]}, Torch {proof.lines[1]}"
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
    "Are forward, loss, gradients and steps the same function, for all inputs?",
    "equal in finite fields; apart among real numbers",
    judge_identity,
    ("all inputs",),
    note=_note,
)
