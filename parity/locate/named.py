"""Tensors that a user has names for: whether both names stand for the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from parity.locate.align import Pairing
from parity.locate.parting import Place
from parity.sides.tensors import Graph, Traced


@dataclass(frozen=True)
class Named:
    """jax, torch: the names. jax_place, torch_place: the tensors. same: whether the numbers are."""

    jax: str
    torch: str
    jax_place: Place
    torch_place: Place
    same: bool

    def __str__(self) -> str:
        return f"'{self.torch}' and '{self.jax}': {'the same' if self.same else 'other'} numbers"


def named(pairing: Pairing, names: Mapping[str, str]) -> tuple[Named, ...]:
    """What each pair of names {JAX's: Torch's} gave to the rest of the forward pass.

    JAX's: a name stack (jax.named_scope, a Linen module's path), or what jax.ad_checkpoint's
    checkpoint_name called it. Torch's: a module's path; what it gives is what a forward hook sees.
    Raises ValueError for a name that isn't there.
    """
    found = []
    for ours, theirs in names.items():
        j = _last(pairing.jax, ours)
        t = _last(pairing.torch, theirs)
        same = j.number in pairing.of_torch.get(t.number, ())
        found.append(Named(ours, theirs, Place.of(j), Place.of(t), same))
    return tuple(found)


def _last(graph: Graph, name: str) -> Traced:
    """What has the numbers of the last tensor under a name, or under a longer one, that is used
    beyond it in the forward pass: derivatives are computed there, too."""
    forward = [t for t in graph.tensors if t.phase == "forward"]
    within = [t for t in forward if not t.inside and f"{t.module}.".startswith(f"{name}.")]
    if not within:
        there = ", ".join(sorted({t.module for t in forward if t.module})) or "none"
        raise ValueError(f"names: no '{name}' on {graph.side}'s side; there are {there}")
    outside = [t for t in forward if not f"{t.module}.".startswith(f"{name}.")]
    used = {i for t in outside for i in t.inputs}
    last = next((t for t in reversed(within) if t.number in used), within[-1])
    return graph.tensors[graph.origin(last.number)]
