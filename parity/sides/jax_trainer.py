"""The Trainer that a JAX side runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jax_mlp
from jax_mlp import programs
from jax_mlp.step import Carry, Tape

# (carry, batch) -> (carry, loss), by a program that is there already
Step = Callable[[Carry, Any], tuple[Carry, Any]]


class JaxTrainer(jax_mlp.Trainer):
    """update_scale is a part of the optimiser's state, so that it needs no program of its own;
    in float32 every update counts, and there is none but 1.

    step: takes the place of an epoch's program, which of a deep model takes longer to compile than
    to run: it holds the whole step twice, for full batches and for the last one.
    """

    def __init__(
        self,
        max_epochs: int,
        update_scale: float,
        dtype: str,
        step: Step | None = None,
        kernel: str = "scan",
        images: str = "floats",
    ) -> None:
        ways: dict[str, Any] = {"arithmetic": "native", "kernel": kernel, "images": images}
        super().__init__(max_epochs, processes=1, at_nan="ignore", **ways)
        self.update_scale, self.dtype, self.step = update_scale, dtype, step

    def _compile(self, key: Any, function: Callable, args: tuple) -> Callable:
        if key == "train" and self.step is not None:
            return self._step_by_step
        return super()._compile(key, function, args)

    def _step_by_step(self, carry: Carry, arrays: Any, order: np.ndarray) -> tuple[Carry, Any]:
        """An epoch, as scan_batches gives it; what a step plots is drawn nowhere."""
        assert self.step is not None
        loader, losses = self.train_dataloader, []
        for start in range(0, len(order), size := loader.schedule.batch_size):
            rows = order[start : start + size]
            batch = loader.transform(*(array[rows] for array in loader.host_arrays))
            before = carry.params
            carry, loss = self.step(carry, batch)
            losses.append(np.asarray(loss))
            if self.update_scale != 1.0:
                moved = jax.tree.map(self._scaled_up, before, carry.params)
                carry = carry._replace(params=moved)
        return carry, (np.stack(losses), Tape())

    def _scaled_up(self, before: Any, after: Any) -> Any:
        return before + self.update_scale * (after - before)

    def compile(self, function: Callable, *args: Any) -> Callable:
        return programs.Quick(function).compiled(*args)

    def prepare_model(self, model: Any) -> None:
        super().prepare_model(model)
        if self.step is None and (self.dtype == "float64" or self.update_scale != 1.0):
            plain: Callable = model.configure_optimizers
            scale = _scaled(self.update_scale)
            model.configure_optimizers = lambda: optax.chain(plain(), scale)


def _scaled(factor: float) -> optax.GradientTransformation:
    """Updates, times a factor that is the state."""
    return optax.GradientTransformation(
        lambda params: jnp.asarray(factor),
        lambda updates, state, params=None: (jax.tree.map(lambda u: u * state, updates), state),
    )
