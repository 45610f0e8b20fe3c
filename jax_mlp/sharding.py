"""Training with each batch shared out over several devices, parameters on all of them."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import lax

from jax_mlp.reproducible import Arithmetic
from jax_mlp.step import Carry, split
from jax_mlp.training import Trainer
from mlp_core.checkpoint import Checkpoints


class DevicesError(ValueError):
    """A number of devices that can't be had, or that a batch can't be cut into."""


def simulate(count: int) -> None:
    """Let the CPU count as so many devices, in this process.

    Raises DevicesError if JAX has started and has fewer: then it can't be changed any more.
    """
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if (found := jax.device_count()) < count:
            raise DevicesError(
                f"{count} devices were asked for, but JAX has started with {found}: simulate them "
                "in a new process, before anything is computed"
            ) from None


class ShardedTrainer(Trainer):
    """A Trainer whose batches are cut into equal parts, one for each of the first `devices`.

    XLA adds what the devices sum up: in reproducible arithmetic exact integers, so that any number
    of devices gives the same bits. `shard_map` is avoided: pmean of a gradient inside it gives the
    gradient times the number of devices, silently.

    Under `jax.distributed` every process runs the same program on the same data, and `devices`
    counts those of all processes; losses and weights come back in each.
    """

    def __init__(
        self,
        max_epochs: int,
        devices: int = 1,
        gradient_clip_val: float | int = 0,
        arithmetic: str | Arithmetic | None = None,
        checkpoint: str | os.PathLike | Checkpoints | None = None,
    ) -> None:
        super().__init__(max_epochs, 0, gradient_clip_val, arithmetic, checkpoint)
        self.save_hyperparameters(ignore=["checkpoint"])
        if not 1 <= devices <= jax.device_count():
            raise DevicesError(f"devices = {devices}, expected 1 to {jax.device_count()}")
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("batch",))
        self._parts = jax.NamedSharding(mesh, jax.P("batch"))
        self._whole = jax.NamedSharding(mesh, jax.P())

    def prepare_data(self, data: Any) -> None:
        """Raises DevicesError for a batch that can't be cut into equal parts."""
        super().prepare_data(data)
        for loader in filter(None, (self.train_dataloader, self.val_dataloader)):
            s = loader.schedule
            for size in {min(s.batch_size, s.num_examples), s.num_examples % s.batch_size}:
                if size % self.devices:
                    raise DevicesError(
                        f"a batch of {size} cannot be cut into {self.devices} equal parts: choose "
                        f"a batch size whose batches, the last of {s.num_examples:,} examples "
                        "included, are multiples of the number of devices"
                    )
            if jax.process_count() > 1:  # else the compiled epoch brings them where they belong
                loader.arrays = jax.tree.map(self._everywhere, loader.host_arrays)

    def prepare_model(self, model: Any) -> None:
        super().prepare_model(model)
        nnx.update(model, *jax.tree.map(self._everywhere, split(model)[1:]))

    def _everywhere(self, array: Any) -> jax.Array:
        """The array on all devices; each process fills in its own."""
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, self._whole, lambda index: whole[index])

    def prepare_batch(self, batch: Any) -> Any:
        return lax.with_sharding_constraint(batch, self._parts)

    def _train_step(self, structure: Any) -> Callable[[Carry, Any], tuple[Carry, Any]]:
        step = super()._train_step(structure)

        def on_all(carry: Carry, batch: Any) -> tuple[Carry, Any]:
            return lax.with_sharding_constraint(step(carry, batch), self._whole)

        return on_all
