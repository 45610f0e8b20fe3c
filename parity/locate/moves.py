"""Operations that only move numbers: which of them may have put these in another order."""

from __future__ import annotations

from parity.locate.align import Pairing
from parity.sides.tensors import Graph, Traced

MOVERS = {"concatenate", "cat", "stack", "slice", "split", "rev", "flip", "gather", "index",
          "dynamic_slice", "pad", "select", "roll", "index_select", "unbind", "tile", "repeat",
          "repeat_interleave"}  # fmt: skip
LAYOUTS = {"reshape", "transpose", "view", "permute", "_unsafe_view", "t", "squeeze"}
_JOINS = {"concatenate", "cat", "stack"}
_TAKES = {"slice", "split", "unbind", "select", "dynamic_slice"}
_TURNED = {"transpose", "permute", "t"}
_SCANS = {"step of scan", "steps of scan"}


def turns(graph: Graph, t: Traced, phase: str) -> bool:
    """Whether an operation of a phase may change the order of numbers: no mere copy, nor a longer
    shape."""
    if t.inside or t.phase != phase:
        return False
    if t.op in MOVERS:
        return True
    if t.op not in LAYOUTS:
        return False
    return _long(graph.tensors[t.inputs[0]]) != _long(t)


def movers(graph: Graph, number: int) -> list[Traced]:
    """Operations that only move numbers, from a tensor backwards."""
    found: dict[int, Traced] = {}
    waiting = [number]
    while waiting:
        number = waiting.pop(0)
        found |= {n: graph.tensors[n] for n in graph.layouts(number)}
        t = graph.tensors[graph.origin(number)]
        if t.op in MOVERS | _SCANS and t.number not in found:
            found[t.number] = t
            waiting += t.inputs
    return [t for t in found.values() if t.op not in _SCANS]


def done_there(pairing: Pairing, side: str, t: Traced) -> bool:
    """Whether the other side moves the same numbers so, too: joins the same in the same order, cuts
    and shapes by the same sizes. Axes that change places are told apart by no size."""
    if t.op in _TURNED:
        return False
    graph, there = pairing.graph(side), pairing.graph("torch" if side == "jax" else "jax")
    partners = pairing.partners(side)

    def alike(o: Traced) -> bool:
        if o.inside or o.phase != t.phase:
            return False
        if t.op in _JOINS:
            own = [{*partners.get(graph.origin(i), ())} for i in t.inputs]
            theirs = [there.origin(i) for i in o.inputs]
            same = len(own) == len(theirs) and all(
                n in mine for mine, n in zip(own, theirs, strict=True)
            )
            return o.op in _JOINS and same
        before, after = (graph.tensors[t.inputs[0]], t), (there.tensors[o.inputs[0]], o)
        if t.op in _TAKES:
            sizes = [[sorted(_long(x)) for x in both] for both in (before, after)]
            return o.op in _TAKES and sizes[0] == sizes[1]
        return o.op in LAYOUTS and [*map(_long, before)] == [*map(_long, after)]

    return any(alike(o) for o in there.tensors if o.inputs and o.op in MOVERS | LAYOUTS)


def _long(t: Traced) -> list[int]:
    return [n for n in t.shape if n > 1]


def plain(t: Traced) -> float:
    """A rank: axes that change places are what frameworks' conventions ask for."""
    return 0.7 if t.op in _TURNED else 0.0
