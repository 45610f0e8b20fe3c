"""Tensors of two graphs aligned by value, and the place where the graphs part.

Tensors correspond if their fingerprints can be of the same numbers, within the rounding bound of
JAX's: so whatever names, layouts and fusions there are, what both compute is found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from parity.sides.tensors import PHASES, Graph, Traced


@dataclass(frozen=True)
class Pairing:
    """Which tensors of JAX's graph each of Torch's may be, and the reverse.

    internal_jax, internal_torch: numbers of tensors that have no partner in a step of the same two
    graphs that agrees: of them one side has more than the other, and that means nothing.
    """

    jax: Graph
    torch: Graph
    of_torch: dict[int, list[int]]
    of_jax: dict[int, list[int]]
    internal_jax: frozenset[int] = frozenset()
    internal_torch: frozenset[int] = frozenset()

    @cached_property
    def share(self) -> float:
        """Of Torch's computed tensors, those with a partner."""
        computed = self.torch.computed
        return sum(self.torch.origin(t.number) in self.of_torch for t in computed) / max(
            1, len(computed)
        )

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


def paired_tensors(jax: Graph, torch: Graph) -> Pairing:
    """All pairs of tensors whose numbers agree; layouts of a tensor count as that tensor."""
    of_torch: dict[int, list[int]] = {}
    of_jax: dict[int, list[int]] = {}
    there = [t for t in jax.tensors if t.moved is None and t.shape.count(0) == 0]
    sizes = [len(t.fingerprint.low) for t in there]
    there = [t for t, size in zip(there, sizes, strict=True) if size]
    if not there:
        return Pairing(jax, torch, of_torch, of_jax)
    low = np.stack([t.fingerprint.low for t in there])
    high = np.stack([t.fingerprint.high for t in there])
    known = np.array([t.depends for t in there])
    for t in torch.tensors:
        if t.moved is not None or not len(t.fingerprint.low):
            continue
        for i in np.flatnonzero((known == t.depends) & t.fingerprint.meets(low, high)):
            of_torch.setdefault(t.number, []).append(there[i].number)
            of_jax.setdefault(there[i].number, []).append(t.number)
    return Pairing(jax, torch, of_torch, of_jax)


def proportional(pairing: Pairing) -> dict[int, tuple[int, float]]:
    """{number in Torch's graph: (number in JAX's, factor)} of tensors whose numbers agree but for a
    positive factor. Of fewer than 8 numbers, and of those with a partner, none."""

    def middle(t: Traced) -> np.ndarray:
        return (t.fingerprint.low + t.fingerprint.high) / 2

    def usable(t: Traced) -> bool:
        finite = np.all(np.isfinite(t.fingerprint.low)) and np.all(np.isfinite(t.fingerprint.high))
        return bool(np.prod(t.shape) >= 8 and finite and not t.fingerprint.constant)

    there = [t for t in pairing.jax.computed if usable(t)]
    found: dict[int, tuple[int, float]] = {}
    if not there:
        return found
    middles = np.stack([middle(t) for t in there])
    rooms = np.stack([t.fingerprint.high - t.fingerprint.low for t in there]) / 2
    for t in pairing.torch.computed:
        if pairing.torch.origin(t.number) in pairing.of_torch or not usable(t):
            continue
        own, room = middle(t), (t.fingerprint.high - t.fingerprint.low) / 2
        at = int(np.argmax(np.abs(own)))
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = middles[:, at] / own[at]
            both = rooms + np.abs(factor)[:, None] * room
            off = (both[:, at] / np.abs(middles[:, at]))[:, None] * np.abs(middles)
            near = np.abs(middles - factor[:, None] * own) <= both + off
        if len(hits := np.flatnonzero(near.all(axis=1) & (factor > 0))):
            found[t.number] = there[hits[0]].number, float(factor[hits[0]])
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


def frontier(pairing: Pairing, side: str, wrong: Iterable[int], phase: str) -> Frontier:
    """Walk from wrong tensors of a phase back to the latest that agree; earlier phases do."""
    graph, partners = pairing.graph(side), pairing.partners(side)
    tensors = graph.tensors

    def agrees(t: Traced) -> bool:
        before = PHASES.index(t.phase) < PHASES.index(phase)
        return bool(t.given) or not t.depends or t.number in partners or before or t.clock

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
    return Frontier(first, [*agreeing.values()], behind, passed)
