"""The tensors of one training step of two models, aligned by value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parity.locate.align import Pairing, paired_tensors
from parity.locate.operands import Operands, operands
from parity.locate.parting import Parting, Place, parting
from parity.sides.jax_tensors import jax_tensors
from parity.sides.pairs import JaxSide, TorchSide
from parity.sides.side import Batch
from parity.sides.torch_tensors import torch_tensors


@dataclass(frozen=True)
class Alignment:
    """Which tensors of two steps are the same.

    pairs: (Torch's, JAX's) places of the same numbers, in Torch's order. scaled: those of the same
    but for a factor, JAX's over Torch's. lone_torch, lone_jax: tensors without a partner; inside a
    fused operation of the other side there are some in an honest pair too. share: of Torch's
    tensors, those with a partner. parting: where a result differs beyond rounding; None if none
    does. torch_made_of, jax_made_of: of the tensors named here, by number, those among them that
    each was made of, and names of what was given.
    """

    pairs: tuple[tuple[Place, Place], ...]
    scaled: tuple[tuple[Place, Place, float], ...]
    lone_torch: tuple[Place, ...]
    lone_jax: tuple[Place, ...]
    share: float
    parting: Parting | None
    torch_made_of: Operands
    jax_made_of: Operands

    def __str__(self) -> str:
        lines = [f"{self.share:.0%} of Torch's tensors have a partner in JAX"]
        lines += [f"  {torch}  =  {jax}" for torch, jax in self.pairs]
        lines += [f"  {torch}  =  {jax} / {factor:.6g}" for torch, jax, factor in self.scaled]
        lines += ["  without a partner in JAX:"] if self.lone_torch else []
        lines += [f"    {place}" for place in self.lone_torch]
        lines += [f"  {self.parting}"] if self.parting else []
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def aligned(
    jax: JaxSide, torch: TorchSide, batches: Sequence[Batch], infer: bool = False
) -> Alignment:
    """Align the last of some training steps, a batch each, from what both sides hold.

    Before the last step Torch is given JAX's parameters, state and optimiser state, so that
    rounding doesn't add up. infer: the forward pass alone, of the last batch. Both sides at
    float64. Raises UnsupportedPrimitive.
    """
    pairing, apart = _paired(jax, torch, batches, infer)
    if apart and len(batches) > 1:  # what had no partner before, either, is no parting
        before, difference = _paired(jax, torch, batches[:-1], infer)
        if difference is None:
            pairing, apart = _paired(jax, torch, batches, infer, before)
    return _alignment(pairing, apart)


def _paired(
    jax: JaxSide,
    torch: TorchSide,
    batches: Sequence[Batch],
    infer: bool,
    known: Pairing | None = None,
) -> tuple[Pairing, Parting | None]:
    """The last of some steps. known: a step before it, that agrees."""
    start: Any = (*jax.held(), jax.memory() if not infer else {})
    before = () if infer else batches[:-1]
    for inputs, targets in before:
        params, statistics, memory = start
        after = jax.step(params, statistics, memory, jax.repeated(inputs, targets))
        parts = after["step"], statistics | after["state"], after["memory"]
        start = tuple({name: np.asarray(leaf) for name, leaf in part.items()} for part in parts)
    graph, value, bound = jax_tensors(jax, batches[-1], start, infer)
    torch_graph, found = torch_tensors(torch, batches, start if before else None, infer)
    pairing = paired_tensors(graph, torch_graph)
    pairing = pairing.knowing(known) if known else pairing
    return pairing, parting(pairing, found, value, bound, step=len(before))


def _alignment(pairing: Pairing, apart: Parting | None) -> Alignment:
    torch, jax = pairing.torch, pairing.jax
    pairs, scaled, lone = [], [], []
    for t in torch.computed:
        if t.number in pairing.scaled_torch:
            number, factor = pairing.scaled_torch[t.number]
            scaled.append((Place.of(t), Place.of(jax.tensors[number]), factor))
            continue
        parts = pairing.parts_torch.get(t.number, ())
        pairs += [(Place.of(t), Place.of(jax.tensors[n])) for n in parts]
        if parts:
            continue
        partners = pairing.of_torch.get(torch.origin(t.number), [])
        if not partners:
            lone.append(Place.of(t))
            continue
        # Of several with the same numbers, that of the same phase.
        same = [n for n in partners if jax.tensors[n].phase == t.phase] or partners
        pairs.append((Place.of(t), Place.of(jax.tensors[same[0]])))
    there = pairing.agreeing["jax"] | pairing.scaled_jax.keys()
    rest = [Place.of(t) for t in jax.computed if t.number not in there]
    both = tuple(pairs), tuple(scaled)
    theirs = [*(t for t, _ in pairs), *(t for t, *_ in scaled), *lone]
    ours = [*(j for _, j in pairs), *(j for _, j, _ in scaled), *rest]
    if apart:
        theirs += [*apart.torch, *(t for t, _ in apart.agreeing)]
        ours += [*apart.jax, *(j for _, j in apart.agreeing)]
    made_of = operands(torch, theirs), operands(jax, ours)
    return Alignment(*both, tuple(lone), tuple(rest), pairing.share, apart, *made_of)
