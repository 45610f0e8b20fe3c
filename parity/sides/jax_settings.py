"""JAX's settings as they are when it's imported, whatever its user has changed."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np


@contextlib.contextmanager
def plain_jax() -> Iterator[None]:
    """While it lasts, in this thread: what compiles, promotes and checks as JAX does by default.

    What decides how a model's numbers come about stays: devices, random keys, optimisation.
    Precision and x64 are each side's own affair; what lies between sides is float32.
    """
    with (
        jax.disable_jit(False),
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),  # probes ask for what overflows
        jax.debug_infs(False),
        jax.check_tracer_leaks(False),
        jax.transfer_guard("allow"),
        np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
    ):
        yield
