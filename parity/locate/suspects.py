"""Which operations, where two graphs part, are the likeliest to be wrong."""

from __future__ import annotations

from collections.abc import Iterable

from parity.locate.align import Frontier, Pairing
from parity.locate.kinds import EACH, kind, size
from parity.locate.moves import LAYOUTS, done_there, movers, plain, turns
from parity.locate.scaling import scaling
from parity.sides.tensors import Graph, Traced


def suspects(pairing: Pairing, side: str, found: Frontier, others: Frontier) -> list[Traced]:
    """Tensors of one side, the likeliest first.

    First come operations that part. Before them, where the other side does the same operation to
    the same operands, what laid these out, and weights; an operand for which the other side has
    another one beside the same first; a mask that the other side lacks, or has in another order;
    where a result has the right numbers, what laid these out. After them, constants among their
    operands that the other side lacks, operands that the other side doesn't use there, what moved
    their operands, what was given to them, and operations behind. Of what moves numbers, that comes
    last which the other side does, too.
    """
    graph, partners = pairing.graph(side), pairing.partners(side)
    agreeing = {t.number for t in others.agreeing}
    ranked: list[tuple[float, Traced]] = []
    for t in found.first:
        twin = next((o for o in others.first if _twins(pairing, side, t, o)), None)
        operands = [graph.tensors[graph.origin(i)] for i in t.inputs]
        ranked += scaling(pairing, side, t, found, others) or [(0.9 if t.boolean else 1.0, t)]
        if t.number in pairing.agreeing[side] and kind(t) == "add":  # of 0: a first step's memory
            same = [o for o in operands if o.fingerprint.same(t.fingerprint)]
            ranked += [(0.9, o) for o in same if o.phase == t.phase]
        ranked += [(3, inner) for inner in found.internal.get(t.number, ())]
        ranked += [(0.9, o) for o in _replaced(pairing, side, t, others)]
        ranked += [(1.5, o) for o in _product_before(graph, t) if twin]
        for i, origin in zip(t.inputs, operands, strict=True):
            lone = origin.number not in partners
            if not origin.depends and origin.shape and lone:
                made = _made_of(graph.tensors, graph.tensors[i])
                if origin.boolean:
                    ranked += [(0, c) for c in made if c.moved is None]
                ranked += [(2, c) for c in made]
            elif origin.clock:
                ranked += [(6, c) for c in _made_of(graph.tensors, graph.tensors[i])]
            elif not lone and not origin.given and not agreeing & {*partners[origin.number]}:
                ranked.append((2, origin))  # the same as another tensor than the one used there
            wider = kind(t) in EACH and size(t) > max(map(size, operands))
            moves = [
                m for m in movers(graph, i) if wider and m.op in LAYOUTS or turns(graph, m, t.phase)
            ]
            if twin and "turned round" in (*t.settings, *twin.settings):
                moves = [m for m in moves if m.op not in ("rev", "flip")]
            ranks = [(plain(m) if twin else 3) + done_there(pairing, side, m) / 10 for m in moves]
            ranked += zip(ranks, moves, strict=True)
            if kind(origin) == "product":  # its axes may have come out in another order
                ranked += [(r + 0.3, origin) for r in ranks[:1]]
            given = origin.given and not origin.given.startswith("input")
            ranked += [(0.5 if twin else 4, origin)] if given else []
        ranked += [(0.4, c) for c in _turned_mask(pairing, side, t, others)]
    ranked += [(0.8, t) for t in _held(pairing, side, others)]
    ranked += [(0.2, m) for m in _laid_wrongly(pairing, side, found)]
    ranked += [(5, t) for t in found.region]
    return [t for _, t in sorted(ranked, key=lambda r: r[0])]


def _laid_wrongly(pairing: Pairing, side: str, found: Frontier) -> list[Traced]:
    """What laid out a wrong result, if it has the right numbers in another order."""
    graph = pairing.graph(side)
    there = [n for n in found.wrong if graph.origin(n) in pairing.partners(side)]
    return [m for n in there for m in movers(graph, n) if turns(graph, m, m.phase)]


def _replaced(pairing: Pairing, side: str, t: Traced, others: Frontier) -> list[Traced]:
    """Operands for which the other side has another one, beside one that is the same."""
    graph, partners = pairing.graph(side), pairing.partners(side)
    there = pairing.graph("torch" if side == "jax" else "jax")
    own = [o for o in (graph.tensors[graph.origin(i)] for i in t.inputs) if o.depends]
    # Not in an optimiser, whose formulas are written in many orders.
    each = kind(t) in EACH and len(own) == 2 and t.phase != "optimiser"
    for other in others.region if each else ():
        left = [there.origin(i) for i in other.inputs if there.tensors[i].depends]
        if kind(other) != kind(t) or other.phase != t.phase or len(left) != 2:
            continue
        lone = []
        for o in own:
            same = next((n for n in left if n in partners.get(o.number, ())), None)
            if same is None:
                lone.append(o)
            else:
                left.remove(same)
        if len(lone) != 1 or lone[0].given or lone[0].number not in partners:
            continue
        used = {there.origin(i) for o in others.region if o is not other for i in o.inputs}
        if not used & {*partners[lone[0].number]}:  # nor in another order of factors or summands
            return lone
    return []


