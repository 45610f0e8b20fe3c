"""The products that a model makes, as a side shows them: each to be made again of other numbers.

A matrix product and a convolution are linear in either operand. Attention is a kernel of its own
where a framework fuses it, and is told apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Compute = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Operand:
    """kept: the axes that a sum doesn't run over, so that each index of theirs is a sum's own.
    bits: of its numbers; 8 are bytes, which have no sign."""

    shape: tuple[int, ...]
    kept: tuple[int, ...]
    bits: int = 24

    @property
    def terms(self) -> int:
        """How many elements a sum may run over."""
        return int(np.prod([n for i, n in enumerate(self.shape) if i not in self.kept]))

    def one_each(self) -> np.ndarray:
        """Zeros, but for a single 1 at each index of the kept axes, at another place for each."""
        rest = [i for i in range(len(self.shape)) if i not in self.kept]
        order = [*self.kept, *rest]
        rows = int(np.prod([self.shape[i] for i in self.kept]))
        flat = np.zeros((rows, self.terms), np.float32)
        flat[np.arange(rows), np.arange(rows) % self.terms] = 1
        moved = flat.reshape([self.shape[i] for i in order])
        return np.ascontiguousarray(moved.transpose(np.argsort(order)))


@dataclass(frozen=True)
class Bilinear:
    """compute: as the side computes it, where it does; exact: in float64, on the CPU. dtype: of the
    operands, the narrower where they differ. Both take (left, right)."""

    name: str
    left: Operand
    right: Operand
    compute: Compute
    exact: Compute
    dtype: str = "float32"


@dataclass(frozen=True)
class Attention:
    """softmax(scale Q K') V, fused. compute takes (Q, K, V), each [batch, heads, length, size]."""

    name: str
    queries: tuple[int, ...]
    keys: tuple[int, ...]
    values: tuple[int, ...]
    scale: float
    causal: bool
    compute: Compute


@dataclass(frozen=True)
class Products:
    """All of a training step, each kind once. unknown: products that nothing is known of.
    unordered: operations that add by atomic ones on a GPU, so in no fixed order."""

    bilinear: tuple[Bilinear, ...] = ()
    attention: tuple[Attention, ...] = ()
    unknown: tuple[str, ...] = ()
    unordered: tuple[str, ...] = ()
