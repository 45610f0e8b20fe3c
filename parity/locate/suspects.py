"""Which operations, where two graphs part, are the likeliest to be wrong."""

from __future__ import annotations

from collections.abc import Iterable

from parity.locate.align import Frontier, Pairing
from parity.sides.tensors import Graph, Traced

# The same operation by its names on both sides. Without settings, or with the same, it gives of the
# same operands the same numbers, if these lie alike.
_KINDS = {"mul": "mul", "add": "add", "sub": "sub", "div": "div", "tanh": "tanh", "exp": "exp",
          "log": "log", "sigmoid": "sigmoid", "logistic": "sigmoid", "mm": "product",
          "bmm": "product", "matmul": "product", "dot_general": "product",
          "max": "relu", "relu": "relu", "convolution": "convolution",
          "conv_general_dilated": "convolution", "sum": "sum", "mean": "sum", "prims.sum": "sum",
          "var": "sum", "prims.var": "sum", "reduce_sum": "sum"}  # fmt: skip
_MOVERS = {"concatenate", "cat", "stack", "slice", "split", "rev", "flip", "gather", "index",
           "dynamic_slice", "pad", "select", "roll", "index_select", "unbind"}  # fmt: skip
_SCANS = {"step of scan", "steps of scan"}
_EACH = {"mul", "add", "sub", "div"}
_LAYOUTS = {"reshape", "transpose", "view", "permute", "_unsafe_view", "t", "squeeze"}


def suspects(pairing: Pairing, side: str, found: Frontier, others: Frontier) -> list[Traced]:
    """Tensors of one side, the likeliest first.

    First come operations that part. Before them, where the other side does the same operation to
    the same operands, what laid these out, and weights; and a mask that the other side lacks. After
    them, constants among their operands that the other side lacks, operands that the other side
    doesn't use there, what moved their operands, what was given to them, and operations behind.
    """
    graph, partners = pairing.graph(side), pairing.partners(side)
    agreeing = {t.number for t in others.agreeing}
    ranked: list[tuple[float, Traced]] = []
    for t in found.first:
        twin = next((o for o in others.first if _twins(pairing, side, t, o)), None)
        operands = [graph.tensors[graph.origin(i)] for i in t.inputs]
        ranked += _scaling(pairing, side, t, found, others) or [(0.9 if t.boolean else 1.0, t)]
        if t.number in pairing.agreeing[side] and kind(t) == "add":  # of 0: a first step's memory
            same = [o for o in operands if o.fingerprint.same(t.fingerprint)]
            ranked += [(0.9, o) for o in same if o.phase == t.phase]
        ranked += [(3, inner) for inner in found.internal.get(t.number, ())]
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
            wider = kind(t) in _EACH and _size(t) > max(map(_size, operands))
            moves = [
                m
                for m in _movers(graph, i)
                if wider and m.op in _LAYOUTS or _turns(graph, m, t.phase)
            ]
            if twin and "turned round" in (*t.settings, *twin.settings):
                moves = [m for m in moves if m.op not in ("rev", "flip")]
            ranked += [(_plain(m) if twin else 3, m) for m in moves]
            given = origin.given and not origin.given.startswith("input")
            ranked += [(0.5 if twin else 4, origin)] if given else []
    ranked += [(0.8, t) for t in _held(pairing, side, others)]
    ranked += [(5, t) for t in found.region]
    return [t for _, t in sorted(ranked, key=lambda r: r[0])]


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


def kind(t: Traced) -> str | None:
    return _KINDS.get(t.op.removesuffix("_"))


def _twins(pairing: Pairing, side: str, t: Traced, other: Traced) -> bool:
    """Whether both sides do the same operation to the same operands."""
    same, graph = kind(t), pairing.graph(side)
    there = pairing.graph("torch" if side == "jax" else "jax")
    if same is None or same != kind(other) or _factors(t) != _factors(other):
        return False
    if same == "sum" and t.fingerprint.constant != other.fingerprint.constant:
        return False
    if same == "sum" and _size(t) != _size(other):
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
    return {x for x in t.scalars if x != 1} if kind(t) in _EACH else set()


