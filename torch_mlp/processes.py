"""Processes that train one model together: Torch's are connected by torch.distributed."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from mlp_core.processes import PATIENCE, Place, ProcessesError, gone, place


def connected_count() -> int:
    """How many processes Torch has connected."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextlib.contextmanager
def connected(count: int, patience: float = PATIENCE) -> Iterator[Place]:
    """While it lasts, the `count` processes that torchrun or srun launched train together.

    By gloo on the CPU, by NCCL on CUDA, where each process takes the GPU of its number on its host.
    patience: seconds without a sign of life until a process counts as gone; then the others end.
    Raises ProcessesError if another number was launched, or is connected in the end; and where a
    process has gone.
    """
    here = place(count)
    by_name = "WORLD_SIZE" in os.environ  # torchrun's store is reached by its own names
    try:
        dist.init_process_group(
            None if torch.cuda.is_available() else "gloo",
            init_method="env://" if by_name else f"tcp://{here.host}:{here.port}",
            rank=here.rank,
            world_size=count,
            timeout=timedelta(seconds=patience),
        )
    except (RuntimeError, ValueError) as error:
        raise gone(here, error) from error
    try:
        if (found := dist.get_world_size()) != count:
            raise ProcessesError(f"{count} processes were asked for, but {found} are connected")
        try:
            yield here
            dist.barrier()
        except RuntimeError as error:
            if isinstance(error, ProcessesError) or not _is_of_connection(error):
                raise
            raise gone(here, error) from error
    finally:
        dist.destroy_process_group()


def _is_of_connection(error: RuntimeError) -> bool:
    words = ("onnection", "imed out", "gloo", "NCCL", "peer")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)
