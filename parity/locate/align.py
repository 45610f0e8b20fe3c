"""Tensors of two graphs aligned by value, and the place where the graphs part.

Tensors correspond if their fingerprints can be of the same numbers, within the rounding bound of
JAX's: so whatever names, layouts and fusions there are, what both compute is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from parity.locate.partly import in_parts, proportional
from parity.sides.tensors import MEAN, PHASES, Graph, Traced


@dataclass(frozen=True)
class Pairing:
    """Which tensors of JAX's graph each of Torch's may be, and the reverse.

    of_torch, of_jax: those of the same numbers. parts_torch, parts_jax: where there are none, those
    that it is made of, besides zeros: queries, keys and values of one product. scaled_torch,
    scaled_jax: where there are none either, that of the same numbers but for a factor, the other
    side's over its own.
    internal_jax, internal_torch: numbers of tensors that have no partner in a step of the same two
    graphs that agrees: of them one side has more than the other, and that means nothing.
    """

    jax: Graph
    torch: Graph
    of_torch: dict[int, list[int]]
    of_jax: dict[int, list[int]]
    internal_jax: frozenset[int] = frozenset()
    internal_torch: frozenset[int] = frozenset()
    parts_torch: dict[int, tuple[int, ...]] = field(default_factory=dict)
    parts_jax: dict[int, tuple[int, ...]] = field(default_factory=dict)
    scaled_torch: dict[int, tuple[int, float]] = field(default_factory=dict)
    scaled_jax: dict[int, tuple[int, float]] = field(default_factory=dict)

    @cached_property
    def share(self) -> float:
        """Of Torch's computed tensors, those with a partner, in parts or but for a factor too."""
        computed = [self.torch.origin(t.number) for t in self.torch.computed]
        there = self.agreeing["torch"] | self.scaled_torch.keys()
        return sum(n in there for n in computed) / max(1, len(computed))

    def graph(self, side: str) -> Graph:
        return self.jax if side == "jax" else self.torch

    def internal(self, side: str) -> frozenset[int]:
        return self.internal_jax if side == "jax" else self.internal_torch

    def knowing(self, before: Pairing) -> Pairing:
        """This pairing, with what an agreeing step before it shows to be internal to one side."""

        def lone(old: Graph, new: Graph, partners: dict[int, list[int]]) -> frozenset[int]:
            same = [t.op for t in old.tensors] == [t.op for t in new.tensors]
            return frozenset(t.number for t in old.tensors if same and t.number not in partners)

        return replace(
            self,
            internal_jax=lone(before.jax, self.jax, before.of_jax),
            internal_torch=lone(before.torch, self.torch, before.of_torch),
        )

    def partners(self, side: str) -> dict[int, list[int]]:
        return self.of_jax if side == "jax" else self.of_torch

    def scaled(self, side: str) -> dict[int, tuple[int, float]]:
        return self.scaled_jax if side == "jax" else self.scaled_torch

    @cached_property
    def agreeing(self) -> dict[str, frozenset[int]]:
        """Tensors of each side that the other has: alone, in parts, or as a part."""
        torch = self.of_torch.keys() | self.parts_torch.keys()
        jax = self.of_jax.keys() | self.parts_jax.keys()
        torch |= {n for parts in self.parts_jax.values() for n in parts}
        jax |= {n for parts in self.parts_torch.values() for n in parts}
        return {"torch": frozenset(torch), "jax": frozenset(jax)}


def paired_tensors(jax: Graph, torch: Graph) -> Pairing:
    """All pairs of tensors whose numbers agree; layouts of a tensor count as that tensor."""
    of_torch: dict[int, list[int]] = {}
    of_jax: dict[int, list[int]] = {}
    there = [t for t in jax.tensors if t.moved is None and len(t.fingerprint.low)]
    if not there:
        return Pairing(jax, torch, of_torch, of_jax)
    low = np.stack([t.fingerprint.low for t in there])
    high = np.stack([t.fingerprint.high for t in there])
    known = np.array([t.depends for t in there])
    masks = np.array([t.boolean for t in there])
    ones = np.where(masks, low[:, MEAN], np.nan)
    for t in torch.tensors:
        if t.moved is not None or not len(t.fingerprint.low):
            continue
        meets = t.fingerprint.meets(low, high)
        if t.boolean:  # what one side lets through, the other may leave out
            meets |= np.abs(1 - t.fingerprint.low[MEAN] - ones) < 1e-9
        for i in np.flatnonzero((known == t.depends) & meets):
            of_torch.setdefault(t.number, []).append(there[i].number)
            of_jax.setdefault(there[i].number, []).append(t.number)
    found = Pairing(jax, torch, of_torch, of_jax)
    for graph, of, other, taken, parts, scaled in (
        (torch, of_torch, jax, of_jax, found.parts_torch, found.scaled_torch),
        (jax, of_jax, torch, of_torch, found.parts_jax, found.scaled_jax),
    ):
        lone = [t for t in graph.own if t.number not in of]
        parts |= in_parts(lone, other.own)
        nearest = sorted(other.own, key=lambda t: t.number in taken)  # noqa: B023
        scaled |= proportional([t for t in lone if t.number not in parts], nearest)
    return found


@dataclass(frozen=True)
class Frontier:
    """Where one graph leaves the other: first are the operations all of whose operands agree,
    agreeing the operands, region all tensors behind them without a partner; internal: {operation:
    what is internal to this side between it and the operands, the nearest first}."""

    first: list[Traced]
    agreeing: list[Traced]
    region: list[Traced]
    internal: dict[int, list[Traced]]
    wrong: tuple[int, ...] = ()  # whence it was walked


def frontier(pairing: Pairing, side: str, wrong: Iterable[int], phase: str) -> Frontier:
    """Walk from wrong tensors of a phase back to the latest that agree; earlier phases do."""
    graph, there, wrong = pairing.graph(side), pairing.agreeing[side], tuple(wrong)
    tensors = graph.tensors

    def agrees(t: Traced) -> bool:
        before = PHASES.index(t.phase) < PHASES.index(phase)
        return bool(t.given) or not t.depends or t.number in there or before or t.clock

    internal = pairing.internal(side)
    passed: dict[int, list[Traced]] = {}

    def made_of(t: Traced, whole: Traced | None = None) -> Iterator[Traced]:
        """Its operands; behind an internal one, that one's."""
        for i in t.inputs:
            origin = tensors[graph.origin(i)]
            if not agrees(origin) and origin.number in internal and origin.number not in roots:
                passed.setdefault((whole or t).number, []).append(origin)
                yield from made_of(origin, whole or t)
            else:
                yield origin

    region: dict[int, Traced] = {}
    agreeing: dict[int, Traced] = {}
    first: list[Traced] = []
    waiting = [graph.origin(n) for n in wrong]
    roots = set(waiting)
    while waiting:
        number = waiting.pop()
        t = tensors[number]
        if not t.depends or number in region or (agrees(t) and number not in roots):
            continue
        region[number] = t
        before = list(made_of(t))
        waiting += [b.number for b in before if not agrees(b)]
        if all(map(agrees, before)):
            first.append(t)
    first.sort(key=lambda t: t.number)
    for t in first:
        agreeing |= {operand.number: operand for operand in made_of(t)}
    behind = sorted(region.values(), key=lambda t: t.number)
    return Frontier(first, [*agreeing.values()], behind, passed, wrong)
