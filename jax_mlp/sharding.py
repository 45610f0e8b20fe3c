"""Batches shared out over several devices, parameters on all of them or cut by hidden units."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Int

from jax_mlp.device import default_device
from jax_mlp.processes import connected_count
from mlp_core.processes import DevicesError


def host_devices(count: int) -> None:
    """Let the CPU count as so many devices, where nothing faster is there. Before JAX starts.

    >>> host_devices(jax.config.jax_num_cpu_devices)
    """
    jax.config.update("jax_num_cpu_devices", count)


def simulate(count: int) -> None:
    """Let the CPU count as so many devices, in this process.

    Raises DevicesError if JAX has started and has fewer: then it can't be changed any more.

    >>> simulate(jax.device_count())  # 8, say, in a process where JAX hasn't started yet
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


class Shares:
    """How batches are cut: one part for each of the first `devices`, those of all processes.

    A part has ceil(batch / devices) rows; XLA pads the last ones, and masks what it padded before
    it sums. So a loss that is a mean over the batch stays the mean over the batch, whatever its
    size, and any model's. What the devices sum up is added in one all-reduce a step; in
    reproducible arithmetic exact integers, after one for their common units, so that any number of
    devices gives the same bits.

    Over two axes, devices = (parts of a batch, parts of the hidden units), for weights that outgrow
    a device: each array of the model and of its optimiser is cut along its last axis, its units, or
    along the one before where the last is the outputs' or can't be cut evenly; so W1 by columns and
    W2 by rows (Megatron-LM, arXiv 1909.08053). What can't be cut lies whole everywhere. Where a
    product needs the parts of others, XLA brings them: what is computed stays the same.

    `shard_map` is avoided: pmean of a gradient inside it gives the gradient times the number of
    devices, silently.

    >>> Shares(devices=1).mesh.devices.shape
    (1, 1)
    """

    outputs: int | None = None  # of the model: an axis of this length is no axis of hidden units

    def __init__(self, devices: int | Sequence[int] | None = None, num_gpus: int = 0) -> None:
        """Raises DevicesError. devices: None takes all of connected processes, else the default
        device alone. num_gpus: of the book; accelerators, so many."""
        self.units = 1
        if devices is not None and not isinstance(devices, int):
            devices, self.units = _both(devices)
        self.processes = connected_count()
        self.rank = jax.process_index() if self.processes > 1 else 0
        self.mesh: jax.sharding.Mesh | None = None
        if num_gpus:
            found = jax.devices(default_device().platform)
            if found[0].platform == "cpu" or num_gpus > len(found):
                there = "none" if found[0].platform == "cpu" else str(len(found))
                raise DevicesError(
                    f"num_gpus = {num_gpus}, but JAX finds {there} here; num_gpus=0 trains on the "
                    "default device, which is the accelerator where there is one"
                )
            devices = num_gpus if devices is None and num_gpus > 1 else devices
        if devices is None and self.processes == 1:
            return
        found = jax.devices(default_device().platform)
        if devices is not None and not 1 <= devices <= len(found):
            raise DevicesError(f"devices = {devices}, expected 1 to {len(found)}")
        if self.units > 1 and self.processes > 1:
            raise DevicesError(
                f"devices: {self.units} parts of the hidden units, and {self.processes} processes: "
                "expected one of both; weights are cut among the devices of one process"
            )
        chosen = found[:devices]
        without = set(range(self.processes)) - {device.process_index for device in chosen}
        if without:
            raise DevicesError(
                f"devices = {devices} leaves none to process {min(without)}; expected more than "
                f"{devices}, or None for all {len(found)}"
            )
        self.over(chosen)

    def over(self, devices: Sequence[Any]) -> "Shares":
        """These devices, which needn't be there. Returns itself."""
        self.mesh = jax.sharding.Mesh(np.array(devices).reshape(-1, self.units), ("batch", "units"))
        self._parts = jax.NamedSharding(self.mesh, jax.P("batch"))
        self._whole = jax.NamedSharding(self.mesh, jax.P())
        return self

    @property
    def count(self) -> int:
        """Of devices."""
        return 1 if self.mesh is None else self.mesh.size

    def cut(self, batch: Any) -> Any:
        """A batch, a part on each device. Traced."""
        return lax.with_sharding_constraint(batch, self._parts) if self.mesh else batch

    def whole(self, tree: Any) -> Any:
        """What every device holds whole. Traced."""
        return lax.with_sharding_constraint(tree, self._whole) if self.mesh else tree

    def placed(self, tree: Any) -> Any:
        """What a model or its optimiser holds, where it lies between two steps. Traced."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, jax.tree.map(self._place, tree))

    def everywhere(self, tree: Any) -> Any:
        """What a model or its optimiser holds, where it lies; each process fills in its own."""

        def put(array: Any) -> jax.Array:
            if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
                return jax.device_put(array, self._whole)
            whole = np.asarray(array)
            return jax.make_array_from_callback(whole.shape, self._place(whole), whole.__getitem__)

        return jax.tree.map(put, tree) if self.mesh else tree

    def check_cut(self, params: Any) -> None:
        """Raises DevicesError if hidden units are to be cut, and none of these can be."""
        leaves = jax.tree.leaves(params)
        if self.units > 1 and not any("units" in self._place(leaf).spec for leaf in leaves):
            shapes = ", ".join(str(leaf.shape) for leaf in leaves)
            raise DevicesError(
                f"devices: {self.units} parts of the hidden units, but no weight can be cut so "
                f"({shapes}); expected widths that {self.units} divides"
            )

    def _place(self, array: Any) -> jax.NamedSharding:
        """Along which axis an array is cut: by its shape alone, so that an optimiser's moments lie
        with their weights."""
        assert self.mesh is not None
        for axis in (array.ndim - 1, array.ndim - 2) if self.units > 1 else ():
            if axis >= 0 and not array.shape[axis] % self.units:
                if array.shape[axis] != self.outputs or axis != array.ndim - 1:
                    return jax.NamedSharding(self.mesh, jax.P(*[None] * axis, "units"))
        return self._whole

    def own_rows(
        self, arrays: tuple[Any, ...], order: Int[np.ndarray, "examples"], size: int
    ) -> list[tuple[jax.Array, ...]]:
        """The batches of an epoch, [steps, rows, ...] of each array: the full ones, then the last.

        Each process reads the rows of its own devices, and no others. Where a batch can't be cut
        evenly its last row is repeated; `scan_rows` takes those off.
        """
        assert self.mesh is not None
        devices, whole = self.mesh.shape["batch"], len(order) // size * size
        sharding = jax.NamedSharding(self.mesh, jax.P(None, "batch"))
        stacks = []
        for rows in (order[:whole].reshape(-1, size), order[whole:].reshape(1, -1)):
            if not rows.size:
                continue
            filled = np.pad(rows, ((0, 0), (0, -rows.shape[1] % devices)), mode="edge")

            def put(array: Any, filled: Any = filled) -> jax.Array:
                def part(index: Any) -> Any:
                    return array[filled[index[:2]]]

                shape = (*filled.shape, *array.shape[1:])
                return jax.make_array_from_callback(shape, sharding, part)

            stacks.append(tuple(map(put, arrays)))
        return stacks


def _both(devices: Sequence[int]) -> tuple[int, int]:
    """(how many devices, parts of the hidden units). Raises DevicesError."""
    numbers = tuple(devices)
    if not 1 <= len(numbers) <= 2 or not all(isinstance(n, int) and n >= 1 for n in numbers):
        raise DevicesError(
            f"devices = {numbers}, expected a number, or two: (parts of each batch, parts of the "
            "hidden units)"
        )
    batch, units = numbers if len(numbers) == 2 else (*numbers, 1)
    return batch * units, units


def scan_rows(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    stacks: list[tuple[jax.Array, ...]],
    sizes: list[int],
    transform: Callable,
) -> tuple[Any, Any]:
    """`step` over the batches that `own_rows` gives, whose true sizes are `sizes` of each stack.

    Returns the last carry and what the steps gave, stacked to [steps, ...], as scan_batches does.

    >>> rows, last = jnp.ones((2, 4, 3)), jnp.ones((1, 4, 3))  # a batch of 2 comes as 4 rows
    >>> total, means = scan_rows(
    ...     lambda s, X: (s + X.sum(), X.mean()), 0.0, [(rows,), (last,)], [4, 2], lambda X: X
    ... )
    >>> float(total), means.shape
    (30.0, (3,))
    """
    found = []
    for stack, size in zip(stacks, sizes, strict=True):

        def body(carry: Any, rows: Any, size: int = size) -> tuple[Any, Any]:
            return step(carry, transform(*(row[:size] for row in rows)))

        carry, outputs = lax.scan(body, carry, stack)
        found.append(outputs)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
