"""The tensors of one training step of two models, aligned by value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from parity.locate.align import Pairing, paired_tensors
from parity.locate.named import Named, named
from parity.locate.operands import Operands, operands
from parity.locate.parting import Parting, Place, parting
from parity.problem import Known
from parity.sides.jax_tensors import jax_tensors
from parity.sides.pairs import JaxSide, TorchSide
from parity.sides.side import Batch
from parity.sides.torch_tensors import torch_tensors


@dataclass(frozen=True)
class Alignment:
    """Which tensors of two steps are the same.

    pairs: (Torch's, JAX's) places of the same numbers, in Torch's order; of a tensor that the other
    side has in parts, one for each part. scaled: those of the same but for a factor, JAX's over
    Torch's. lone_torch, lone_jax: tensors without a partner; inside a fused operation of the other
    side there are some in an honest pair too. share: of Torch's tensors, those with a partner, a
    factor allowed. parting: where a result differs beyond rounding; None if none does. named: of
    the names that were given, whether they stand for the same numbers. torch_made_of,
    jax_made_of: of the tensors named here, by number, those among them that each was made of, and
    names of what was given.
    """

    pairs: tuple[tuple[Place, Place], ...]
    scaled: tuple[tuple[Place, Place, float], ...]
    lone_torch: tuple[Place, ...]
    lone_jax: tuple[Place, ...]
    share: float
    parting: Parting | None
    torch_made_of: Operands
    jax_made_of: Operands
    named: tuple[Named, ...] = ()

    def __str__(self) -> str:
        but = f", {len(self.scaled)} of them but for a factor" if self.scaled else ""
        lines = [f"{self.share:.0%} of Torch's tensors have a partner in JAX{but}"]
        lines += [f"  {name}" for name in self.named]
        lines += [f"  {torch}  =  {jax}" for torch, jax in self.pairs]
        lines += [f"  {torch}  =  {jax} / {factor:.6g}" for torch, jax, factor in self.scaled]
        lines += ["  without a partner in JAX:"] if self.lone_torch else []
        lines += [f"    {place}" for place in self.lone_torch]
        lines += [f"  {self.parting}"] if self.parting else []
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def aligned(
    jax: JaxSide,
    torch: TorchSide,
    batches: Sequence[Batch],
    infer: bool = False,
    known: Sequence[Known] = (),
    names: Mapping[str, str] | None = None,
) -> Alignment:
    """Align the last of some training steps, a batch each, from what both sides hold.

    Before the last step Torch is given JAX's parameters, state and optimiser state, so that
    rounding doesn't add up. infer: the forward pass alone, of the last batch. known: differences
    that are no parting. names: see `parity.align`. Both sides at float64.
    Raises UnsupportedPrimitive; ValueError for a name that isn't there.
    """
    pairing, apart = _paired(jax, torch, batches, infer, known)
    if apart and len(batches) > 1:  # what had no partner before, either, is no parting
        before, difference = _paired(jax, torch, batches[:-1], infer, known)
        if difference is None:
            pairing, apart = _paired(jax, torch, batches, infer, known, before)
    return _alignment(pairing, apart, named(pairing, names or {}))


def _paired(
    jax: JaxSide,
    torch: TorchSide,
    batches: Sequence[Batch],
    infer: bool,
    known: Sequence[Known],
    earlier: Pairing | None = None,
) -> tuple[Pairing, Parting | None]:
    """The last of some steps. earlier: a step before it, that agrees."""
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
    pairing = pairing.knowing(earlier) if earlier else pairing
    return pairing, parting(pairing, found, value, bound, len(before), known)


def _alignment(pairing: Pairing, apart: Parting | None, names: tuple[Named, ...]) -> Alignment:
    torch, jax = pairing.torch, pairing.jax
    of_whole = {n: j for j, parts in pairing.parts_jax.items() for n in parts}
    hinted = {name.torch_place.number: name.jax_place.number for name in names if name.same}
    pairs, scaled, lone = [], [], []
    for t in torch.computed:
        if t.number in pairing.scaled_torch:
            number, factor = pairing.scaled_torch[t.number]
            scaled.append((Place.of(t), Place.of(jax.tensors[number]), factor))
            continue
        origin = torch.origin(t.number)
        parts = pairing.parts_torch.get(origin, ())
        whole = of_whole.get(origin)
        partners = pairing.of_torch.get(origin, [] if whole is None else [whole])
        # Of several with the same numbers, that of the same name, or phase.
        same = [n for n in partners if jax.tensors[n].phase == t.phase] or partners
        same = [n for n in partners if n == hinted.get(origin)] or same
        pairs += [(Place.of(t), Place.of(jax.tensors[n])) for n in parts or same[:1]]
        if not (parts or same):
            lone.append(Place.of(t))
    there = pairing.agreeing["jax"] | pairing.scaled_jax.keys()
    rest = [Place.of(t) for t in jax.computed if t.number not in there]
    both = tuple(pairs), tuple(scaled)
    theirs = [*(t for t, _ in pairs), *(t for t, *_ in scaled), *lone]
    ours = [*(j for _, j in pairs), *(j for _, j, _ in scaled), *rest]
    if apart:
        theirs += [*apart.torch, *(t for t, _ in apart.agreeing)]
        ours += [*apart.jax, *(j for _, j in apart.agreeing)]
    made_of = operands(torch, theirs), operands(jax, ours)
    return Alignment(*both, tuple(lone), tuple(rest), pairing.share, apart, *made_of, names)
