"""Where two graphs part: the first operations without a partner, in both codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from parity.lines import shortened
from parity.locate.align import Frontier, Pairing, frontier
from parity.locate.suspects import suspects
from parity.problem import Known
from parity.sides.side import Evaluation
from parity.sides.tensors import ROOM, Traced, telling
from parity.trees import Arrays

PARTS = ("logits", "loss", "gradients", "state", "step")
_PHASE = {"gradients": "backward", "step": "optimiser"}
SHOWN = 3  # lines named on each side, and tensors that agree


@dataclass(frozen=True)
class Place:
    """One operation of one side. line: "file:line (function)", the user's where there is one, else
    a library's. inside: the fused operation that it is a step of. given: name of what was given.
    number: in the order in which its side made its tensors."""

    op: str
    shape: tuple[int, ...]
    module: str
    line: str
    phase: str
    inside: str = ""
    given: str = ""
    number: int = -1

    @classmethod
    def of(cls, t: Traced) -> Place:
        return cls(t.op, t.shape, t.module, t.line, t.phase, t.inside, t.given, t.number)

    def __str__(self) -> str:
        said = f"{self.given or self.op} [{', '.join(map(str, self.shape))}]"
        said += f", a step of {self.inside}" if self.inside else ""
        said += f", in '{self.module}'" if self.module else ""
        said += f", {self.phase}" if self.phase != "forward" else ""
        return said + (f", at {shortened(self.line)}" if self.line else "")


@dataclass(frozen=True)
class Parting:
    """The first operations of both graphs that have no partner, though all they are made of has.

    part, leaf: what differs at last: logits, loss, gradients, state or step. torch, jax: places,
    the likeliest first, at most one for each line; empty where a side computes nothing there.
    values: of the likeliest, the order statistic or mean that differs most: Torch's and JAX's, and
    the bound on their difference. statistic: which. agreeing: (Torch's, JAX's) tensors that the
    parting operations are made of.
    """

    step: int
    part: str
    leaf: str
    torch: tuple[Place, ...]
    jax: tuple[Place, ...]
    statistic: str
    values: tuple[float, float]
    bound: float
    agreeing: tuple[tuple[Place, Place], ...]

    def __str__(self) -> str:
        lines = [f"they part before {self.part} '{self.leaf}' of step {self.step:,}:"]
        for name, places in (("torch", self.torch), ("jax", self.jax)):
            lines += [f"    {name:5} {place}" for place in places[:1]] or [
                f"    {name:5} computes nothing here"
            ]
            lines += [f"          or {place}" for place in places[1:SHOWN]]
        if self.statistic:
            a, b = self.values
            lines.append(f"    {self.statistic}: torch {a!r}, jax {b!r}, bound {self.bound:.3g}")
        lines += [f"    agree until: torch {a}; jax {b}" for a, b in self.agreeing[:SHOWN]]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parting(
    pairing: Pairing,
    torch: Evaluation,
    jax: Evaluation,
    bounds: Evaluation,
    step: int = 0,
    known: Sequence[Known] = (),
) -> Parting | None:
    """The place where the first part that differs leaves; None if all parts are within bounds.

    torch, jax: what the step gave. bounds: the rounding bounds of JAX's. known: differences that
    the user accepts, by level, which is called as its part.
    """
    for part in PARTS:
        accepted = [f"*{k.leaf}*" for k in known if fnmatchcase(part, k.level)]
        capped = part == "logits" and not pairing.jax.narrow
        wrong = [
            leaf
            for leaf in _differing(torch.part(part), jax.part(part), bounds.part(part), capped)
            if not any(fnmatchcase(leaf, pattern) for pattern in accepted)
        ]
        roots = {
            s: [found[n] for n in wrong if n in found]
            for s in ("torch", "jax")
            for found in [pairing.graph(s).results.get(part, {})]
        }
        if not wrong or not any(roots.values()):
            continue
        phase = _PHASE.get(part, "forward")
        torch_, jax_ = (frontier(pairing, s, roots[s], phase) for s in ("torch", "jax"))
        return _parting(pairing, torch_, jax_, step, part, wrong[0])
    return None


def _parting(
    pairing: Pairing, torch: Frontier, jax: Frontier, step: int, part: str, leaf: str
) -> Parting:
    statistic, values, bound = _apart(torch.first, jax.first)
    pairs = []
    for t in torch.agreeing:
        partners = pairing.of_torch.get(t.number, [])
        near = [n for n in partners if n in {a.number for a in jax.agreeing}] or partners
        if near and t.depends:
            pairs.append((Place.of(t), Place.of(pairing.jax.tensors[near[0]])))
    theirs, ours = (
        _places(suspects(pairing, "torch", torch, jax)),
        _places(suspects(pairing, "jax", jax, torch)),
    )
    return Parting(step, part, leaf, theirs, ours, statistic, values, bound, tuple(pairs))


def _places(suspected: Iterable[Traced]) -> tuple[Place, ...]:
    """At most one for each line."""
    kept: dict[str, Place] = {}
    for t in suspected:
        if t.line or t.given or t.module:
            kept.setdefault(t.line or t.given or t.module, Place.of(t))
    return tuple(kept.values())


def _apart(torch: list[Traced], jax: list[Traced]) -> tuple[str, tuple[float, float], float]:
    """Of the first two of one size, the statistic that differs most."""
    pairs = [(a, b) for a in torch for b in jax if np.prod(a.shape) == np.prod(b.shape)]
    for a, b in pairs or [(a, b) for a in torch[:1] for b in jax[:1]]:
        one, other = a.fingerprint, b.fingerprint
        if len(one.low) != len(other.low):
            continue
        with np.errstate(invalid="ignore"):  # inf - inf, of a side that isn't finite
            centres = [(x.low + x.high) / 2 for x in (one, other)]
            room = (one.high - one.low + other.high - other.low) / 2
            gap = np.nan_to_num(np.abs(centres[0] - centres[1]) - room, nan=0.0)
        at = int(np.argmax(gap))
        values = float(centres[0][at]), float(centres[1][at])
        return one.statistic(at), values, float(room[at])
    return "", (float("nan"), float("nan")), float("nan")


def _differing(torch: Arrays, jax: Arrays, bounds: Arrays, capped: bool) -> list[str]:
    """The leaves that differ. capped: by no more than one rounding to float32, see `telling`."""
    found = []
    for name in torch:
        if name not in jax:
            continue
        a, b = np.asarray(torch[name]), np.asarray(jax[name])
        if a.shape != b.shape:
            found.append(name)
            continue
        room = ROOM * np.asarray(bounds[name])
        if capped:
            room = telling(b, room)
        with np.errstate(invalid="ignore"):
            if not np.all((np.abs(a - b) <= room) | (a == b)):
                found.append(name)
    return found