def _turned_mask(pairing: Pairing, side: str, t: Traced, others: Frontier) -> list[Traced]:
    """What made a mask with the right numbers, if the other side chooses among the same by it."""
    graph, partners = pairing.graph(side), pairing.partners(side)
    there = pairing.graph("torch" if side == "jax" else "jax")
    if kind(t) != "select":
        return []
    for other in (o for o in others.first if kind(o) == "select"):
        theirs = {there.origin(i) for i in other.inputs}
        own = [graph.tensors[graph.origin(i)] for i in t.inputs]
        wide = [o for o in own if o.depends]
        same = all(theirs & {*partners.get(o.number, ())} for o in wide)
        if same and _filled(graph, t) == _filled(there, other):
            masks = [o for o in own if o.boolean and not o.depends and o.number in partners]
            return [c for mask in masks for c in _made_of(graph.tensors, mask)]
    return []


def _filled(graph: Graph, t: Traced) -> set[float]:
    """Numbers that stand in a choice for all elements of a side."""
    operands = [graph.tensors[graph.origin(i)] for i in t.inputs]
    numbers = {o.fingerprint.number for o in operands if not o.depends and not o.boolean}
    return numbers | {*t.scalars}


def _product_before(graph: Graph, t: Traced) -> list[Traced]:
    """Of a reduction, the product that its operand comes from, by one number at a time, and what
    moved the product's operands: they may have changed places."""
    if kind(t) not in ("largest", "sum"):
        return []
    while kind(t) != "product":
        wide = [o for o in (graph.tensors[graph.origin(i)] for i in t.inputs) if o.depends]
        if len(wide) != 1:
            return []
        t = wide[0]
    return [t, *(m for i in t.inputs for m in movers(graph, i) if turns(graph, m, t.phase))]


def _held(pairing: Pairing, side: str, others: Frontier) -> Iterable[Traced]:
    """Where a gradient was stopped, which leaves no operation: the other side alone has its
    product, though this side has both operands; the product of the forward pass that takes one."""
    graph, other = pairing.graph(side), "torch" if side == "jax" else "jax"
    there, partners = pairing.graph(other), pairing.partners(other)
    for t in others.first:
        if kind(t) != "product" or t.phase != "backward":
            continue
        operands = [there.tensors[there.origin(i)] for i in t.inputs]
        own = [{*partners.get(o.number, ())} for o in operands]
        takes = {
            u.number: {graph.origin(i) for i in u.inputs} for u in graph.own if kind(u) == "product"
        }
        if not all(own) or any(all(o & taken for o in own) for taken in takes.values()):
            continue
        first = [o for o, operand in zip(own, operands, strict=True) if operand.phase == "forward"]
        for number, taken in takes.items():
            if graph.tensors[number].phase == "forward" and any(o & taken for o in first):
                yield graph.tensors[number]


def _twins(pairing: Pairing, side: str, t: Traced, other: Traced) -> bool:
    """Whether both sides do the same operation to the same operands."""
    same, graph = kind(t), pairing.graph(side)
    there = pairing.graph("torch" if side == "jax" else "jax")
    if same is None or same != kind(other) or _factors(t) != _factors(other):
        return False
    if same == "sum" and t.fingerprint.constant != other.fingerprint.constant:
        return False
    if same == "sum" and size(t) != size(other):
        return False
    if same == "convolution" and not _same_window(pairing, side, t, other):
        return False
    operands = [graph.tensors[graph.origin(i)] for i in t.inputs]
    if same not in ("sum", "convolution"):
        return all(o.depends and not o.clock for o in operands)
    theirs = {there.origin(i) for i in other.inputs}
    partners = pairing.partners(side)
    own = [graph.origin(i) for i in t.inputs]
    found = [bool(theirs & {*partners.get(n, ())}) for n in own if graph.tensors[n].depends]
    return bool(found) and sum(found) >= min(len(found), len(theirs))


def _factors(t: Traced) -> set[float]:
    return {x for x in t.scalars if x != 1} if kind(t) in EACH else set()


def _same_window(pairing: Pairing, side: str, t: Traced, other: Traced) -> bool:
    """A transposed convolution of Torch's turns its kernel round, which JAX does beforehand."""
    jax, torch = (t, other) if side == "jax" else (other, t)
    *window, turned = (*torch.settings, "") if len(torch.settings) == 5 else torch.settings
    if tuple(window) != jax.settings:
        return False
    graph = pairing.jax
    before = [m.op for i in jax.inputs for m in movers(graph, i)]
    return bool(turned) == ("rev" in before) or not turned


def _made_of(tensors: list[Traced], t: Traced) -> Iterable[Traced]:
    """A constant and what it was made of, the last first."""
    found, waiting = [], [t]
    while waiting:
        t = waiting.pop(0)
        if t not in found:
            found.append(t)
            waiting += [tensors[i] for i in t.inputs]
    return found
