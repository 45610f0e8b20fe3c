"""Where two evaluations of one draw part: the first operation that gives what the other side lacks.

Values are known by the set of their residues, so that layouts and broadcasts of a tensor count as
that tensor; no names and no shapes are compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.identity.chain import Prime
from parity.identity.number import Field
from parity.lines import shortened

Key = tuple[int, bytes]  # (part, its residues)


@dataclass(frozen=True)
class Node:
    """An operation. line: "file:line (function)", the user's where there is one. takes, gives: the
    keys of each operand that isn't constant, and of the results."""

    op: str
    line: str
    takes: tuple[frozenset[Key], ...]
    gives: frozenset[Key]
    near: frozenset[Key]  # of the results, but for a factor

    def __str__(self) -> str:
        return f"{self.op} at {shortened(self.line)}" if self.line else self.op


@dataclass
class Lines:
    """All operations of one side, in the order of evaluation."""

    primes: Sequence[Prime]
    nodes: list[Node] = field(default_factory=list)
    known: set[Key] = field(default_factory=set)
    made: dict[Key, int] = field(default_factory=dict)
    _kept: dict[int, tuple[Field, frozenset[Key]]] = field(default_factory=dict)

    def given(self, fields: Iterable[object]) -> None:
        """What was drawn."""
        for one in fields:
            if isinstance(one, Field):
                self.known |= self.keys(one)

    def note(
        self, op: str, line: str, operands: Iterable[object], results: Iterable[object]
    ) -> None:
        """An operation, by what it takes and gives; what isn't drawn from is left out."""
        takes = tuple(self.keys(x) for x in operands if isinstance(x, Field) and x.const is None)
        for x in results:
            if not isinstance(x, Field) or x.const is not None:
                continue
            gives = self.keys(x)
            if any(gives & one for one in takes):  # it was only laid out otherwise
                continue
            for key in gives:
                self.made.setdefault(key, len(self.nodes))
            self.known |= gives
            self.nodes.append(Node(op, line, takes, gives, self._near(x)))

    def keys(self, x: Field) -> frozenset[Key]:
        """One for each part."""
        if id(x) not in self._kept:
            found = frozenset((k, np.unique(v).tobytes()) for k, v in x.parts.items())
            self._kept[id(x)] = x, found
        return self._kept[id(x)][1]

    def _near(self, x: Field) -> frozenset[Key]:
        """Of x over the sum of its different elements."""
        found = set()
        for k, v in x.parts.items():
            each, p = np.unique(v), self.primes[k].p
            total = int(each.sum()) % p
            if len(each) > 1 and total:
                found.add((k, np.sort(each * pow(total, -1, p) % p).tobytes()))
        return frozenset(found)


def first_apart(one: Lines, other: Lines, result: Field) -> Node | None:
    """The operation of `one` from which on a result has nothing that the other side has, too: of
    those whose operands all have a partner, the first that isn't a multiple of one."""
    reached: dict[int, Node] = {}
    waiting = [one.keys(result)]
    while waiting:
        number = next((one.made[k] for k in waiting.pop() if k in one.made), None)
        if number is None or number in reached:
            continue
        reached[number] = one.nodes[number]
        waiting += [keys for keys in one.nodes[number].takes if not keys & other.known]
    first = [
        node
        for _, node in sorted(reached.items())
        if all(keys & other.known for keys in node.takes)
    ]
    near = {key for node in other.nodes for key in node.near}
    return next((n for n in first if not n.near & near), first[0] if first else None)
