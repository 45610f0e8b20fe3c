"""Cross-entropy's options: ignored labels, smoothing, weights of classes, and what is averaged."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from drawn import BATCH, COUNT, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

INPUTS, CLASSES, LENGTH, IGNORED = 4, 3, 5, -100
SMOOTHING, WEIGHTS = 0.1, (0.25, 1.0, 3.0)
TABLE = {"kernel": "weight", "bias": "bias"}

torch_model = seeded(lambda: nn.Linear(INPUTS, CLASSES))


def jax_model() -> nnx.Module:
    return nnx.Linear(INPUTS, CLASSES, rngs=nnx.Rngs(0))


def torch_tokens(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(
        outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=SMOOTHING
    )


def torch_weighed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets, torch.tensor(WEIGHTS).to(outputs))


def smoothed(logs: jax.Array, labels: jax.Array, share: float = SMOOTHING / CLASSES) -> jax.Array:
    """share: of every class, also the true one."""
    at_label = jnp.take_along_axis(logs, labels[..., None], -1)[..., 0]
    return -((1 - CLASSES * share) * at_label + share * logs.sum(-1))


def to_the_others(logs: jax.Array, labels: jax.Array) -> jax.Array:
    return smoothed(logs, labels, SMOOTHING / (CLASSES - 1))


def unsmoothed(logs: jax.Array, labels: jax.Array) -> jax.Array:
    return smoothed(logs, labels, 0.0)


def mean_of_kept(losses: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, losses, 0).sum() / kept.sum()


def mean_of_all(losses: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, losses, 0).mean()


def ignored_counted(losses: jax.Array, kept: jax.Array) -> jax.Array:
    return losses.mean()


def summed(losses: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.where(kept, losses, 0).sum()


def mean_of_rows(losses: jax.Array, kept: jax.Array) -> jax.Array:
    return (jnp.where(kept, losses, 0).sum(1) / kept.sum(1)).mean()


def jax_tokens(
    outputs: jax.Array,
    targets: jax.Array,
    *,
    one: Callable[[jax.Array, jax.Array], jax.Array] = smoothed,
    average: Callable[[jax.Array, jax.Array], jax.Array] = mean_of_kept,
    ignored: int = IGNORED,
) -> jax.Array:
    """one: a token's loss. An ignored label stands for class 0 until it is left out."""
    labels = jnp.maximum(targets, 0)
    return average(one(jax.nn.log_softmax(outputs), labels), targets != ignored)


def jax_weighed(
    outputs: jax.Array,
    targets: jax.Array,
    *,
    weights: tuple[float, ...] = WEIGHTS,
    by: Callable[[jax.Array], jax.Array] = jnp.sum,
) -> jax.Array:
    """The weighed mean. by: from the examples' weights to the divisor."""
    w = jnp.asarray(weights, outputs.dtype)[targets]
    return (w * unsmoothed(jax.nn.log_softmax(outputs), targets)).sum() / by(w)


def sentences() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((COUNT, LENGTH, INPUTS)).astype(np.float32)
    y = rng.integers(0, CLASSES, (COUNT, LENGTH))
    y[np.arange(LENGTH) >= rng.integers(1, LENGTH + 1, (COUNT, 1))] = IGNORED
    return X, y.astype(np.int32)


def wrong(pair: Any, name: str, says: str, **how: Any) -> Wrong:
    loss = (pair[0], partial(pair[1], **how))
    return Wrong(name, "loss", says, "loss", {"options": {"loss": loss}})


TOKENS = (torch_tokens, jax_tokens)
WEIGHED = (torch_weighed, jax_weighed)
FAMILIES = (
    Port(
        "tokens with ignored labels and smoothing",
        torch_model,
        jax_model,
        sentences,
        weights=TABLE,
        options=BATCH | {"loss": TOKENS},
        wrong=(
            wrong(
                TOKENS,
                "mean over all tokens",
                "the ignored ones add nothing and are counted",
                average=mean_of_all,
            ),
            wrong(
                TOKENS,
                "ignored labels learnt",
                "they stand for class 0",
                average=ignored_counted,
            ),
            wrong(TOKENS, "sum for mean", "the tokens' losses are added", average=summed),
            wrong(
                TOKENS,
                "mean of the rows' means",
                "each sentence weighs as much as any other",
                average=mean_of_rows,
            ),
            wrong(TOKENS, "another ignored label", "-1 for -100", ignored=-1),
            wrong(
                TOKENS,
                "smoothing for the other classes alone",
                "the true one gets none of it",
                one=to_the_others,
            ),
            wrong(TOKENS, "no smoothing", "the option is forgotten", one=unsmoothed),
        ),
    ),
    Port(
        "weights of classes",
        torch_model,
        jax_model,
        classified(INPUTS),
        weights=TABLE,
        options=BATCH | {"loss": WEIGHED},
        wrong=(
            wrong(WEIGHED, "divided by the count", "n for the sum of weights", by=jnp.size),
            wrong(WEIGHED, "not weighed", "the weights are forgotten", weights=(1.0,) * CLASSES),
            wrong(WEIGHED, "weights reversed", "the classes' order", weights=WEIGHTS[::-1]),
            wrong(
                WEIGHED,
                "weights inverted",
                "frequencies for their inverses",
                weights=tuple(1 / w for w in WEIGHTS),
            ),
        ),
    ),
)
