"""Where two models part on numbers that another level found, which data may never have."""

from __future__ import annotations

from copy import copy
from typing import Any, Protocol

from parity.locate.align import Pairing, paired_tensors
from parity.locate.parting import Parting, parting
from parity.rounding.walk import UnsupportedPrimitive
from parity.sides.jax_tensors import jax_tensors
from parity.sides.pairs import JaxSide, TorchSide
from parity.sides.side import ModelFails
from parity.sides.torch_tensors import torch_tensors
from parity.trees import Leaves, Tree


class Start(Protocol):
    """Where a step starts, under the shared names."""

    @property
    def params(self) -> Leaves: ...
    @property
    def state(self) -> Leaves: ...
    @property
    def memory(self) -> Leaves: ...
    @property
    def inputs(self) -> Tree: ...
    @property
    def targets(self) -> Tree: ...


class Witness(Protocol):
    """The first step; and the second, if it's this one that differs."""

    @property
    def steps(self) -> tuple[Start, ...]: ...


def lines_at(jax: JaxSide, torch: TorchSide, of: Witness, infer: bool) -> tuple[str, str] | None:
    """JAX's and Torch's likeliest lines; None where float64 shows no difference, as both are."""
    try:
        apart = parting_at(jax, torch, of, infer)
    except (UnsupportedPrimitive, ModelFails):
        return None
    if apart is None:
        return None
    first = (str(places[0]) if places else "nothing" for places in (apart.jax, apart.torch))
    return tuple(first)  # type: ignore[return-value]


def parting_at(jax: JaxSide, torch: TorchSide, of: Witness, infer: bool) -> Parting | None:
    """Where the last of its steps parts; None where it doesn't, beyond rounding."""
    first, *later = of.steps
    if later:  # what had no partner in a step that agrees is no parting
        before, difference = _paired(jax, torch, (first,), infer)
        return _paired(jax, torch, of.steps, infer, None if difference else before)[1]
    return _paired(jax, torch, of.steps, infer)[1]


def _paired(
    jax: JaxSide,
    torch: TorchSide,
    steps: tuple[Any, ...],
    infer: bool,
    earlier: Pairing | None = None,
) -> tuple[Pairing, Parting | None]:
    last, batches = steps[-1], [(s.inputs, s.targets) for s in steps]
    start = last.params, last.state, last.memory
    graph, value, bound = jax_tensors(jax, batches[-1], start, infer)
    held = copy(torch)
    held._params, held._buffers = dict(torch._params), dict(torch._buffers)
    held.load(steps[0].params, steps[0].state)
    torch_graph, found = torch_tensors(held, batches, start if len(steps) > 1 else None, infer)
    pairing = paired_tensors(graph, torch_graph)
    pairing = pairing.knowing(earlier) if earlier else pairing
    return pairing, parting(pairing, found, value, bound, len(steps) - 1)
