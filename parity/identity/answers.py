"""What a draw says of each output: the same, another, or no telling."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from parity.identity.contest import Seen
from parity.identity.field import Algebra
from parity.identity.functions import MAXIMUM
from parity.identity.number import Field
from parity.identity.torch_step import Fields
from parity.sides.memory import marked, paired

Found = TypeVar("Found")
PARTS = ("outputs", "loss", "gradients", "step", "state", "memory")


@dataclass(frozen=True)
class Answer:
    """Of one output. verdict: "identical", "different" or "undecided"; says: why, or where."""

    name: str
    verdict: str
    says: str = ""


def answers(
    of: Algebra,
    frozen: set[str],
    seen: Seen,
    compare: Callable[[Algebra, str, Any, Any, str], Found],
) -> list[Found]:
    """Of each output of each step, in the order of evaluation. frozen: what isn't trained."""
    return [a for one in seen for a in _of_step(of, frozen, *one, compare)]


def _of_step(
    of: Algebra,
    frozen: set[str],
    where: str,
    mine: Any,
    other: Any,
    compare: Callable[[Algebra, str, Any, Any, str], Found],
) -> list[Found]:
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


def without_numbers(name: str, a: Any, b: Any, where: str) -> Answer | None:
    """The answer where one side has nothing, or integers, or another shape."""
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
