"""What a user asks, as a Problem."""

import os
from collections.abc import Callable
from typing import Any, Literal

from mlp_core import fashion_mnist
from parity import defaults
from parity.problem import Examples, Loss, Problem, Training
from parity.sides.usable import as_arrays, told_apart


def asked(
    one: Any,
    other: Any,
    data: Any,
    *,
    loss: Loss = None,
    optimizer: tuple[Any, Any] | None = None,
    mode: Literal["train", "eval"] | None = None,
    lr: float = defaults.LEARNING_RATE,
    accumulate: int = 1,
    batch_size: int = defaults.BATCH_SIZE,
    seed: int = defaults.SEED,
    gradient: Callable[..., Any] | None = None,
    kernel: str = "scan",
    images: str = "floats",
    **others: Any,
) -> Problem:
    """The question about two models, in either order. others: of a Problem, as they are.

    Raises TypeError for what is no such model or no data; ValueError for data of a wrong form.
    """
    jax_model, torch_model = told_apart(one, other)
    source = _source(data)
    infer = isinstance(source, tuple) and source[1] is None
    return Problem(
        torch_model,
        jax_model,
        Examples(source, batch_size, seed),
        Training(loss, optimizer, lr, accumulate, mode, infer, gradient, kernel, images),
        **others,
    )


def _source(data: Any) -> Any:
    """Arrays in the form that both sides take; or where Fashion-MNIST is, announced once."""
    if not isinstance(data, (tuple, list, str, os.PathLike, type(None))):
        kind = f"{type(data).__module__}.{type(data).__name__}"
        raise TypeError(
            f"data: a {kind}, expected (inputs, targets), a folder of Fashion-MNIST, or 'sample'"
        )
    if not isinstance(data, (tuple, list)):
        return "sample" if fashion_mnist.load(data).is_sample else data
    return as_arrays(data)
