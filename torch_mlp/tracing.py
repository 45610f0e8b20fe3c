"""Training steps operation by operation: what is compared to find where two runs part."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mlp_core.weights import canonical_names
from torch_mlp.reproducible import Arithmetic
from torch_mlp.training import Trainer

Tape = dict[str, Any]


def recording(ops: Arithmetic, tape: Tape) -> Arithmetic:
    """The same operations, which put their results on the tape by name: "layer 1 linear"."""

    def record(name: str, function: Callable) -> Callable:
        def recorded(*args: Any, **options: Any) -> Any:
            value = function(*args, **options)
            layer = sum(key.endswith("linear") for key in tape) + (name == "linear")
            tape[name if name == "loss" else f"layer {layer} {name}"] = value.detach()
            return value

        return recorded

    return ops._replace(
        linear=record("linear", ops.linear),
        relu=record("relu", ops.relu),
        softmax_cross_entropy=record("loss", ops.softmax_cross_entropy),
    )


class Tracer:
    """Trains an MLP in reproducible arithmetic, as the Trainer does, and shows what is computed.

    Its steps change the model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.params = dict(model.named_parameters())
        self._layout, self._names = canonical_names(self.params)
        self._ops, self._optimizer = model.ops, model.configure_optimizers()

    def step(self, X: Any, y: Any) -> dict[str, np.ndarray]:
        """One step: each operation's result, in the order of computation.

        inputs, labels, layer 1 linear, layer 1 relu, ..., loss, gradient of W2, ..., update of W1.
        Matrices are [in, out].
        """
        tape: Tape = {"inputs": X, "labels": y}
        trainer = self.model.trainer = Trainer(1, arithmetic=recording(self._ops, tape))
        trainer.train_batch_idx, trainer.num_train_batches = 0, 1
        loss = self.model.training_step((X, y))
        self._optimizer.zero_grad()
        with torch.no_grad():
            loss.backward()
        grads = {name: self.params[own].grad for name, own in self._names.items()}
        shown = {name: value.numpy() for name, value in tape.items()}
        shown |= {f"gradient of {n}": self._array(n, grads[n]) for n in [*self._names][::-1]}
        self._optimizer.step()
        return shown | {
            f"update of {name}": self._array(name, self.params[own].detach())
            for name, own in self._names.items()
        }

    def _array(self, name: str, tensor: Any) -> np.ndarray:
        return (tensor.T if name[0] == "W" and self._layout.transposed else tensor).numpy().copy()