def _size(t: Traced) -> int:
    size = 1
    for n in t.shape:
        size *= n
    return size


def _same_window(pairing: Pairing, side: str, t: Traced, other: Traced) -> bool:
    """A transposed convolution of Torch's turns its kernel round, which JAX does beforehand."""
    jax, torch = (t, other) if side == "jax" else (other, t)
    *window, turned = (*torch.settings, "") if len(torch.settings) == 5 else torch.settings
    if tuple(window) != jax.settings:
        return False
    graph = pairing.jax
    before = [m.op for i in jax.inputs for m in _movers(graph, i)]
    return bool(turned) == ("rev" in before) or not turned


def _scaling(
    pairing: Pairing, side: str, t: Traced, found: Frontier, others: Frontier
) -> list[tuple[float, Traced]]:
    """Of an operation whose result the other side has but for a factor; empty of any other.

    It may be right, if what comes later puts it right. So those behind it are followed for as long
    as they differ by a factor alone. Where the other side does what comes then, too, the last is
    suspect that changed the factor, and by a number that the other side doesn't use; otherwise what
    comes then.
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
    used = {x for o in others.region for x in o.scalars}

    def changes(u: Traced) -> bool:
        before = [scaled.get(n, (0, 1.0))[1] for n in map(graph.origin, u.inputs)]
        return all(abs(scaled[u.number][1] / f - 1) > 1e-9 for f in before)

    new = [u for u in chain if changes(u) and not (u.scalars and used.issuperset(u.scalars))]
    if any(kind(u) in ("add", "sub") and not _done_there(pairing, side, u, others) for u in after):
        first, rest = after, chain
    else:
        first = (new or chain)[-1:]
        rest = [*after, *(u for u in chain if u not in first)]
    return [*((1.0, u) for u in first), *((2.0, u) for u in rest)]


def _done_there(pairing: Pairing, side: str, t: Traced, others: Frontier) -> bool:
    """Whether the other side does this, too, to the same operands but for factors."""
    graph, partners, scaled = pairing.graph(side), pairing.partners(side), pairing.scaled(side)
    there = pairing.graph("torch" if side == "jax" else "jax")
    wide = [n for n in map(graph.origin, t.inputs) if graph.tensors[n].depends]
    same = [{*partners.get(n, ()), *scaled.get(n, ())[:1]} for n in wide]
    return any(n in partners for n in wide) and any(
        kind(o) == kind(t) and all(s & {there.origin(i) for i in o.inputs} for s in same)
        for o in others.region
    )


def _turns(graph: Graph, t: Traced, phase: str) -> bool:
    """Whether an operation of a phase may change the order of numbers: no mere copy, nor a longer
    shape."""
    if t.inside or t.phase != phase:
        return False
    if t.op in _MOVERS:
        return True
    if t.op not in _LAYOUTS:
        return False
    before = [n for n in graph.tensors[t.inputs[0]].shape if n > 1]
    return before != [n for n in t.shape if n > 1]


def _plain(t: Traced) -> float:
    """A rank: axes that change places are what frameworks' conventions ask for."""
    return 0.7 if t.op in ("transpose", "permute", "t") else 0.0


def _movers(graph: Graph, number: int) -> list[Traced]:
    """Operations that only move numbers, from a tensor backwards."""
    found: dict[int, Traced] = {}
    waiting = [number]
    while waiting:
        number = waiting.pop(0)
        found |= {n: graph.tensors[n] for n in graph.layouts(number)}
        t = graph.tensors[graph.origin(number)]
        if t.op in _MOVERS | _SCANS and t.number not in found:
            found[t.number] = t
            waiting += t.inputs
    return [t for t in found.values() if t.op not in _SCANS]


def _made_of(tensors: list[Traced], t: Traced) -> Iterable[Traced]:
    """A constant and what it was made of, the last first."""
    found, waiting = [], [t]
    while waiting:
        t = waiting.pop(0)
        if t not in found:
            found.append(t)
            waiting += [tensors[i] for i in t.inputs]
    return found
