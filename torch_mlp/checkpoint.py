"""Weights in and out of a Torch model, as checked arrays and safetensors files."""

import os
from pathlib import Path

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from mlp_core.weights import Weights, WeightsError


def get_weights(model: nn.Module) -> Weights:
    """A copy of the weights under canonical names. Raises WeightsError unless it is an MLP.

    >>> import torch_mlp as d2l
    >>> get_weights(d2l.MLPScratch(784, 10, 256, lr=0.1))
    Weights(784-256-10)
    """
    where, state = type(model).__name__, model.state_dict()
    if lazy := [name for name, tensor in state.items() if is_lazy(tensor)]:
        raise WeightsError(
            where,
            [
                f"'{name}' has no values yet, expected a forward pass before: model.apply_init([X])"
                for name in lazy
            ],
        )
    arrays = {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}
    return Weights(arrays, where=where)


def set_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model, whichever way it names them; lazy layers take their shapes.

    Raises ValueError with all names and shapes that do not fit.

    >>> import torch_mlp as d2l
    >>> one, other = d2l.MLPScratch(6, 3, 4, lr=0.1), d2l.MLP(3, 4, lr=0.1)  # W1 and net.1.weight
    >>> set_weights(other, get_weights(one))
    >>> torch.equal(one.W1, other.net[1].weight.T)
    True
    """
    layout = "scratch" if "W1" in dict(model.named_parameters()) else "torch"
    given, own = weights.to_layout(layout), expected_shapes(model)
    wrong = [f"'{name}' is missing" for name in own if name not in given]
    wrong += [f"'{name}' is not in the model" for name in given if name not in own]
    wrong += [
        f"'{name}' has shape {given[name].shape}, expected {shape}"
        for name, shape in own.items()
        if name in given and not _fits(given[name].shape, shape)
    ]
    if wrong:
        raise ValueError("\n  ".join([f"{type(model).__name__}: weights do not fit:", *wrong]))
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in given.items()})


def expected_shapes(model: nn.Module) -> dict[str, tuple[int | None, ...]]:
    """The shape of every parameter; None for the inputs that a lazy layer does not know yet.

    Torch itself lets such a layer take weights with any number of outputs.

    >>> expected_shapes(nn.Sequential(nn.LazyLinear(4)))
    {'0.weight': (4, None), '0.bias': (4,)}
    """
    shapes: dict[str, tuple[int | None, ...]] = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if not is_lazy(tensor)
    }
    for name, layer in model.named_modules():
        if isinstance(layer, nn.LazyLinear) and layer.has_uninitialized_params():
            shapes[f"{name}.weight"] = (layer.out_features, None)
            shapes[f"{name}.bias"] = (layer.out_features,)
    return shapes


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        b in (None, a) for a, b in zip(shape, expected, strict=True)
    )


def save(model: nn.Module, path: str | os.PathLike) -> Path:
    """Write the weights in Torch's layout: a state_dict in a safetensors file.

    >>> import tempfile, torch_mlp as d2l
    >>> path = save(d2l.MLPScratch(6, 3, 4, lr=0.1), tempfile.mkdtemp() + "/w.safetensors")
    >>> Weights.load(path)
    Weights(6-4-3)
    """
    return get_weights(model).save(path, "torch")


def load(model: nn.Module, path: str | os.PathLike) -> None:
    """Read a safetensors file of any layout into a model.

    >>> import tempfile, torch_mlp as d2l
    >>> one, other = (d2l.MLPScratch(6, 3, 4, lr=0.1) for _ in range(2))
    >>> load(other, save(one, tempfile.mkdtemp() + "/w.safetensors"))
    >>> torch.equal(one.W1, other.W1)
    True
    """
    set_weights(model, Weights.load(path))
