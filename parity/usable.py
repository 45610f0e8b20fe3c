"""What can't be compared: refused with its reason before any level is climbed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.nnx as nnx
import numpy as np

from parity.sides import JaxSide, TorchSide


class FunctionModel(nnx.Module):
    """logits = function(params, X), with params a flat {name: array}, as an NNX module."""

    def __init__(self, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
        self.function, self.names = function, tuple(params)
        for name, array in params.items():
            if np.ndim(array) == 0 and not hasattr(array, "dtype"):
                raise TypeError(
                    f"params: '{name}' is {type(array).__name__}, expected an array; nested "
                    "parameters need a flat dict"
                )
            setattr(self, name, nnx.Param(array))

    def __call__(self, X: Any) -> Any:
        return self.function({name: getattr(self, name)[...] for name in self.names}, X)


def as_module(jax_model: Any) -> nnx.Module:
    """The NNX module itself, or (function, params) as one. Raises TypeError for anything else."""
    if isinstance(jax_model, nnx.Module):
        return jax_model
    if isinstance(jax_model, tuple) and len(jax_model) == 2 and callable(jax_model[0]):
        return FunctionModel(*jax_model)
    raise TypeError(
        f"jax: a {type(jax_model).__module__}.{type(jax_model).__name__}, expected a "
        "flax.nnx.Module, or (function, params) with function(params, X) -> logits"
    )


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
