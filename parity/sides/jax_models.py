"""Any JAX model as one kind: an NNX module with named parameters and named state.

NNX modules are what they are. A Linen module with its variables, a function of a tree of
parameters, and an Equinox module become a FunctionModel.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.nnx as nnx
import jax
import numpy as np

MODES = {"train": True, "training": True, "is_training": True,
         "deterministic": False, "use_running_average": False}  # fmt: skip
KINDS = (
    "a flax.nnx.Module; (flax.linen module, variables); (function, params) with "
    "function(params, *inputs) -> outputs; or an equinox.Module"
)


class State(nnx.Variable):
    """An array that a model holds and doesn't train."""


class FunctionModel(nnx.Module):
    """outputs = function(variables, *inputs), as an NNX module; variables: any tree of arrays.

    What trains: all floating leaves; of a mapping with a collection "params", those in it. A leaf's
    name is its path, joined by dots: "layers.0.W"; with collections, its path within its own.
    A function of several collections may return (outputs, {collection: its new values}).
    """

    def __init__(self, function: Callable[..., Any], variables: Any) -> None:
        self.function = function
        self.collected = isinstance(variables, Mapping) and "params" in variables
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(variables)
        names, constants = [], {}
        inner = [jax.tree_util.keystr(p[1:], simple=True, separator=".") for p, _ in leaves]
        taken = {name for name in inner if inner.count(name) > 1}
        for path, leaf in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            collection, _, inside = name.partition(".")
            trained = not self.collected or collection == "params"
            if self.collected and inside:  # its name within its collection, if no other has it
                name = inside if trained or inside not in taken else name
            if not jax.numpy.issubdtype(getattr(leaf, "dtype", type(leaf)), np.floating):
                constants[name] = leaf
            elif hasattr(self, name):
                raise TypeError(f"params: two leaves are called '{name}'")
            else:
                setattr(self, name, (nnx.Param if trained else State)(jax.numpy.asarray(leaf)))
            names.append(name)
        if len(constants) == len(names):
            raise TypeError(f"params: {variables!r:.60}, expected a tree with arrays of floats")
        self.names, self.constants = tuple(names), _Static(constants)
        paths = (jax.tree_util.keystr(path) for path, _ in leaves)
        self.paths = _Static(dict(zip(paths, names, strict=True)))

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        found = self.function(self.variables(), *inputs, **named)
        if self.collected and isinstance(found, tuple) and len(found) == 2:
            outputs, new = found
            if isinstance(new, Mapping) and set(new) <= set(self.variables()) - {"params"}:
                for path, leaf in jax.tree_util.tree_flatten_with_path(dict(new))[0]:
                    name = self.paths.value[jax.tree_util.keystr(path)]
                    if name not in self.constants.value:
                        getattr(self, name)[...] = leaf
                return outputs
        return found

    def variables(self) -> Any:
        """The tree that the function takes."""
        constants = self.constants.value
        leaves = [constants[n] if n in constants else getattr(self, n)[...] for n in self.names]
        return jax.tree.unflatten(self.structure, leaves)

    def own_tree(self, named: Mapping[str, Any]) -> Any:
        """The tree of parameters that the user's optimiser knows, of arrays by name; None in the
        place of what doesn't train."""
        tree = jax.tree.unflatten(self.structure, [named.get(n) for n in self.names])
        return tree["params"] if self.collected else tree


class LinenModel(FunctionModel):
    """A Linen module with its variables. Called as in training, it updates its other collections.

    An argument of its __call__ by which Linen modules are told the mode (train, deterministic,
    use_running_average and the like) is given where the inputs don't give it.
    """

    use_running_average: bool

    def __init__(self, module: nn.Module, variables: Mapping[str, Any]) -> None:
        super().__init__(module.apply, variables)
        self.use_running_average = False  # NNX's train() and eval() turn it
        taken = inspect.signature(type(module).__call__).parameters
        self.modes = tuple(name for name in MODES if name in taken)
        self.collections = tuple(name for name in variables if name != "params")

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        training = not self.use_running_average
        told: dict[str, Any] = {
            name: MODES[name] == training for name in self.modes if name not in named
        }
        if training and self.collections:
            told |= {"mutable": list(self.collections)}
        return super().__call__(*inputs, **named, **told)


class _Static:
    """A value that NNX shall not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


def as_module(jax_model: Any) -> nnx.Module:
    """Any JAX model as an NNX module. Raises TypeError for what is none."""
    if isinstance(jax_model, nnx.Module):
        return jax_model
    if is_equinox(jax_model):
        return _of_equinox(jax_model)
    if isinstance(jax_model, tuple) and len(jax_model) == 2:
        first, variables = jax_model
        if isinstance(first, nn.Module):
            return LinenModel(first, variables)
        if is_equinox(first):
            return _of_equinox(first)
        if callable(first):
            return FunctionModel(first, variables)
    if isinstance(jax_model, nn.Module):
        raise TypeError(
            "jax: a flax.linen module without its variables, expected (module, variables), with "
            "variables = module.init(key, *inputs)"
        )
    kind = f"{type(jax_model).__module__}.{type(jax_model).__name__}"
    raise TypeError(f"jax: a {kind}, expected {KINDS}")


def is_equinox(model: Any) -> bool:
    equinox = sys.modules.get("equinox")
    return equinox is not None and isinstance(model, equinox.Module)


def _of_equinox(model: Any) -> FunctionModel:
    """Called on a batch by jax.vmap, as Equinox's modules take one example."""
    import equinox

    params, static = equinox.partition(model, equinox.is_inexact_array)

    def function(params: Any, *inputs: Any, **named: Any) -> Any:
        one = equinox.combine(params, static)
        return jax.vmap(lambda args, kwargs: one(*args, **kwargs))(inputs, named)

    return FunctionModel(function, params)


def turned_weights(model: nnx.Module) -> set[str]:
    """Names of matrices that lie [out, in]: those of Equinox's Linear."""
    equinox = sys.modules.get("equinox")
    if equinox is None or not isinstance(model, FunctionModel):
        return set()
    found: set[str] = set()

    def look(path: Any, node: Any) -> None:
        if isinstance(node, equinox.nn.Linear):
            prefix = jax.tree_util.keystr(path, simple=True, separator=".")
            found.add(f"{prefix}.weight" if prefix else "weight")

    tree = model.variables()
    jax.tree_util.tree_map_with_path(
        look, tree, is_leaf=lambda node: isinstance(node, equinox.nn.Linear)
    )
    return found
