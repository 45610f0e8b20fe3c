"""The Trainer that a Torch side runs, and on how many threads."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import torch_mlp
from parity.trees import mapped
from torch_mlp.sharding import Shares


class TorchTrainer(torch_mlp.Trainer):
    def __init__(self, max_epochs: int, dtype: str, gpus: Sequence[torch.device] = ()) -> None:
        super().__init__(max_epochs, arithmetic="native", at_nan="ignore")
        self.dtype = getattr(torch, dtype)
        self.gpus = [*gpus]

    def make_shares(self, model: Any) -> Shares:
        """Whole batches: how a model over processes joins them, its own wrapper says."""
        return Shares(alone=True)

    def prepare_batch(self, batch: Any) -> Any:
        return mapped(self._typed, batch)

    def _typed(self, leaf: torch.Tensor) -> torch.Tensor:
        leaf = leaf.to(self.gpus[0]) if self.gpus else leaf
        wide = leaf.is_floating_point() and torch.float64 in (leaf.dtype, self.dtype)
        return leaf.to(self.dtype) if wide else leaf


@contextlib.contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Torch on so many threads; by default on half of those that it has, for JAX works beside it.

    A small net wants one: sharing out its work costs 50 times the work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)
