"""Operations whose result the other side has but for a factor: what put it there."""

from __future__ import annotations

from parity.locate.align import Frontier, Pairing
from parity.locate.kinds import factors, kind, size
from parity.sides.tensors import Traced

_POWERS = {"sqrt", "rsqrt", "pow", "integer_pow", "square", "reciprocal"}


def scaling(
    pairing: Pairing, side: str, t: Traced, found: Frontier, others: Frontier
) -> list[tuple[float, Traced]]:
    """Of an operation whose result the other side has but for a factor; empty of any other.

    It may be right, if what comes later puts it right. So those behind it are followed for as long
    as they differ by a factor alone. Where the other side does what comes then, too, the last is
    suspect that changed the factor, and by a number that the other side doesn't use; otherwise what
    comes then. A sum with a constant that the other side adds, too, puts nothing right.
    """
    graph, scaled = pairing.graph(side), pairing.scaled(side)
    if t.number not in scaled:
        return []
    users: dict[int, list[Traced]] = {}
    inner = {u.number: u for between in found.internal.values() for u in between}
    for user in ({u.number: u for u in found.region} | inner).values():
        for i in user.inputs:
            users.setdefault(graph.origin(i), []).append(user)
    chain = [t]
    while later := [
        u for u in users.get(chain[-1].number, ()) if u.number in scaled and u not in chain
    ]:
        chain.append(later[0])
    after = [u for u in users.get(chain[-1].number, ()) if u not in chain]
    used = {x for o in others.region for x in factors(o)}

    def changes(u: Traced) -> bool:
        before = [scaled.get(n, (0, 1.0))[1] for n in map(graph.origin, u.inputs)]
        if u.op in _POWERS and any(abs(f - 1) > 1e-9 for f in before):
            return False
        return all(abs(scaled[u.number][1] / f - 1) > 1e-9 for f in before)

    new = [u for u in chain if changes(u) and not (factors(u) and factors(u) <= used)]
    if any(_puts_right(pairing, side, u, others) for u in after):
        first, rest = after, chain
    else:
        first = new[-1:] or after or chain[-1:]
        rest = [*after, *(u for u in chain if u not in first)]
    return [*((1.0, u) for u in first), *((2.0, u) for u in rest)]


def _puts_right(pairing: Pairing, side: str, t: Traced, others: Frontier) -> bool:
    """Whether it's a sum with what the other side has, too, and doesn't add there."""
    graph, there = pairing.graph(side), pairing.agreeing[side] | pairing.scaled(side).keys()
    wide = [n for n in map(graph.origin, t.inputs) if graph.tensors[n].depends]
    known = kind(t) in ("add", "sub") and (t.phase == "optimiser" or all(n in there for n in wide))
    return known and not _done_there(pairing, side, t, others)


def _done_there(pairing: Pairing, side: str, t: Traced, others: Frontier) -> bool:
    """Whether the other side does this, too, to the same operands but for factors."""
    graph, partners, scaled = pairing.graph(side), pairing.partners(side), pairing.scaled(side)
    there = pairing.graph("torch" if side == "jax" else "jax")
    wide = [n for n in map(graph.origin, t.inputs) if graph.tensors[n].depends]
    same = [{*partners.get(n, ()), *scaled.get(n, ())[:1]} for n in wide]
    # In an optimiser a scale may be put right before an epsilon is added, or after it.
    if len(wide) == 1 and t.scalars and t.phase != "optimiser":
        alike = (o for o in others.region if kind(o) == kind(t) and factors(o) == factors(t))
        return any(size(o) == size(t) and o.phase == t.phase for o in alike)
    return any(n in partners for n in wide) and any(
        kind(o) == kind(t) and all(s & {there.origin(i) for i in o.inputs} for s in same)
        for o in others.region
    )
