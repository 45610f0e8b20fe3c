"""Processes that train one model together: JAX's are connected by jax.distributed."""

import contextlib
from collections.abc import Iterator

import jax

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
    """How many processes JAX has connected; starts no device."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


@contextlib.contextmanager
def connected(count: int, patience: float = PATIENCE) -> Iterator[Place]:
    """While it lasts, the `count` processes that torchrun or srun launched are one program.

    To be entered before anything is computed. patience: seconds without a sign of life until a
    process counts as gone; then the others end, by ProcessesError where they notice, else JAX ends
    them, and says that another task died. Without all of them a process can't leave
    jax.distributed: after ProcessesError JAX ends it too, at its exit.
    Raises ProcessesError if another number was launched, or JAX has started; that as many are
    connected is checked by Trainer.fit, for to count them starts the devices.
    """
    here = place(count)
    # torchrun itself listens on MASTER_PORT, for Torch.
    address = f"{here.host}:{here.port + 1 if here.port < 65535 else here.port - 1}"
    try:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            address,
            num_processes=count,
            process_id=here.rank,
            initialization_timeout=START,
            heartbeat_timeout_seconds=int(patience),
            shutdown_timeout_seconds=int(patience),
            cluster_detection_method="deactivate",
        )
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise ProcessesError(
            f"process {here.rank} of {count} found no connection by {address}: {first}"
        ) from error
    try:
        yield here
    except RuntimeError as error:
        if of_connection(error):  # no shutdown, which waits for all processes
            raise gone(here, error) from error
        jax.distributed.shutdown()
        raise
    except BaseException:
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()
