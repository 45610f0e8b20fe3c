"""The Trainer that a JAX side runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jax_mlp
from jax_mlp import programs


class JaxTrainer(jax_mlp.Trainer):
    """update_scale is a part of the optimiser's state, so that it needs no program of its own;
    in float32 every update counts, and there is none but 1."""

    def __init__(self, max_epochs: int, update_scale: float, dtype: str) -> None:
        super().__init__(max_epochs, arithmetic="native", processes=1, at_nan="ignore")
        self.update_scale, self.dtype = update_scale, dtype

    def compile(self, function: Callable, *args: Any) -> Callable:
        return programs.Quick(function).compiled(*args)

    def prepare_model(self, model: Any) -> None:
        super().prepare_model(model)
        if self.dtype == "float64" or self.update_scale != 1.0:
            plain: Callable = model.configure_optimizers
            scale = _scaled(self.update_scale)
            model.configure_optimizers = lambda: optax.chain(plain(), scale)


def _scaled(factor: float) -> optax.GradientTransformation:
    """Updates, times a factor that is the state."""
    return optax.GradientTransformation(
        lambda params: jnp.asarray(factor),
        lambda updates, state, params=None: (jax.tree.map(lambda u: u * state, updates), state),
    )
