"""What tensors were made of, among those shown: a graph without its layouts and constants."""

from collections.abc import Iterable

from parity.locate.parting import Place
from parity.sides.tensors import Graph

Operands = dict[int, tuple[int | str, ...]]


def operands(graph: Graph, shown: Iterable[Place]) -> Operands:
    """{number: what it was made of} of the places shown: numbers of others, names of the given.

    Behind a tensor that isn't shown stands what that one was made of.
    """
    drawn = {place.number for place in shown}
    sources: Operands = {}  # of every tensor: it alone if it's shown or given
    found: Operands = {}
    for t in graph.tensors:  # what a tensor is made of comes before it
        made_of = tuple(dict.fromkeys(s for i in t.inputs for s in sources[i]))
        if t.number in drawn:
            found[t.number] = made_of
            sources[t.number] = (t.number,)
        else:
            sources[t.number] = (t.given,) if t.given else made_of
    return found
