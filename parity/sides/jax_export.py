"""A JAX model's forward pass as a program for several kinds of device, and back."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def exported_jax(model: Any, inputs: int) -> bytes:
    """model(X), X float32 [batch, inputs] of any batch, with its weights, for all PLATFORMS.

    Products are in full float32, also where the default is narrower.
    """
    (batch,) = export.symbolic_shape("batch")
    X = jax.ShapeDtypeStruct((batch, inputs), np.float32)
    with jax.default_matmul_precision("highest"):
        program = export.export(jax.jit(lambda X: model(X)), platforms=PLATFORMS)(X)
    return bytes(program.serialize())


def loaded_jax(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """The function that was exported, run on this machine's device."""
    program = export.deserialize(bytearray(content))
    return lambda X: np.asarray(program.call(X))
