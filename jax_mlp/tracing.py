"""Training steps operation by operation: what is compared to find where two runs part."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jax_mlp.checkpoint import named_params, with_params
from jax_mlp.reproducible import Arithmetic
from jax_mlp.step import Carry, gradient, update
from jax_mlp.training import Trainer
from mlp_core.weights import canonical_names


def recording(ops: Arithmetic, tape: Callable[[], Any]) -> Arithmetic:
    """The same operations, which put their results on a step's tape: "layer 1 linear"."""

    def record(name: str, function: Callable) -> Callable:
        def recorded(*args: Any, **options: Any) -> Any:
            value = function(*args, **options)
            layer = sum(key.endswith("linear") for key, _ in tape()) + (name == "linear")
            tape()[name if name == "loss" else f"layer {layer} {name}", True] = value
            return value

        return recorded

    return ops._replace(
        linear=record("linear", ops.linear),
        relu=record("relu", ops.relu),
        softmax_cross_entropy=record("loss", ops.softmax_cross_entropy),
    )


class Tracer:
    """Trains an MLP in reproducible arithmetic, as the Trainer does, and shows what is computed.

    The model is left as it was; `params` holds the weights by its own names.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.params = named_params(model)
        _, self._names = canonical_names(self.params)
        self._optimizer = model.configure_optimizers()
        self._velocity = self._optimizer.init(self.params)
        self._compiled = jax.jit(self._step)

    def step(self, X: Any, y: Any) -> dict[str, np.ndarray]:
        """One step: each operation's result, in the order of computation.

        inputs, labels, layer 1 linear, layer 1 relu, ..., loss, gradient of W2, ..., update of W1.
        Matrices are [in, out].
        """
        forward, grads, self.params, self._velocity = self._compiled(
            self.params, self._velocity, X, y
        )
        shown = {"inputs": X, "labels": y, **forward}
        shown |= {f"gradient of {name}": grads[self._names[name]] for name in [*self._names][::-1]}
        shown |= {f"update of {name}": self.params[own] for name, own in self._names.items()}
        return {name: np.asarray(value) for name, value in shown.items()}

    def _step(self, params: Any, velocity: Any, X: Any, y: Any) -> tuple:
        def assemble(params: Any, _: Any) -> Any:
            model: Any = with_params(self.model, params)
            model.trainer = trainer = Trainer(1)
            trainer.arithmetic = recording(self.model.ops, lambda: trainer.tape)
            return model

        taken, _ = gradient(assemble, Carry(params, None, velocity), (X, y))
        shown = OrderedDict((name, value) for (name, _), value in taken.tape.items())
        grads = taken.gradients
        return shown, grads, *update(self._optimizer, params, grads, velocity)
