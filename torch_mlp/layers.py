"""Operations in native arithmetic, and an nn.Sequential computed with those of any arithmetic."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from mlp_core.arithmetic import NotReproducible, is_marked
from torch_mlp.reproducible import Arithmetic, Params

# Torch skips labels equal to ignore_index, by default -100, in silence. No label is this one, so
# cross_entropy itself refuses every label outside [0, classes).
_IGNORE_NOTHING = torch.iinfo(torch.int64).min


def linear(
    X: Shaped[Tensor, "... inputs"], W: Float[Tensor, "inputs outputs"], b: Float[Tensor, "outputs"]
) -> Float[Tensor, "... outputs"]:
    """X W + b. Integers count as floats, as in JAX's product."""
    return torch.matmul(X if X.is_floating_point() else X.to(W.dtype), W) + b


def softmax_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], averaged: bool = True
) -> Float[Tensor, ""] | Float[Tensor, "batch"]:
    """See Classifier.loss."""
    reduction = "mean" if averaged else "none"
    return F.cross_entropy(logits, labels, reduction=reduction, ignore_index=_IGNORE_NOTHING)


def clipped(grads: Params, clip: float | int) -> Params:
    """The gradients, scaled so that their global norm is at most clip."""
    norm = torch.sqrt(sum((torch.sum(g**2) for g in grads.values()), torch.zeros(())))
    scale = torch.where(norm > clip, clip / norm, 1.0)  # `if` would wait for a GPU
    return {k: g * scale for k, g in grads.items()}


NATIVE = Arithmetic(
    linear,
    F.relu,
    softmax_cross_entropy,
    torch.mean,
    clipped,
    torch.optim.SGD,
    tanh=torch.tanh,
    sigmoid=torch.sigmoid,
    gelu=F.gelu,
    gelu_tanh=partial(F.gelu, approximate="tanh"),
)


class Flatten(nn.Flatten):
    """nn.Flatten, whose integers become floats, as in JAX's product."""

    def forward(self, X: Tensor) -> Tensor:
        X = super().forward(X)
        return X if X.is_floating_point() else X.to(torch.float32)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
}


def run(net: nn.Sequential, X: Tensor, ops: Arithmetic) -> Tensor:
    """net(X), computed by ops. Raises NotReproducible for a net with `problems`."""
    if why := [*problems(net)]:
        raise NotReproducible(net, why)
    if any(map(is_lazy, net.parameters())):
        with torch.no_grad():
            net(X)  # lazy layers take their shapes and draw their weights
    for layer in net:
        if isinstance(layer, nn.Linear):
            bias = X.new_zeros(layer.out_features) if layer.bias is None else layer.bias
            X = ops.linear(X, layer.weight.T, bias)
        elif isinstance(layer, nn.Flatten):
            X = nn.Flatten.forward(layer, X)  # bytes are pixels to the arithmetic's linear
        else:
            X = ops.relu(X) if isinstance(layer, nn.ReLU) else layer(X)
    return X


def problems(net: Any) -> Iterator[str]:
    """A reason for each layer that `run` can't compute by other operations than the layer's own."""
    if type(net) is not nn.Sequential:
        yield f"'net' is a {type(net).__name__}, expected an nn.Sequential"
        return
    for i, layer in enumerate(net):
        known = type(layer) in (nn.Linear, nn.LazyLinear, nn.ReLU, nn.Flatten, Flatten)
        if not known and not is_marked(layer.forward):
            yield (
                f"'net.{i}' is {type(layer).__name__}, expected nn.Linear, nn.ReLU, nn.Flatten, or "
                "a module whose forward is marked @any_arithmetic"
            )
        elif layer._forward_hooks or (
            layer._forward_pre_hooks and type(layer) is not nn.LazyLinear
        ):
            yield f"'net.{i}' has forward hooks, which would not be called"
