"""What a JAX training must keep to go on to the same bits, and how it is put back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mlp import keys
from jax_mlp.data import ArrayLoader
from jax_mlp.step import split
from mlp_core.checkpoint import CheckpointError
from mlp_core.packing import Arrays, restored, stored
from mlp_core.resuming import fingerprint

Facts = dict[str, Any]


class State:
    """See mlp_core.resuming.State.

    Of the model: every nnx.Variable, and its plain arrays. Of the optimiser: its state. Of a
    loader: its state_dict, if it has one. Generators: the stream behind get_key.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def held(self) -> tuple[Arrays, Facts]:
        return named(self._tree()), {}

    def restore(self, arrays: Arrays, facts: Facts) -> None:
        what = type(self.trainer.model).__name__
        params, rest, self.trainer.opt_state = filled(self._tree(), arrays, what)
        nnx.update(self.trainer.model, params, rest)

    def loaders(self) -> tuple[Arrays, Facts]:
        arrays: Arrays = {}
        found = {
            name: loader.state_dict() for name, loader in self._loaders() if _has_state(loader)
        }
        return arrays, {"state": stored(found, arrays, "loader", _array)}

    def restore_loaders(self, arrays: Arrays, facts: Facts) -> None:
        found = restored(facts["state"], arrays, lambda array: array)
        for name, loader in self._loaders():
            if _has_state(loader):
                loader.load_state_dict(found[name])

    def generators(self) -> Arrays:
        return {"keys": np.array(keys.held(), np.uint64)}

    def restore_generators(self, arrays: Arrays) -> None:
        keys.restore(*arrays["keys"].tolist())

    def rank(self) -> int:
        return jax.process_index() if self.trainer.shares.processes > 1 else 0

    def gathered(self, number: int) -> list[int]:
        if self.trainer.shares.processes == 1:
            return [number]
        from jax.experimental import multihost_utils

        found = multihost_utils.process_allgather(np.int32(number))
        return np.asarray(found).reshape(-1).tolist()

    def settings(self) -> Facts:
        loader = self.trainer.train_dataloader
        if not isinstance(loader, ArrayLoader):
            return {}
        return {"training data": fingerprint(loader.host_arrays)}

    def _tree(self) -> Any:
        return *split(self.trainer.model)[1:], self.trainer.opt_state

    def _loaders(self) -> list[tuple[str, Any]]:
        trainer = self.trainer
        return [("train", trainer.train_dataloader), ("val", trainer.val_dataloader)]


def named(tree: Any) -> Arrays:
    """The leaves of a pytree by their places; of a key, its bits."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(_bits(leaf)) for path, leaf in leaves}


def filled(tree: Any, arrays: Arrays, what: str) -> Any:
    """The tree with other leaves, where its own are. Raises CheckpointError, with all that don't
    fit."""
    leaves, structure = jax.tree.flatten_with_path(tree)
    own = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    wrong = [f"'{name}' is missing" for name in own if name not in arrays]
    wrong += [f"'{name}' is not in the model" for name in arrays if name not in own]
    for name, leaf in own.items():
        expected, given = _bits(leaf), arrays.get(name)
        if given is not None and (given.shape, given.dtype) != (expected.shape, expected.dtype):
            got = f"{given.dtype} {given.shape}"
            wrong.append(f"'{name}' is {got}, expected {expected.dtype} {expected.shape}")
    if wrong:
        raise CheckpointError("\n  ".join([f"{what}: the checkpoint is of another model:", *wrong]))
    return jax.tree.unflatten(structure, [_like(leaf, arrays[n]) for n, leaf in own.items()])


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if hasattr(leaf, "dtype") else np.asarray(leaf)


def _like(leaf: Any, array: np.ndarray) -> Any:
    """The array as the leaf is: a key, or an array on the same devices."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    if not isinstance(leaf, jax.Array):
        return array if isinstance(leaf, np.ndarray) else array.item()
    if leaf.is_fully_addressable:
        return jax.device_put(array, leaf.sharding)
    return jax.make_array_from_callback(array.shape, leaf.sharding, lambda index: array[index])


def _array(leaf: Any) -> np.ndarray | None:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else None


def _has_state(loader: Any) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
