"""What can't be compared: refused with its reason before any level is climbed."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.nnx as nnx
import jax
import numpy as np

from parity.sides.pairs import JaxSide, TorchSide


class FunctionModel(nnx.Module):
    """logits = function(params, X), with params any pytree of arrays, as an NNX module.

    A parameter's name is its path, joined by dots: "layers.0.W".
    """

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        self.function = function
        leaves, self.structure = jax.tree_util.tree_flatten_with_path(params)
        self.names = tuple(
            jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves
        )
        for name, (_, leaf) in zip(self.names, leaves, strict=True):
            if not np.issubdtype(getattr(leaf, "dtype", object), np.floating) or hasattr(
                self, name
            ):
                raise TypeError(
                    f"params: '{name}' is {type(leaf).__name__} {leaf!r:.40}, expected an array of "
                    "floats under a name of its own"
                )
            setattr(self, name, nnx.Param(leaf))

    def __call__(self, X: Any) -> Any:
        leaves = [getattr(self, name)[...] for name in self.names]
        return self.function(jax.tree.unflatten(self.structure, leaves), X)


def told_apart(one: Any, other: Any) -> tuple[nnx.Module, Any]:
    """(JAX model as an NNX module, Torch module), given in either order.

    Raises TypeError unless one is a torch.nn.Module and the other a flax.nnx.Module or (function,
    params).
    """
    jax_model, torch_model = (other, one) if TorchSide.takes(one) else (one, other)
    if not TorchSide.takes(torch_model) or TorchSide.takes(jax_model):
        raise TypeError(
            f"models: {_type_name(one)} and {_type_name(other)}, expected one torch.nn.Module, and "
            "one flax.nnx.Module or (function, params)"
        )
    return as_module(jax_model), torch_model


def as_module(jax_model: Any) -> nnx.Module:
    """The NNX module itself, or (function, params) as one. Raises TypeError for anything else."""
    if isinstance(jax_model, nnx.Module):
        return jax_model
    if isinstance(jax_model, tuple) and len(jax_model) == 2 and callable(jax_model[0]):
        return FunctionModel(*jax_model)
    raise TypeError(
        f"jax: a {_type_name(jax_model)}, expected a flax.nnx.Module, or (function, params) with "
        "function(params, X) -> logits"
    )


def _type_name(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__name__}"


def as_arrays(data: Sequence[Any]) -> tuple[np.ndarray, ...]:
    """(X, y) or (X, y, X_val, y_val) as NumPy arrays.

    Raises ValueError for another number of arrays, an array on another device than the CPU, other
    types than float32 and integers, other lengths, or inputs that aren't finite.
    """
    if len(data) not in (2, 4):
        raise ValueError(f"data: {len(data)} arrays, expected (X, y) or (X, y, X_val, y_val)")
    for number, array in enumerate(data):
        device = getattr(getattr(array, "device", None), "type", "cpu")  # torch.device has a type
        if device != "cpu":
            raise ValueError(f"data: array {number} is on {device}, expected the CPU: tensor.cpu()")
    arrays = tuple(np.asarray(array) for array in data)
    for X, y in zip(arrays[::2], arrays[1::2], strict=True):
        if X.dtype != np.float32 or not np.issubdtype(y.dtype, np.integer) or len(X) != len(y):
            raise ValueError(
                f"data: X {X.dtype} {X.shape} and y {y.dtype} {y.shape}, "
                "expected float32 and integers, of one length"
            )
        if len(bad := np.argwhere(~np.isfinite(X))):
            first = tuple(map(int, bad[0]))
            raise ValueError(
                f"data: {len(bad)} inputs are not finite, the first at {first}: {X[first]}"
            )
    return arrays


def refuse_unusable(jax_side: JaxSide, torch_side: TorchSide) -> None:
    """Raises ValueError if outputs differ in shape, or a model isn't a function of its inputs."""
    X, _ = next(jax_side.batches())
    outputs = {"jax": jax_side.twice(X[:8]), "torch": torch_side.twice(X[:8])}
    shapes = {s: first.shape for s, (first, _) in outputs.items()}
    if shapes["jax"] != shapes["torch"]:
        raise ValueError(
            f"outputs: jax {shapes['jax']}, torch {shapes['torch']} for inputs {X[:8].shape}; "
            "models of different output shapes can't be the same"
        )
    for s, (first, second) in outputs.items():
        if not np.array_equal(first, second, equal_nan=True):
            raise ValueError(
                f"{s}: two calls of the model with the same inputs differ, in training mode; is "
                "there dropout? set its rate to 0 for the comparison"
            )
