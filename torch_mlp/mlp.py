"""The MLP from Torch's layers (d2l 5.2.2)."""

from collections.abc import Sequence
from functools import partial

from torch import nn

from mlp_core.activations import check_activation
from mlp_core.arithmetic import checked
from mlp_core.limits import not_negative
from mlp_core.weights import layer_sizes
from torch_mlp.classifier import Classifier
from torch_mlp.layers import ACTIVATIONS, Flatten


class MLP(Classifier):
    """Flatten, then Linear and an activation for each hidden layer, then Linear.

    The layers learn the number of inputs at the first forward pass; then they draw their weights
    and biases from U(-1/sqrt(fan_in), +1/sqrt(fan_in)), or as sigma says. The gradient of ReLU at 0
    is 0.

        >>> import torch
        >>> import torch_mlp as d2l
        >>> d2l.MLP(num_outputs=10, num_hiddens=256, lr=0.1)(torch.zeros(2, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_outputs: int,
        num_hiddens: int | Sequence[int],
        lr: float | int,
        arithmetic: str = "native",
        activation: str = "relu",
        sigma: float | int | None = None,
    ) -> None:
        """arithmetic: "native" or "reproducible". activation: a name of mlp_core.activations.
        sigma: draws weights from sigma * N(0, 1) and sets biases to 0.
        """
        super().__init__()
        self.save_hyperparameters()
        checked(arithmetic)
        check_activation(activation)
        if sigma is not None:
            not_negative(type(self).__name__, "sigma", sigma)
        layers: list[nn.Module] = [Flatten()]
        for width in layer_sizes(1, num_hiddens, num_outputs)[1:]:
            linear = nn.LazyLinear(width)
            if sigma is not None:  # what a lazy layer calls when it has learnt its shape
                linear.reset_parameters = partial(normal, linear, sigma)  # type: ignore[method-assign]
            layers += [linear, ACTIVATIONS[activation]()]
        self.net = nn.Sequential(*layers[:-1])


def normal(layer: nn.Linear, sigma: float | int) -> None:
    """Draw W ~ sigma * N(0, 1), b = 0."""
    nn.init.normal_(layer.weight, std=sigma)
    nn.init.zeros_(layer.bias)
