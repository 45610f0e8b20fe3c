"""The MLP from Torch's layers (d2l 5.2.2)."""

from collections.abc import Sequence

from torch import nn

from mlp_core.arithmetic import checked
from mlp_core.weights import layer_sizes
from torch_mlp.classifier import Classifier


class MLP(Classifier):
    """Flatten, then Linear and ReLU for each hidden layer, then Linear.

    The layers learn the number of inputs at the first forward pass; then they draw their weights
    and biases from U(-1/sqrt(fan_in), +1/sqrt(fan_in)). The gradient of ReLU at 0 is 0.
    """

    def __init__(
        self,
        num_outputs: int,
        num_hiddens: int | Sequence[int],
        lr: float | int,
        arithmetic: str = "native",
    ) -> None:
        """arithmetic: "native" or "reproducible"."""
        super().__init__()
        self.save_hyperparameters()
        checked(arithmetic)
        layers: list[nn.Module] = [nn.Flatten()]
        for width in layer_sizes(1, num_hiddens, num_outputs)[1:]:
            layers += [nn.LazyLinear(width), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])
