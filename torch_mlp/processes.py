"""Processes that train one model together: Torch's are connected by torch.distributed."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mlp_core.processes import (
    PATIENCE,
    START,
    Place,
    ProcessesError,
    gone,
    of_connection,
    place,
)


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
    url = "env://" if by_name else f"tcp://{here.host}:{here.port}"
    try:
        joining = rendezvous(url, here.rank, count, timeout=timedelta(seconds=START))
        dist.init_process_group(
            None if torch.cuda.is_available() else "gloo",
            store=next(iter(joining))[0],
            rank=here.rank,
            world_size=count,
            timeout=timedelta(seconds=patience),
        )
    except (RuntimeError, ValueError) as error:
        raise gone(here, error) from error
    try:
        if (found := dist.get_world_size()) != count:
            raise ProcessesError(f"{count} processes were asked for, but {found} are connected")
        yield here
        dist.barrier()
    except RuntimeError as error:
        if not of_connection(error):
            raise
        raise gone(here, error) from error
    finally:
        dist.destroy_process_group()
