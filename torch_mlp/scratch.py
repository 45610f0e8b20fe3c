"""The MLP from scratch: explicit W1 b1 ... Wn bn (d2l 5.2.1)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mlp_core.arithmetic import any_arithmetic, checked
from mlp_core.weights import layer_sizes
from torch_mlp import layers
from torch_mlp.classifier import Classifier


def relu(X: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(X, 0), whose gradient at a tie is 1/2."""
    return torch.max(X, torch.zeros_like(X))


class MLPScratch(Classifier):
    """H = relu(X W1 + b1); O = H W2 + b2, for any number of hidden layers.

    W ~ sigma * N(0, 1) of shape [in, out], b = 0.
    """

    native = layers.NATIVE._replace(relu=relu)
    relu_tie = 0.5

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        num_hiddens: int | Sequence[int],
        lr: float | int,
        sigma: float | int = 0.01,
        arithmetic: str = "native",
    ) -> None:
        """sigma: the spread of the initial weights. arithmetic: "native" or "reproducible"."""
        super().__init__()
        self.save_hyperparameters()
        checked(arithmetic)
        sizes = layer_sizes(num_inputs, num_hiddens, num_outputs)
        self.num_layers = len(sizes) - 1
        for i in range(1, len(sizes)):
            W = torch.randn(sizes[i - 1], sizes[i]) * sigma
            self.register_parameter(f"W{i}", nn.Parameter(W))
            self.register_parameter(f"b{i}", nn.Parameter(torch.zeros(sizes[i])))

    @any_arithmetic
    def forward(self, X: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        """Logits of images of any shape with num_inputs pixels."""
        ops, n = self.ops, self.num_layers
        H = X.reshape((-1, self.num_inputs))
        for i in range(1, n):
            H = ops.relu(ops.linear(H, getattr(self, f"W{i}"), getattr(self, f"b{i}")))
        return ops.linear(H, getattr(self, f"W{n}"), getattr(self, f"b{n}"))
