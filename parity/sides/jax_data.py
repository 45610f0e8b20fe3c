"""The examples of a problem as JAX's Trainer takes them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_mlp
from parity.problem import Examples
from parity.sides.side import Batch
from parity.trees import Tree, filled, leaves


class JaxData(jax_mlp.DataModule):
    """The examples, in float32 or float64 as a model is.

    flat: batches are (*inputs, targets), as the book's models take them, else (inputs, targets).
    """

    def __init__(self, examples: Examples, dtype: str = "float32", flat: bool = True) -> None:
        self.examples, self.dtype, self.flat = examples, dtype, flat

    def get_dataloader(self, train: bool) -> Any:
        e = self.examples
        if not train and not e.validated:
            return None
        rows: Any
        if e.arrays is None:
            data = jax_mlp.FashionMNIST(e.batch_size, data=e.source, seed=e.seed)
            whole = data.get_dataloader(train)
            rows, transform = whole.host_arrays, whole.transform
        elif part := e.part(train):
            rows, transform = _rows(part), self._formed(part)
        else:
            return None
        schedule = e.schedule(len(rows[-1]), train)
        taken = [array[: schedule.num_examples] for array in rows]
        if e.arrays is None and self.dtype == "float32":  # fused kernels know it, and take bytes
            return jax_mlp.ArrayLoader(taken, schedule, transform)

        def typed(*rows: Any) -> Any:
            return jax.tree.map(self._typed, transform(*rows))

        return jax_mlp.ArrayLoader(taken, schedule, typed)

    def joined(self, inputs: Tree, targets: Tree) -> Any:
        """A batch as the model's training_step takes it."""
        if not self.flat:
            return inputs, targets
        return (*inputs, targets) if isinstance(inputs, tuple) else (inputs, targets)

    def cut(self, batch: Any) -> Batch:
        """(inputs, targets) of a batch."""
        *inputs, targets = batch
        return inputs[0] if len(inputs) == 1 else tuple(inputs), targets

    def _formed(self, part: Batch) -> Callable[..., Any]:
        """Rows of all leaves -> a batch."""

        def formed(*rows: Any) -> Any:
            return self.joined(*filled(part, iter(rows)))

        return formed

    def _typed(self, leaf: Any) -> Any:
        wide = self.dtype == "float64" or leaf.dtype == np.float64
        return (
            leaf.astype(self.dtype) if wide and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        )


def _rows(part: Batch) -> list[np.ndarray]:
    """All leaves; integers as int32, which is what JAX computes with."""
    return [
        leaf.astype(np.int32) if np.issubdtype(leaf.dtype, np.integer) else leaf
        for leaf in leaves(part).values()
    ]
