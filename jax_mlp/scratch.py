"""The MLP from scratch, in raw jnp: parameters are a dict of arrays (d2l 5.2.1)."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt

from jax_mlp import layers, programs
from jax_mlp.classifier import Classifier
from jax_mlp.keys import get_key
from jax_mlp.reproducible import Arithmetic
from mlp_core.activations import check_activation, not_reproducible
from mlp_core.arithmetic import any_arithmetic, checked
from mlp_core.limits import not_negative
from mlp_core.weights import layer_sizes

Params = dict[str, Array]


@programs.kept()
def init(
    key: PRNGKeyArray | UInt[Array, "2"], sizes: Sequence[int], sigma: float | int = 0.01
) -> Params:
    """W1 b1 ... Wn bn for layers of these widths: W ~ sigma * N(0, 1) of shape [in, out], b = 0.

    >>> {name: array.shape for name, array in init(jax.random.key(0), (784, 256, 10)).items()}
    {'W1': (784, 256), 'b1': (256,), 'W2': (256, 10), 'b2': (10,)}
    """
    params: Params = {}
    keys = jax.random.split(key, len(sizes) - 1)
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        params[f"W{i}"] = jax.random.normal(keys[i - 1], (inputs, outputs)) * sigma
        params[f"b{i}"] = jnp.zeros(outputs)
    return params


def relu(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(X, 0), whose gradient at a tie is 1/2.

    >>> relu(jnp.array([-1.0, 0.0, 2.0])).tolist()
    [0.0, 0.0, 2.0]
    """
    return jnp.maximum(X, 0)


def sigmoid(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / (1 + e^-x), by tanh: the gradient of that formula is NaN where e^-x overflows.

    >>> sigmoid(jnp.array([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (1 + jnp.tanh(X / 2)) / 2


def gelu(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """x/2 (1 + erf(x / sqrt 2)).

    >>> gelu(jnp.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.158..., 0.0, 0.841...]
    """
    return X / 2 * (1 + lax.erf(X / math.sqrt(2)))


def gelu_tanh(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    >>> gelu_tanh(jnp.array([-1.0, 0.0, 1.0])).round(4).tolist()
    [-0.158..., 0.0, 0.841...]
    """
    return X / 2 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, "batch"]:
    """Softmax cross-entropy of each example, in nats: logsumexp(logits) - logits[label].

    >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).round(3).tolist()  # log 4, twice
    [1.38..., 1.38...]
    """
    return jax.nn.logsumexp(logits, axis=1) - layers.of_labels(logits, labels)


def softmax_cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], averaged: bool = True
) -> Float[Array, ""] | Float[Array, "batch"]:
    """The mean of it, or one for each example.

    >>> float(softmax_cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).round(3))
    1.38...
    """
    losses = cross_entropy(logits, labels)
    return losses.mean() if averaged else losses


NATIVE = layers.NATIVE._replace(
    relu=relu,
    sigmoid=sigmoid,
    gelu=gelu,
    gelu_tanh=gelu_tanh,
    softmax_cross_entropy=softmax_cross_entropy,
)


def forward(
    params: Params,
    X: Shaped[Array, "batch inputs"],
    ops: Arithmetic = NATIVE,
    activation: str = "relu",
) -> Float[Array, "batch outputs"]:
    """H = f(X W1 + b1); logits = H W2 + b2, for any number of hidden layers and an activation f.

    >>> forward(init(jax.random.key(0), (6, 4, 3)), jnp.ones((2, 6))).shape
    (2, 3)
    """
    f, n = getattr(ops, activation), len(params) // 2
    for i in range(1, n):
        X = f(ops.linear(X, params[f"W{i}"], params[f"b{i}"]))
    return ops.linear(X, params[f"W{n}"], params[f"b{n}"])


def loss(
    params: Params,
    X: Float[Array, "batch inputs"],
    labels: Int[Array, "batch"],
    ops: Arithmetic = NATIVE,
    activation: str = "relu",
) -> Float[Array, ""]:
    """Mean softmax cross-entropy, in nats. Labels in [0, classes): jit can't check them.

    >>> params = init(jax.random.key(0), (6, 4, 3), sigma=0.0)
    >>> float(loss(params, jnp.ones((2, 6)), jnp.array([0, 2])).round(3))  # log 3
    1.09...
    """
    return ops.softmax_cross_entropy(forward(params, X, ops, activation), labels)


def step(
    params: Params,
    batch: tuple[Float[Array, "batch inputs"], Int[Array, "batch"]],
    *,
    lr: float | Float[Array, ""],
    activation: str = "relu",
) -> tuple[Params, Float[Array, ""]]:
    """One step of SGD: (params - lr * gradient, loss before the step).

    >>> params = init(jax.random.key(0), (6, 4, 3))
    >>> batch = jnp.ones((2, 6)), jnp.array([0, 2])
    >>> params, before = step(params, batch, lr=0.1)
    >>> bool(loss(params, *batch) < before)
    True
    """
    value, grads = jax.value_and_grad(loss)(params, *batch, activation=activation)
    return jax.tree.map(lambda w, g: w - lr * g, params, grads), value


class MLPScratch(Classifier):
    """The functions above as a model for the Trainer, with the constructor of Torch's.

    >>> import jax_mlp as d2l
    >>> d2l.MLPScratch(num_inputs=784, num_outputs=10, num_hiddens=256, lr=0.1).summary()
    MLPScratch
      W1     784 x 256  200,704
      W2      256 x 10    2,560
      b1           256      256
      b2            10       10
      total             203,530
    """

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
        for name, array in init(get_key(), sizes, sigma).items():
            setattr(self, name, array)

    @property
    def params(self) -> Params:
        """The parameters by name."""
        numbers = range(1, self.num_layers + 1)
        return {f"{kind}{i}": getattr(self, f"{kind}{i}") for i in numbers for kind in "Wb"}

    @any_arithmetic
    def forward(self, X: Shaped[Array, "batch ..."]) -> Float[Array, "batch outputs"]:
        """Logits of images of any shape with num_inputs pixels."""
        X = X.reshape((-1, self.num_inputs))
        return forward(self.params, X, self.ops, self.activation)

    def not_reproducible(self, optimizer: Any = None) -> list[str]:
        """See Module; an activation other than ReLU is a reason."""
        return not_reproducible(self.activation) + super().not_reproducible(optimizer)
