"""Which example goes into which batch, epoch by epoch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Schedule:
    """A fresh permutation of all examples each epoch, cut into batches; the last may be partial.

    The order is a function of (seed, epoch, num_examples) alone: the raw bits of NumPy's Philox
    counter generator, which NumPy keeps fixed across versions (NEP 19), sorted. So every side,
    process and version draws the same batches, in any order of asking.

        >>> [batch.tolist() for batch in Schedule(5, batch_size=2, seed=1).batches(epoch=0)]
        [[3, 2], [0, 1], [4]]
    """

    num_examples: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("num_examples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"Schedule: {name} = {getattr(self, name)}, expected at least 1")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"Schedule: seed = {self.seed}, expected 0 <= seed < 2**64")

    def __len__(self) -> int:
        """Batches an epoch, the partial one included."""
        return -(-self.num_examples // self.batch_size)

    def epoch(self, epoch: int) -> Int[np.ndarray, "num_examples"]:
        """The examples of one epoch (counted from 0) in the order of training, int32."""
        if not self.shuffle:
            return np.arange(self.num_examples, dtype=np.int32)
        key = np.array(
            [self.seed, epoch], np.uint64
        )  # a list with a large seed goes through float64
        bits = np.random.Philox(key=key).random_raw(self.num_examples)
        # Each number carries its example in the low bits: sorting them is ten times as fast as
        # argsort, and no two are equal.
        low = np.uint64((1 << (self.num_examples - 1).bit_length()) - 1)
        keys = (bits & ~low) | np.arange(self.num_examples, dtype=np.uint64)
        return (np.sort(keys) & low).astype(np.int32)

    def batches(self, epoch: int) -> Iterator[Int[np.ndarray, "batch"]]:
        """The same order, a batch of indices at a time."""
        order = self.epoch(epoch)
        for start in range(0, self.num_examples, self.batch_size):
            yield order[start : start + self.batch_size]
