"""Batches cut over several processes, each with the whole model; batches of any size."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset, Sampler

from mlp_core.processes import LAUNCH, ProcessesError, part
from torch_mlp import exact
from torch_mlp.processes import connected_count

Means = dict[str, tuple[float, int]]  # key -> (sum over examples, examples)


class Shares:
    """How batches are cut: part `rank` of ceil(batch / count) rows for each connected process.

    native: DistributedDataParallel averages the gradients; each process's loss, a mean over its own
    rows, is weighted by count * rows / batch first, so that the average is the gradient of the mean
    over the whole batch, whatever its size.
    reproducible: what an operation sums over the batch is summed over the processes too, in exact
    integers before anything is rounded; so every process has the gradient of the whole batch, and
    any number of them the same bits.
    One process: nothing is cut.
    """

    def __init__(self, native: bool = True, alone: bool = False) -> None:
        """alone: this process trains by itself, whatever is connected."""
        self.count, self.native = 1 if alone else connected_count(), native
        self.rank = dist.get_rank() if self.count > 1 else 0
        self._step: Callable[[Any], Any] | None = None  # training_step of several processes
        self._own = self._size = 0  # rows of the batch at hand: this process's, all

    def prepare(self, model: torch.nn.Module, compiles: bool) -> None:
        """All processes draw what process 0 draws, the order of examples too.

        Raises ProcessesError for what computes something else on a part of a batch.
        """
        if self.count == 1:
            return
        if compiles:
            raise ProcessesError("compile=True trains in one process; leave it out for several")
        if found := [n for n, m in model.named_modules() if isinstance(m, _BatchNorm)]:
            raise ProcessesError(
                f"'{found[0]}' normalises by the mean of the batch, of which each of {self.count} "
                "processes has a part: another function. Train in one process"
            )
        state = torch.get_rng_state()
        dist.broadcast(state, 0)
        torch.set_rng_state(state)

    def batches(self, loader: Any) -> Iterator[tuple[Any, int]]:
        """(this process's rows, rows of the whole batch) of each batch; it reads no others.

        A loader that isn't a DataLoader of a data set with indices is read whole, and cut. A
        process that has no row is given the last one, which then counts nothing.
        """
        if self.count == 1:
            yield from ((batch, examples(batch)) for batch in loader)
            return
        known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if not known:
            for batch in loader:
                rows = self._rows(size := examples(batch))
                self._own, self._size = _length(part(size, self.rank, self.count)), size
                yield tree_map(lambda leaf: leaf[rows], batch), size  # noqa: B023
            return
        own = _Own(loader.batch_sampler or loader.sampler, self._rows)
        kind = "batch_sampler" if loader.batch_sampler else "sampler"
        options: dict[str, Any] = {kind: own, "collate_fn": loader.collate_fn}
        options |= {} if loader.batch_sampler else {"batch_size": None}
        options["num_workers"] = loader.num_workers
        for batch in DataLoader(loader.dataset, **options):
            self._size = size = own.sizes.popleft()
            self._own = _length(part(size, self.rank, self.count))
            yield batch, size

    def backward(self, model: Any, batch: Any, zero_grad: Callable[[], Any]) -> Any:
        """The loss of the whole batch; its gradient into each parameter's `grad`."""
        if self.count > 1 and self._step is None:
            self._step = self._with_the_same_weights(model, batch)
        step = self._step or model.training_step
        averaged = self.count > 1 and self.native
        share = self._own / self._size if averaged else 1.0
        with self.summing(batch) as own:
            loss = step(own)
            weighted = loss * (share * self.count) if averaged else loss
            zero_grad()
            with torch.no_grad():
                weighted.backward()
        if averaged:
            loss = loss.detach() * share
            dist.all_reduce(loss)
        return loss

    @contextlib.contextmanager
    def summing(self, batch: Any) -> Iterator[Any]:
        """While it lasts, reproducible sums over a batch are those of all processes; the batch."""
        if self.count == 1 or self.native:
            yield batch
            return
        with exact.over_processes():
            yield batch if self._own else tree_map(lambda leaf: leaf[:0], batch)

    def counted(self, size: int) -> int:
        """How many examples a mean over the batch at hand stands for, in this process."""
        return self._own if self.count > 1 and self.native else size

    def joined(self, means: Means) -> Means:
        """The sums of all processes, in each of them.

        Raises ProcessesError for figures that should be those of the whole batch, and aren't.
        """
        if self.count == 1:
            return means
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, means)
        if self.native:
            return {
                key: (sum(m[key][0] for m in found), sum(m[key][1] for m in found)) for key in means
            }
        if any(repr(other) != repr(means) for other in found):
            raise ProcessesError(
                f"validation figures of part of a batch: {', '.join(means)}; in reproducible "
                "arithmetic average by self.ops.mean, which takes the batch of all processes"
            )
        return means

    def _with_the_same_weights(self, model: Any, batch: Any) -> Callable[[Any], Any]:
        """training_step of the model, which has the weights of process 0 in all of them."""
        if any(map(is_lazy, model.parameters())):
            with torch.no_grad():
                model(*batch[:-1])  # lazy layers take their shapes and draw their weights
        if self.native:
            return DistributedDataParallel(Step(model))
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)
        return model.training_step

    def _rows(self, size: int) -> slice:
        rows = part(size, self.rank, self.count)
        return rows if _length(rows) else slice(size - 1, size)


class Step(torch.nn.Module):
    """training_step as a forward method, which what wraps a module can call."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> torch.Tensor:
        return self.model.training_step(batch)


class DevicesError(ValueError):
    """GPUs that can't be had, or not so."""


def gpus(count: int) -> list[torch.device]:
    """The GPU of this process, none for a count of 0. Raises DevicesError."""
    if count and not torch.cuda.is_available():
        raise DevicesError(
            f"num_gpus = {count}, but Torch {torch.__version__} finds none here: a build for CUDA, "
            "a driver and a GPU are needed; num_gpus=0 trains on the processor"
        )
    if count > 1:
        raise DevicesError(
            f"num_gpus = {count}: several GPUs take a process each, and the others would stay "
            f"idle; give each num_gpus=1, and start them with: {LAUNCH.format(count=count)}"
        )
    own = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", 0)))
    return [torch.device("cuda", own % torch.cuda.device_count())] if count else []


def gpu_name(gpu: torch.device) -> str:
    return torch.cuda.get_device_name(gpu) if gpu.type == "cuda" else str(gpu)


class _Own(Sampler):
    """Of each batch of indices, this process's; keeps the sizes of the whole batches."""

    def __init__(self, batches: Any, rows: Callable[[int], slice]) -> None:
        self.inner, self.rows = batches, rows
        self.sizes: deque[int] = deque()

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        for indices in self.inner:
            self.sizes.append(len(indices))
            yield indices[self.rows(len(indices))]


def examples(batch: Any) -> int:
    """Of a batch whose last part, the targets, is a tensor or a tree of tensors."""
    return len(tree_leaves(batch[-1])[0])


def _length(rows: slice) -> int:
    return rows.stop - rows.start
