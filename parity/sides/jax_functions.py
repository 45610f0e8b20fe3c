"""A JAX model as pure functions of its parameters, under shared names: to be compiled, bounded,
mapped."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np

from jax_mlp.step import Carry, Taken, pure_step, split, update
from parity.kept import Keeper
from parity.problem import Examples
from parity.sides.jax_data import JaxData
from parity.sides.jax_port import JaxPort
from parity.sides.jax_wide import widened
from parity.sides.memory import slot_names
from parity.sides.side import Batch, no_outputs, told
from parity.trees import NOTHING, Arrays, Leaves, Tree, arguments, leaves, mapped


class JaxFunctions(Keeper):
    """model: in its type, wrapped as a JaxPort unless it is the book's. turned: own names of
    matrices that lie [out, in]. fused: whether kernels take the steps. images: "bytes", if the
    model gets them instead of the floats k / 255."""

    model: Any
    dtype: str
    device: Any
    examples: Examples
    turned: set[str]
    fused: bool
    images: str
    _data: JaxData
    _names: dict[str, str]
    _state_names: dict[str, str]

    @property
    def widens(self) -> bool:
        """Whether float32 asked for by name is float64."""
        raise NotImplementedError

    def held(self) -> tuple[Leaves, Leaves]:
        """Parameters and state at the model's own types, some of which NumPy lacks."""
        _, params, rest = split(self.model)
        own = self._shared(self._flat(params), self._names)
        state = self._shared(self._flat(rest, statistics=True), self._state_names)
        return jax.tree.map(np.asarray, own), jax.tree.map(np.asarray, state)

    @told("in a training step")
    @widened
    def taken(
        self, params: Leaves, state: Leaves, memory: Leaves, batches: Sequence[Batch]
    ) -> dict[str, Any]:
        """One step by the model's own training_step, as the parts of an Evaluation.

        batches: as many as make a step, usually one; outputs, loss and gradients are the first's.
        """
        structure, _, _ = split(self.model)
        step = pure_step(partial(_assembled, structure), self.model.configure_optimizers())
        return self._taken(step, params, state, memory, batches)

    def taken_fused(self, *given: Any) -> dict[str, Any]:
        """`taken`, by fused kernels; the outputs, which those don't give, by the model itself."""
        from jax_mlp import fused

        return self._taken(fused.step(self.model, self.examples.batch_size), *given)

    def _taken(
        self,
        step: Callable[[Carry, Any], tuple[Carry, Taken]],
        params: Leaves,
        state: Leaves,
        memory: Leaves,
        batches: Sequence[Batch],
    ) -> dict[str, Any]:
        _, own, rest = split(self.model)
        carry = Carry(
            self._unflat(own, self._owned(params, self._names)),
            self._unflat(rest, self._owned(state, self._state_names)),
            self._remembered(memory),
        )
        seen = []
        for inputs, targets in batches:
            carry, taken = step(carry, self._data.joined(self._images(inputs), targets))
            seen.append(taken)
        first = seen[0]
        if first.outputs is None:  # its training_step doesn't call what is compared
            outputs = self.outputs(params, state, batches[0][0])
        else:
            outputs = leaves(plain(first.outputs), "logits")
        return {
            "outputs": outputs,
            "loss": first.loss,
            "gradients": self._shared(self._flat(first.gradients), self._names),
            "step": self._shared(self._flat(carry.params), self._names),
            "state": self._shared(self._flat(carry.rest, statistics=True), self._state_names),
            "memory": self._memorised(carry.memory),
        }

    def differentiated(
        self, params: Leaves, state: Leaves, batches: Sequence[Batch]
    ) -> dict[str, Any]:
        """`taken`, or `taken_fused`, as far as the gradients."""
        memory = {n: jnp.zeros(leaf.shape, leaf.dtype) for n, leaf in self._slots[1].items()}
        taken = self.taken_fused if self.fused else self.taken
        found = taken(params, state, memory, batches)
        return {part: found[part] for part in ("outputs", "loss", "gradients")}

    @told("when it is called")
    @widened
    def outputs(self, params: Leaves, state: Leaves, inputs: Tree, training: bool = True) -> Leaves:
        """The model's outputs alone."""
        model = self.assembled(params, state, training)
        args, named = arguments(self._images(inputs))
        found = leaves(plain(model(*args, **named)), "logits")
        for leaf in found.values():
            if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float)):
                raise no_outputs("jax", leaf)
        return found

    def _images(self, inputs: Tree) -> Tree:
        """Inputs as the model gets them."""
        return jnp.round(inputs * 255).astype(jnp.uint8) if self.images == "bytes" else inputs

    def outputs_in_validation(self, params: Leaves, state: Leaves, inputs: Tree) -> Leaves:
        return self.outputs(params, state, inputs, training=False)

    def assembled(
        self, params: Leaves, state: Mapping[str, Any] = NOTHING, training: bool = True
    ) -> Any:
        """A copy of the model with other parameters; traceable."""
        mode = nnx.clone(self.model) if not training else self.model
        if not training:
            mode.eval()
        structure, own, rest = split(mode)
        rest = self._unflat(rest, self._owned(state, self._state_names))
        return nnx.merge(
            structure, self._unflat(own, self._owned(params, self._names)), rest, copy=True
        )

    def updated(self, params: Leaves, gradients: Leaves, memory: Leaves) -> tuple[Leaves, Leaves]:
        """(parameters, optimiser's state) after one step with these gradients."""
        _, own, _ = split(self.model)
        trees = (self._unflat(own, self._owned(part, self._names)) for part in (params, gradients))
        given, grads = trees
        kept = self._remembered(memory)
        optimizer = self.model.configure_optimizers()
        for _ in range(self.accumulated):
            given, kept = update(optimizer, given, grads, kept)
        new = self._shared(self._flat(given), self._names)
        return new, self._memorised(kept)

    @property
    def accumulated(self) -> int:
        """Batches that make one step."""
        return self.model.chosen.training.accumulate if isinstance(self.model, JaxPort) else 1

    @cached_property
    def _memory(self) -> Arrays:
        """{name: initial value} of the optimiser's state."""
        with self._settings():
            memory = jax.jit(self.model.configure_optimizers().init)(split(self.model)[1])
        return dict(zip(self._slots[1], map(np.asarray, jax.tree.leaves(memory)), strict=True))

    @cached_property
    def _slots(self) -> tuple[Any, dict[str, Any]]:
        """(structure, {name: shape and type}) of the optimiser's state; may be asked in a trace."""
        with self._settings():
            init = self.model.configure_optimizers().init
            memory = jax.eval_shape(init, split(self.model)[1])
        paths, structure = jax.tree_util.tree_flatten_with_path(memory)
        own = {tuple(name.split(".")): name for name in self._names}
        words = [
            tuple(w for w in map(_word, path) if w not in ("value", "net")) for path, _ in paths
        ]
        named: dict[str, Any] = {}
        for (slot, param), (_, leaf) in zip(slot_names(words, own), paths, strict=True):
            name = f"{slot}.{self._names[own[param]]}" if param else slot
            named[name if name not in named else f"{name}#{len(named)}"] = leaf
        return structure, named

    # By name: jit sorts a dict, and the optimiser's own order is another.
    def _remembered(self, memory: Leaves) -> Any:
        structure, named = self._slots
        return jax.tree.unflatten(structure, [memory[name] for name in named])

    def _memorised(self, memory: Any) -> Leaves:
        return dict(zip(self._slots[1], jax.tree.leaves(memory), strict=True))

    def typed(self, tree: Tree) -> Tree:
        """Floats as the side computes: in float64, or as they are up to float32. Integers too."""
        return mapped(lambda leaf: _typed(leaf, self.dtype), tree)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        exact = jax.enable_x64(self.dtype == "float64"), jax.default_matmul_precision("highest")
        with jax.default_device(self.device), exact[0], exact[1]:
            yield

    def _pulled_back(self, params: Any, state: Any, X: Any, cotangent: Any) -> tuple:
        def logits_of(params: Any, X: Any) -> Any:
            return self.assembled(params, state)(X)

        logits, back = jax.vjp(logits_of, params, X)
        return logits, back(cotangent.astype(logits.dtype))

    @property
    def _carries_more(self) -> bool:
        """Whether more goes from step to step than `taken` returns."""
        more = {*self._flat(split(self.model)[2])} - {*self._state_names}
        return bool(more) or self.accumulated > 1

    # A plain model is wrapped; its names stay those of the user's model.
    def _flat(self, state: Any, statistics: bool = False) -> dict[str, Any]:
        found = {}
        for path, leaf in nnx.to_flat_state(state):
            array = leaf[...] if isinstance(leaf, nnx.Variable) else leaf
            if not statistics or _is_statistic(leaf, array):
                found[self._outside(path)] = array
        return found

    def _unflat(self, state: Any, arrays: Mapping[str, Any]) -> Any:
        """The state with the arrays that are given in the place of its own, by own name."""
        made = []
        for path, leaf in nnx.to_flat_state(state):
            array = arrays.get(self._outside(path))
            if array is None:
                made.append((path, leaf))
            else:
                new = jnp.asarray(array)
                made.append((path, leaf.replace(new) if isinstance(leaf, nnx.Variable) else new))
        return nnx.from_flat_state(made)

    def _outside(self, path: tuple) -> str:
        name = ".".join(map(str, path))
        return name.removeprefix("net.") if isinstance(self.model, JaxPort) else name

    def _shared(self, own: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        """By the ladder's names; turned, where a matrix lies [out, in]."""
        return {names[n]: _turned(a, n in self.turned) for n, a in own.items() if n in names}

    def _owned(self, shared: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        back = {other: own for own, other in names.items()}
        if strange := set(shared) - set(back):
            raise ValueError(f"jax: no parameters {sorted(strange)}, expected {sorted(back)}")
        return {back[n]: _turned(a, back[n] in self.turned) for n, a in shared.items()}

    def _typed_like(
        self, state: Any, shared: Mapping[str, Any], names: Mapping[str, str]
    ) -> dict[str, Any]:
        own, given = self._flat(state), self._owned(shared, names)
        for name, array in given.items():
            if np.shape(array) != np.shape(own[name]):
                shape = np.shape(array)
                raise ValueError(f"jax: '{name}' has shape {shape}, expected {own[name].shape}")
        return {n: jax.device_put(np.asarray(a).astype(own[n].dtype)) for n, a in given.items()}


def _assembled(structure: Any, params: Any, rest: Any) -> Any:
    return nnx.merge(structure, params, rest, copy=True)


def _turned(array: Any, turn: bool) -> Any:
    return array.T if turn else array


def _is_statistic(leaf: Any, array: Any) -> bool:
    """Whether it is a float that the model holds, no random key or counter."""
    return not isinstance(leaf, nnx.RngState) and jnp.issubdtype(array.dtype, jnp.floating)


def _word(key: Any) -> str:
    for name in ("key", "name", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def _typed(leaf: Any, dtype: str) -> Any:
    kind = leaf.dtype
    if jnp.issubdtype(kind, jnp.floating):
        return np.asarray(leaf, dtype if dtype == "float64" or kind == np.float64 else kind)
    return leaf.astype(np.int32) if jnp.issubdtype(kind, jnp.integer) else leaf


def plain(tree: Any) -> Any:
    """Registered pytrees as dicts: {path: leaf}; plain ones as they are."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    if len(paths) == 1 and not paths[0][0]:
        return tree
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in paths}
