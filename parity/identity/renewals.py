"""Tensors in which exponentials are used up, drawn anew: so that a deep model's proof can go on.

Each exponential costs a value one of its primes. Where a single one is left of a tensor that both
sides have, an unknown function of it, the same on both, takes its place, with all primes. What
agrees for any such function agrees for the one that changes nothing; what differs proves nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from parity.identity import degree, functions
from parity.identity.field import Algebra
from parity.identity.number import Field

Kind = tuple[str, str]  # (operation, line): a repeated block gives tensors of the same kinds
SIDES = ("JAX", "Torch")
# Their derivatives don't use their results, for which one side may have another formula.
LINEAR = {
    "add", "dot_general", "conv_general_dilated",
    "add_", "mm", "bmm", "addmm", "baddbmm", "convolution",
}  # fmt: skip


@dataclass
class Renewals:
    """kinds: {side: those whose tensors are renewed}. met: of the other tensors of one prime, by
    the set of their elements."""

    kinds: dict[str, set[Kind]] = field(default_factory=lambda: {side: set() for side in SIDES})
    met: dict[str, list[tuple[bytes, Kind]]] = field(
        default_factory=lambda: {side: [] for side in SIDES}
    )

    def of(self, of: Algebra, side: str, op: str, line: Callable[[], str], x: Field) -> Field:
        """x, or what takes its place."""
        lone = x.parts.keys() == {of.length - 1} and x.const is None
        if op not in LINEAR or not lone or x.inf is not None or x.units:
            return x
        kind = op, line()
        if kind in self.kinds[side]:
            return _renewed(of, x)
        self.met[side].append((np.unique(x.parts[of.length - 1]).tobytes(), kind))
        return x

    def learn(self) -> bool:
        """Renew the kinds of which every tensor that was met has a partner; whether there are
        any."""
        met, self.met = self.met, {side: [] for side in SIDES}
        while True:
            ours, theirs = ({key for key, _ in met[side]} for side in SIDES)
            lone = {
                side: {kind for key, kind in met[side] if key not in ours & theirs}
                for side in SIDES
            }
            if not any(lone.values()):
                break
            met = {
                side: [(key, kind) for key, kind in met[side] if kind not in lone[side]]
                for side in SIDES
            }
        for side in SIDES:
            self.kinds[side] |= {kind for _, kind in met[side]}
        return all(met.values())


def _renewed(of: Algebra, x: Field) -> Field:
    """A function of which only the sign is known: of a square it is a square, of 0 it is 0."""
    top = of.length - 1
    of.degrees.passed = of.degrees.of_difference(x.degree, x.degree)
    value, above = x.parts[top], of.primes[top].character(x.parts[top])
    rough = x.rough.get(top)
    parts = {}
    for k, prime in enumerate(of.primes):
        root = 1 + functions.hashed(value, of.key[k] ^ functions.hash_of("renew")) % (prime.p - 1)
        parts[k] = above * (root * root % prime.p) % prime.p
    return Field(
        parts,
        of.known_sign(x),
        rough={} if rough is None else dict.fromkeys(parts, rough),
        doubt=frozenset((-1, why) for part, why in x.doubt if part in (top, -1)),
        degree=degree.ONE,
    )
