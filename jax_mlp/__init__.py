"""The multilayer perceptron of d2l 5.2 in JAX: `import jax_mlp as d2l`."""

from typing import Any

from mlp_core.extras import needs

needs("jax_mlp", "jax")

import jax.numpy as jnp

from jax_mlp import layers
from jax_mlp.classifier import Classifier, Module
from jax_mlp.data import ArrayLoader, DataModule, FashionMNIST
from jax_mlp.keys import get_key, manual_seed
from jax_mlp.mlp import MLP
from jax_mlp.scratch import MLPScratch, relu
from jax_mlp.sweep import Sweep
from jax_mlp.training import Trainer
from mlp_core.arithmetic import any_arithmetic
from mlp_core.history import History
from mlp_core.shell import HyperParameters, ProgressBoard, add_to_class, show_images


def reshape(x: Any, *args: Any, **kwargs: Any) -> Any:
    """x.reshape of an array or an nnx.Param; the new shape as a tuple or as so many arguments.

    >>> reshape(jnp.arange(6), (2, 3)).shape, reshape(jnp.arange(6), -1, 2).shape
    ((2, 3), (3, 2))
    """
    return jnp.asarray(x).reshape(*args, **kwargs)


def matmul(a: Any, b: Any) -> Any:
    """jnp.matmul of arrays or nnx.Params.

    >>> matmul(jnp.eye(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    a, b = jnp.asarray(a), jnp.asarray(b)
    plain = a.ndim == b.ndim == 2 and a.dtype == b.dtype
    return layers.matmul(a, b) if plain else jnp.matmul(a, b)


__all__ = [
    "MLP",
    "ArrayLoader",
    "Classifier",
    "DataModule",
    "FashionMNIST",
    "History",
    "HyperParameters",
    "MLPScratch",
    "Module",
    "ProgressBoard",
    "Sweep",
    "Trainer",
    "add_to_class",
    "any_arithmetic",
    "get_key",
    "manual_seed",
    "matmul",
    "relu",
    "reshape",
    "show_images",
]
