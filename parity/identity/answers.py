"""What a draw says of each output: the same, another, or no telling."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.identity import reals
from parity.identity.contest import Seen
from parity.identity.field import Algebra, Field
from parity.identity.functions import MAXIMUM
from parity.identity.torch_step import Fields
from parity.sides.memory import marked, paired

PARTS = ("outputs", "loss", "gradients", "step", "state", "memory")
RANK = {"identical": 0, "undecided": 1, "different": 2}


@dataclass(frozen=True)
class Answer:
    """Of one output. verdict: "identical", "different" or "undecided"; says: why, or where."""

    name: str
    verdict: str
    says: str = ""


Compare = Callable[[Algebra, str, Any, Any, str], Answer]


def answers(of: Algebra, frozen: set[str], seen: Seen, compare: Compare) -> list[Answer]:
    """Of each output of each step, in the order of evaluation. frozen: what isn't trained."""
    return [a for one in seen for a in _of_step(of, frozen, *one, compare)]


def _of_step(
    of: Algebra, frozen: set[str], where: str, mine: Any, other: Any, compare: Compare
) -> list[Answer]:
    found = []
    for part in PARTS:
        if part not in mine:
            continue
        one, two = mine[part], other[part]
        if part == "gradients":
            one, two = ({n: f for n, f in x.items() if n not in frozen} for x in (one, two))
        if part == "memory":
            prefixed = [marked(x) for x in (one, two)]
            one, two = (paired(x, prefixed) for x in prefixed)
        label = {"outputs": "logits", "memory": "step"}.get(part, part)
        for leaf in dict.fromkeys([*one, *two]):
            name = label if leaf in (label, "logits") else f"{label}.{leaf}"
            found.append(compare(of, name, one.get(leaf), two.get(leaf), where))
    return found


def worse(old: dict[str, Answer], found: list[Answer]) -> None:
    """Of each output, keep the answer that says more against it."""
    for answer in found:
        before = old.get(answer.name)
        if before is None or RANK[answer.verdict] > RANK[before.verdict]:
            old[answer.name] = answer


def in_the_field(of: Algebra, name: str, a: Any, b: Any, where: str) -> Answer:
    """identical, different, or undecided where a doubt touches all that differs."""
    if (early := _without_numbers(name, a, b, where)) is not None:
        return early
    a, b = (x if isinstance(x, Field) else of.lift(x) for x in (a, b))
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


def among_reals(of: Algebra, name: str, a: Any, b: Any, where: str) -> Answer:
    """different, with a witness, or identical as far as this draw can tell."""
    if (early := _without_numbers(name, a, b, where)) is not None:
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


def _without_numbers(name: str, a: Any, b: Any, where: str) -> Answer | None:
    if a is None or b is None:
        return Answer(name, "undecided", f"{where}only one side has it")
    if not isinstance(a, Field) and not isinstance(b, Field):
        same = np.array_equal(a, b)
        return Answer(name, "identical" if same else "different", "" if same else where)
    if np.shape(a) != np.shape(b):
        return Answer(name, "different", f"{where}shapes {np.shape(a)} and {np.shape(b)}")
    return None


def clear_of_maxima(one: dict[str, Fields], two: dict[str, Fields]) -> None:
    """Where another choice of the largest changes nothing, it is no doubt."""
    for part, fields in one.items():
        for name, a in fields.items():
            b = two[part][name]
            if not isinstance(a, Field) or not isinstance(b, Field):
                continue
            if all(np.array_equal(v, b.parts[k]) for k, v in a.parts.items()):
                doubt = frozenset(d for d in a.doubt if d[1] != MAXIMUM)
                fields[name] = replace(a, doubt=doubt)
