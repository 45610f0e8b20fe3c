"""Weights in and out of a Torch model, as checked arrays and safetensors files."""

import os
from pathlib import Path

import torch
from torch import nn

from mlp_core.weights import Weights


def get_weights(model: nn.Module) -> Weights:
    """A copy of the weights under canonical names. Raises WeightsError unless it is an MLP."""
    state = model.state_dict()
    return Weights(
        {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()},
        where=type(model).__name__,
    )


def set_weights(model: nn.Module, weights: Weights) -> None:
    """Put weights into a model, whichever way it names them; lazy layers take their shapes.

    Raises RuntimeError, with every mismatch, if the model is of other sizes.
    """
    layout = "scratch" if "W1" in dict(model.named_parameters()) else "torch"
    state = {name: torch.from_numpy(a.copy()) for name, a in weights.to_layout(layout).items()}
    model.load_state_dict(state)


def save(model: nn.Module, path: str | os.PathLike) -> Path:
    """Write the weights in Torch's layout: a state_dict in a safetensors file."""
    return get_weights(model).save(path, "torch")


def load(model: nn.Module, path: str | os.PathLike) -> None:
    """Read a safetensors file of any layout into a model."""
    set_weights(model, Weights.load(path))
