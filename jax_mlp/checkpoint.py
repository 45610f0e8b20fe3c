"""Weights in and out of a JAX model, as checked arrays and safetensors files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_mlp.step import split
from mlp_core.weights import Weights


def named_params(model: nnx.Module) -> dict[str, jax.Array]:
    """Every trained array by its path, for instance "net.layers.1.kernel".

    >>> sorted(named_params(nnx.Linear(3, 2, rngs=nnx.Rngs(0))))
    ['bias', 'kernel']
    """
    flat = nnx.to_flat_state(split(model)[1])
    return {".".join(map(str, path)): jnp.asarray(leaf) for path, leaf in flat}


def with_params(model: nnx.Module, arrays: Mapping[str, Any]) -> nnx.Module:
    """A copy of the model with other arrays, named as by named_params; traceable.

    Raises ValueError with all names and shapes that do not fit.

    >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> other = with_params(model, {"kernel": np.ones((3, 2)), "bias": np.zeros(2)})
    >>> other(jnp.ones((1, 3))).tolist()
    [[3.0, 3.0]]
    """
    structure, params, rest = split(model)
    flat = {".".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(params)}
    wrong = [f"'{name}' is missing" for name in flat if name not in arrays]
    wrong += [f"'{name}' is not in the model" for name in arrays if name not in flat]
    wrong += [
        f"'{name}' has shape {jnp.shape(arrays[name])}, expected {jnp.shape(leaf)}"
        for name, (_, leaf) in flat.items()
        if name in arrays and jnp.shape(arrays[name]) != jnp.shape(leaf)
    ]
    if wrong:
        raise ValueError("\n  ".join([f"{type(model).__name__}: weights do not fit:", *wrong]))
    new = []
    for name, (path, leaf) in flat.items():
        array = jnp.asarray(arrays[name])
        new.append((path, leaf.replace(array) if isinstance(leaf, nnx.Variable) else array))
    return nnx.merge(structure, nnx.from_flat_state(new), rest, copy=True)


def set_params(model: nnx.Module, arrays: Mapping[str, Any]) -> None:
    """Replace every trained array in place. Raises ValueError as with_params does.

    >>> model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    >>> set_params(model, {"kernel": np.ones((3, 2)), "bias": np.zeros(2)})
    >>> model(jnp.ones((1, 3))).tolist()
    [[3.0, 3.0]]
    """
    nnx.update(model, split(with_params(model, arrays))[1])


def get_weights(model: nnx.Module) -> Weights:
    """A copy of the weights under canonical names. Raises WeightsError unless it is an MLP.

    >>> import jax_mlp as d2l
    >>> get_weights(d2l.MLPScratch(784, 10, 256, lr=0.1))
    Weights(784-256-10)
    """
    arrays = {name: np.array(array) for name, array in named_params(model).items()}
    return Weights(arrays, where=type(model).__name__)


def set_weights(model: nnx.Module, weights: Weights) -> None:
    """Put weights into a model, whichever way it names them. Raises ValueError if it has others.

    >>> import jax_mlp as d2l
    >>> one, other = (d2l.MLPScratch(6, 3, 4, lr=0.1) for _ in range(2))
    >>> set_weights(other, get_weights(one))
    >>> bool((one.W1 == other.W1).all())
    True
    """
    layout = "scratch" if "W1" in named_params(model) else "flax"
    set_params(model, weights.to_layout(layout))


def save(model: nnx.Module, path: str | os.PathLike) -> Path:
    """Write the weights as named by the model: a safetensors file.

    >>> import tempfile, jax_mlp as d2l
    >>> path = save(d2l.MLPScratch(6, 3, 4, lr=0.1), tempfile.mkdtemp() + "/w.safetensors")
    >>> Weights.load(path)
    Weights(6-4-3)
    """
    layout = "scratch" if "W1" in named_params(model) else "flax"
    return get_weights(model).save(path, layout)


def load(model: nnx.Module, path: str | os.PathLike) -> None:
    """Read a safetensors file of any layout into a model.

    >>> import tempfile, jax_mlp as d2l
    >>> one, other = (d2l.MLPScratch(6, 3, 4, lr=0.1) for _ in range(2))
    >>> load(other, save(one, tempfile.mkdtemp() + "/w.safetensors"))
    >>> bool((one.W1 == other.W1).all())
    True
    """
    set_weights(model, Weights.load(path))
