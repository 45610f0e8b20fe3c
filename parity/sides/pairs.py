"""Where both frameworks meet: the two sides, and the book's pairs of models."""

from collections.abc import Sequence
from typing import Any

import flax.nnx as nnx
import torch

import jax_mlp
import torch_mlp
from parity.sides.jax_side import JaxSide
from parity.sides.side import Arrays, Evaluation, Examples, Pullback, Reference, Run, Side
from parity.sides.torch_side import TorchData, TorchSide, TorchTrainer, torch_threads

__all__ = [
    "Arrays",
    "Evaluation",
    "Examples",
    "JaxSide",
    "Pullback",
    "Reference",
    "Run",
    "Side",
    "TorchData",
    "TorchSide",
    "TorchTrainer",
    "book_pair",
    "torch_threads",
]


def book_pair(
    kind: str,
    hiddens: Sequence[int],
    lr: float,
    seed: int,
    inputs: int = 784,
    outputs: int = 10,
    sigma: float | None = None,
    activation: str = "relu",
) -> tuple[nnx.Module, torch.nn.Module]:
    """(JAX model, Torch model) of inputs-hiddens-outputs: "scratch" or "mlp", as d2l 5.2 builds
    them. sigma: the spread of normal initial weights; None: the models' own initial weights.

    The Torch model has the weights that torch.manual_seed(seed) gives it; Torch's global generator
    is left as it was.
    """
    options: dict[str, Any] = {"activation": activation}
    if sigma is not None:
        options["sigma"] = sigma
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "scratch":
            sizes = inputs, outputs, hiddens
            ours = jax_mlp.MLPScratch(*sizes, lr, **options)
            return ours, torch_mlp.MLPScratch(*sizes, lr, **options)
        theirs = torch_mlp.MLP(outputs, hiddens, lr, **options)
        theirs(torch.zeros(1, inputs))  # lazy layers draw their weights now, under the seed
        return jax_mlp.MLP(outputs, hiddens, lr, inputs, **options), theirs
