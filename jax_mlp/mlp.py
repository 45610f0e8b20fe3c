"""The MLP from Flax NNX's layers (d2l 5.2.2)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
from flax import nnx
from jaxtyping import Array, Shaped

from jax_mlp import programs
from jax_mlp.classifier import Classifier
from jax_mlp.keys import get_key
from jax_mlp.layers import NATIVE, dot_general
from mlp_core.activations import check_activation
from mlp_core.arithmetic import any_arithmetic, checked
from mlp_core.limits import not_negative
from mlp_core.weights import layer_sizes


@any_arithmetic
def flatten(X: Shaped[Array, "batch ..."]) -> Shaped[Array, "batch features"]:
    return X.reshape((X.shape[0], -1))


class MLP(Classifier):
    """Flatten, then Linear and an activation for each hidden layer, then Linear.

    The gradient of ReLU at 0 is 0.

        >>> import jax_mlp as d2l
        >>> d2l.MLP(num_outputs=10, num_hiddens=256, lr=0.1)(jax.numpy.zeros((2, 28, 28))).shape
        (2, 10)
    """

    @programs.kept()
    def __init__(
        self,
        num_outputs: int,
        num_hiddens: int | Sequence[int],
        lr: float | int,
        num_inputs: int = 784,
        init: Literal["torch", "flax"] = "torch",
        rngs: nnx.Rngs | None = None,
        arithmetic: str = "native",
        activation: str = "relu",
        sigma: float | int | None = None,
    ) -> None:
        """num_inputs: NNX has no lazy layers, so the number of pixels is an argument.

        init: "torch" draws weights and biases from U(-1/sqrt(fan_in), +1/sqrt(fan_in)); "flax"
        draws weights from a truncated normal of variance 1/fan_in (LeCun) and sets biases to 0.
        arithmetic: "native" or "reproducible". activation: a name of mlp_core.activations.
        sigma: in the place of init, draws weights from sigma * N(0, 1) and sets biases to 0.
        """
        super().__init__()
        self.save_hyperparameters()
        checked(arithmetic)
        check_activation(activation)
        if sigma is not None:
            not_negative(type(self).__name__, "sigma", sigma)
        if init not in ("torch", "flax"):
            raise ValueError(f"MLP: init = {init!r}, expected 'torch' or 'flax'")
        rngs = nnx.Rngs(get_key()) if rngs is None else rngs
        layers: list = [flatten]
        sizes = layer_sizes(num_inputs, num_hiddens, num_outputs)
        for inputs, outputs in zip(sizes, sizes[1:], strict=False):
            own = torch_init(inputs) if init == "torch" else {}
            if sigma is not None:
                own = {"kernel_init": nnx.initializers.normal(sigma)}
            linear = nnx.Linear(inputs, outputs, rngs=rngs, dot_general=dot_general, **own)
            layers += [linear, getattr(NATIVE, activation)]
        self.net = nnx.Sequential(*layers[:-1])


def torch_init(fan_in: int) -> dict[str, Any]:
    """What torch.nn.Linear does by default, for weights and biases alike."""
    spread = 1 / math.sqrt(fan_in)

    def uniform(
        key: Any, shape: Any, dtype: Any = jax.numpy.float32, out_sharding: Any = None
    ) -> Any:
        return jax.random.uniform(key, shape, dtype, -spread, spread, out_sharding=out_sharding)

    return {"kernel_init": uniform, "bias_init": uniform}
