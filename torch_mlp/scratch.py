"""The MLP from scratch: explicit W1 b1 ... Wn bn (d2l 5.2.1)."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mlp_core.activations import check_activation, not_reproducible
from mlp_core.arithmetic import any_arithmetic, checked
from mlp_core.limits import not_negative
from mlp_core.weights import layer_sizes
from torch_mlp import layers
from torch_mlp.classifier import Classifier


def relu(X: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """max(X, 0), whose gradient at a tie is 1/2.

    >>> relu(torch.tensor([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    return torch.max(X, torch.zeros_like(X))


def sigmoid(X: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """1 / (1 + e^-x), by tanh: the gradient of that formula is NaN where e^-x overflows."""
    return (1 + torch.tanh(X / 2)) / 2


def gelu(X: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x/2 (1 + erf(x / sqrt 2))."""
    return X / 2 * (1 + torch.erf(X / math.sqrt(2)))


def gelu_tanh(X: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return X / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))


class MLPScratch(Classifier):
    """H = f(X W1 + b1); O = H W2 + b2, for any number of hidden layers and an activation f.

    W ~ sigma * N(0, 1) of shape [in, out], b = 0.

        >>> import torch_mlp as d2l
        >>> d2l.MLPScratch(num_inputs=784, num_outputs=10, num_hiddens=256, lr=0.1).summary()
        MLPScratch
          W1     784 x 256  200,704
          b1           256      256
          W2      256 x 10    2,560
          b2            10       10
          total             203,530
    """

    native = layers.NATIVE._replace(relu=relu, sigmoid=sigmoid, gelu=gelu, gelu_tanh=gelu_tanh)
    relu_tie = 0.5

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        num_hiddens: int | Sequence[int],
        lr: float | int,
        sigma: float | int = 0.01,
        arithmetic: str = "native",
        activation: str = "relu",
    ) -> None:
        """sigma: the spread of the initial weights. arithmetic: "native" or "reproducible".
        activation: a name of mlp_core.activations.
        """
        super().__init__()
        self.save_hyperparameters()
        checked(arithmetic)
        check_activation(activation)
        not_negative(type(self).__name__, "sigma", sigma)
        sizes = layer_sizes(num_inputs, num_hiddens, num_outputs)
        self.num_layers = len(sizes) - 1
        for i in range(1, len(sizes)):
            W = torch.randn(sizes[i - 1], sizes[i]) * sigma
            self.register_parameter(f"W{i}", nn.Parameter(W))
            self.register_parameter(f"b{i}", nn.Parameter(torch.zeros(sizes[i])))

    @any_arithmetic
    def forward(self, X: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch outputs"]:
        """Logits of images of any shape with num_inputs pixels."""
        ops, n = self.ops, self.num_layers
        f = getattr(ops, self.activation)
        H = X.reshape((-1, self.num_inputs))
        for i in range(1, n):
            H = f(ops.linear(H, getattr(self, f"W{i}"), getattr(self, f"b{i}")))
        return ops.linear(H, getattr(self, f"W{n}"), getattr(self, f"b{n}"))

    def not_reproducible(self, optimizer: Any = None) -> list[str]:
        """See Module; an activation other than ReLU is a reason."""
        return not_reproducible(self.activation) + super().not_reproducible(optimizer)
