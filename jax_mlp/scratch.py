"""The MLP from scratch, in raw jnp: parameters are a dict of arrays (d2l 5.2.1)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from jax_mlp import layers
from jax_mlp.classifier import Classifier
from jax_mlp.keys import get_key
from jax_mlp.reproducible import Arithmetic
from mlp_core.arithmetic import any_arithmetic, checked
from mlp_core.weights import layer_sizes

Params = dict[str, Array]


def init(
    key: PRNGKeyArray | UInt[Array, "2"], sizes: Sequence[int], sigma: float | int = 0.01
) -> Params:
    """W1 b1 ... Wn bn for layers of these widths: W ~ sigma * N(0, 1) of shape [in, out], b = 0."""
    params: Params = {}
    keys = jax.random.split(key, len(sizes) - 1)
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        params[f"W{i}"] = jax.random.normal(keys[i - 1], (inputs, outputs)) * sigma
        params[f"b{i}"] = jnp.zeros(outputs)
    return params


def relu(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(X, 0), whose gradient at a tie is 1/2."""
    return jnp.maximum(X, 0)


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, "batch"]:
    """Softmax cross-entropy of each example, in nats: logsumexp(logits) - logits[label]."""
    chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - chosen


def softmax_cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], averaged: bool = True
) -> Float[Array, ""] | Float[Array, "batch"]:
    """The mean of it, or one for each example."""
    losses = cross_entropy(logits, labels)
    return losses.mean() if averaged else losses


NATIVE = layers.NATIVE._replace(relu=relu, softmax_cross_entropy=softmax_cross_entropy)


def forward(
    params: Params, X: Float[Array, "batch inputs"], ops: Arithmetic = NATIVE
) -> Float[Array, "batch outputs"]:
    """H = relu(X W1 + b1); logits = H W2 + b2, for any number of hidden layers."""
    n = len(params) // 2
    for i in range(1, n):
        X = ops.relu(ops.linear(X, params[f"W{i}"], params[f"b{i}"]))
    return ops.linear(X, params[f"W{n}"], params[f"b{n}"])


def loss(
    params: Params,
    X: Float[Array, "batch inputs"],
    labels: Int[Array, "batch"],
    ops: Arithmetic = NATIVE,
) -> Float[Array, ""]:
    """Mean softmax cross-entropy, in nats. Labels in [0, classes): jit can't check them."""
    return ops.softmax_cross_entropy(forward(params, X, ops), labels)


def step(
    params: Params,
    batch: tuple[Float[Array, "batch inputs"], Int[Array, "batch"]],
    *,
    lr: float | Float[Array, ""],
) -> tuple[Params, Float[Array, ""]]:
    """One step of SGD: (params - lr * gradient, loss before the step)."""
    value, grads = jax.value_and_grad(loss)(params, *batch)
    return jax.tree.map(lambda w, g: w - lr * g, params, grads), value


class MLPScratch(Classifier):
    """The functions above as a model for the Trainer, with the constructor of Torch's."""

    native = NATIVE
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
        for name, array in init(get_key(), sizes, sigma).items():
            setattr(self, name, array)

    @property
    def params(self) -> Params:
        """The parameters by name."""
        numbers = range(1, self.num_layers + 1)
        return {f"{kind}{i}": getattr(self, f"{kind}{i}") for i in numbers for kind in "Wb"}

    @any_arithmetic
    def forward(self, X: Float[Array, "batch ..."]) -> Float[Array, "batch outputs"]:
        """Logits of images of any shape with num_inputs pixels."""
        return forward(self.params, X.reshape((-1, self.num_inputs)), self.ops)
