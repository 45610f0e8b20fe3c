"""The JAX model's training step as traceable functions, whole and cut where its levels meet.

Parameters and gradients go by the names of the user's model, as everywhere outside `sides`. What is
traced here can be handed to `bounds.bound`, compiled, or mapped over many copies of the weights.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import optax

import jax_mlp.checkpoint
from parity.sides.pairs import JaxSide

Tree = Any  # {name: array}


@lru_cache(maxsize=8)
def stages_of(side: JaxSide) -> "Stages":
    """The Stages of a side: one object for each, so that what was compiled is found again."""
    return Stages(side)


class Stages:
    """(params, X, y) -> logits -> loss -> gradients -> step, each as a function of the one before.

    The composition is the model's own training step where that is loss(model(X), y) and plain
    gradient descent or any optimiser without memory; `step` is always the model's own.
    """

    def __init__(self, side: JaxSide) -> None:
        self.side = side

    def step(self, params: Tree, X: Any, y: Any) -> tuple[Any, Tree]:
        """(loss before the step, parameters after it), by the model's training_step."""
        _, loss, _, new = self.side._traced(params, X, y)
        return loss, new

    def logits(self, params: Tree, X: Any) -> Any:
        model: Any = self._model(params)
        return model(X)

    def loss(self, logits: Any, y: Any) -> Any:
        model: Any = self.side.model
        return model.loss(logits, y)

    def gradients(self, params: Tree, X: Any, y: Any, logits: Any) -> Tree:
        """The gradient of the loss at these logits, pulled back through the model."""
        cotangent = jax.grad(self.loss)(logits, y)
        _, back = jax.vjp(lambda params: self.logits(params, X), params)
        return back(cotangent)[0]

    def update(self, params: Tree, gradients: Tree) -> Tree:
        """The parameters after one step with these gradients, by the model's optimiser."""
        inside, outside = self.side._inside, self.side._outside
        params, gradients = (
            {inside(name): leaf for name, leaf in tree.items()} for tree in (params, gradients)
        )
        optimizer = self.side.model.configure_optimizers()
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return {outside(n): leaf for n, leaf in optax.apply_updates(params, updates).items()}

    def scores(self, params: Tree, X: Any, y: Any) -> tuple[Any, Any]:
        """(loss in nats, 1.0 for a hit and 0.0 for a miss) of each example."""
        model: Any = self._model(params)
        logits = model(X)
        return model.loss(logits, y, averaged=False), model.accuracy(logits, y, averaged=False)

    def compiled(self, function: Callable) -> Callable:
        """jax.jit of a function, run under the side's precision settings."""
        jitted = jax.jit(function)

        def run(*args: Any) -> Any:
            with self.side._settings():
                return jitted(*args)

        return run

    def _model(self, params: Tree) -> Any:
        named = {self.side._inside(name): leaf for name, leaf in params.items()}
        return jax_mlp.checkpoint.with_params(self.side.model, named)
