"""Several inputs: token ids and a mask by position; an image and a kind by name, two heads."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from attention import linear, params_of
from drawn import BATCH, CLASSES, COUNT, seeded
from port import Port, Wrong
from torch import nn

TOKENS, WIDTH, LENGTH = 7, 6, 5
PIXELS, KINDS = 5, 3

Arrays = dict[str, np.ndarray]


class Masked(nn.Module):
    """Attention over the tokens that are there, and a class from their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.query = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        E = self.tokens(ids)
        H = nn.functional.scaled_dot_product_attention(
            self.query(E), E, E, attn_mask=there[:, None, :]
        )
        weights = there[..., None].to(H.dtype)
        return self.last((H * weights).sum(1) / weights.sum(1))


masked = seeded(Masked)


def masked_params(t: Arrays) -> dict[str, Any]:
    layers = {n: {"W": t[f"{n}.weight"].T, "b": t[f"{n}.bias"]} for n in ("query", "last")}
    return {"tokens": t["tokens.weight"]} | layers


def filled(scores: jax.Array, there: jax.Array) -> jax.Array:
    return jnp.where(there, scores, -jnp.inf)


def apply_masked(
    params: Any,
    ids: jax.Array,
    there: jax.Array,
    *,
    mask: Callable[[jax.Array, jax.Array], jax.Array] = filled,
    all_counted: bool = False,
    axis: int = 1,
) -> jax.Array:
    """all_counted: the mean is over all places. axis: of the mask, over which it is laid."""
    E = params["tokens"][ids]
    scores = jnp.einsum("bid,bjd->bij", linear(params["query"], E), E) * WIDTH**-0.5
    H = jax.nn.softmax(mask(scores, jnp.expand_dims(there, axis))) @ E
    weights = (jnp.ones_like(there) if all_counted else there)[..., None].astype(H.dtype)
    return linear(params["last"], (H * weights).sum(1) / weights.sum(1))


def masked_model(**how: Any) -> Any:
    return partial(apply_masked, **how), params_of(masked, masked_params)


def sentences() -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, TOKENS, (COUNT, LENGTH)).astype(np.int32)
    there = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (COUNT, 1))
    return (ids, there), rng.integers(0, CLASSES, COUNT).astype(np.int32)


class TwoHeads(nn.Module):
    """From an image and its kind: a digit and a colour, both as logits, and a size."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(PIXELS, WIDTH)
        self.kinds = nn.Embedding(KINDS, WIDTH)
        self.digit = nn.Linear(WIDTH, CLASSES)
        self.size = nn.Linear(WIDTH, CLASSES)

    def forward(self, image: torch.Tensor, kind: torch.Tensor) -> dict[str, torch.Tensor]:
        H = torch.tanh(self.body(image) + self.kinds(kind))
        return {"digit": self.digit(H), "size": self.size(H)}


two_heads = seeded(TwoHeads)


def two_heads_params(t: Arrays, digit: str = "digit", size: str = "size") -> dict[str, Any]:
    pairs = {"body": "body", "digit": digit, "size": size}
    layers = {n: {"W": t[f"{m}.weight"].T, "b": t[f"{m}.bias"]} for n, m in pairs.items()}
    return layers | {"kinds": t["kinds.weight"]}


def apply_two_heads(
    params: Any,
    image: jax.Array,
    kind: jax.Array,
    *,
    swapped: bool = False,
    detached: bool = False,
    nearest: int = 0,
) -> dict[str, jax.Array]:
    """detached: the size trains its head alone. nearest: is added to every kind."""
    H = jnp.tanh(linear(params["body"], image) + params["kinds"][kind + nearest])
    digit = linear(params["digit"], H)
    size = linear(params["size"], jax.lax.stop_gradient(H) if detached else H)
    return {"digit": size, "size": digit} if swapped else {"digit": digit, "size": size}


def torch_loss(outputs: Any, targets: Any) -> torch.Tensor:
    digit = nn.functional.cross_entropy(outputs["digit"], targets["digit"])
    return digit + 0.3 * nn.functional.mse_loss(outputs["size"], targets["size"])


def jax_loss(outputs: Any, targets: Any, weights: tuple[float, float] = (1, 0.3)) -> jax.Array:
    labels = jax.nn.one_hot(targets["digit"], CLASSES)
    digit = -(jax.nn.log_softmax(outputs["digit"]) * labels).sum(-1).mean()
    size = ((outputs["size"] - targets["size"]) ** 2).mean()
    return weights[0] * digit + weights[1] * size


def two_heads_model(**how: Any) -> Any:
    return partial(apply_two_heads, **how), params_of(two_heads, two_heads_params)


def images() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((COUNT, PIXELS)).astype(np.float32)
    kind, digit = (rng.integers(0, n, COUNT).astype(np.int32) for n in (KINDS, CLASSES))
    size = rng.standard_normal((COUNT, CLASSES)).astype(np.float32)
    return {"image": image, "kind": kind}, {"digit": digit, "size": size}


def wrong_mask(name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(masked_model, **how)})


def weighing(name: str, says: str, *weights: float) -> Wrong:
    loss = (torch_loss, partial(jax_loss, weights=weights))
    return Wrong(name, "loss", says, "loss", {"options": {"loss": loss}})


FAMILIES = (
    Port(
        "tokens and a mask",
        masked,
        masked_model,
        sentences,
        weights=masked_params,
        options=BATCH,
        wrong=(
            wrong_mask(
                "mask inverted",
                "true means 'leave out', as in nn.MultiheadAttention",
                mask=lambda scores, there: jnp.where(there, -1e9, scores),
            ),
            wrong_mask(
                "mask added as it is",
                "0 and 1 are added to the scores, for 0 and minus infinity",
                mask=lambda scores, there: scores + there,
            ),
            wrong_mask(
                "mask too weak",
                "-1 for minus infinity",
                mask=lambda scores, there: jnp.where(there, scores, -1.0),
            ),
            wrong_mask("mask forgotten", "padding is seen", mask=lambda scores, there: scores),
            wrong_mask("mean over all places", "padding counts", all_counted=True),
            wrong_mask(
                "mask over the queries",
                "it is laid over the other axis, with a number for minus infinity",
                axis=2,
                mask=lambda scores, there: jnp.where(there, scores, -1e9),
            ),
        ),
    ),
    Port(
        "two heads, by name",
        two_heads,
        two_heads_model,
        images,
        weights=two_heads_params,
        options=BATCH | {"loss": (torch_loss, jax_loss)},
        wrong=(
            Wrong(
                "heads swapped",
                "logits",
                "each output has the other's name",
                "digit",
                {"jax": partial(two_heads_model, swapped=True)},
            ),
            Wrong(
                "heads' weights swapped",
                "logits",
                "each head has the other's weights",
                "size",
                {"weights": partial(two_heads_params, digit="size", size="digit")},
            ),
            Wrong(
                "kinds from 1",
                "logits",
                "each takes the next one's row, and the last its own, for JAX clamps",
                "digit",
                {"jax": partial(two_heads_model, nearest=1)},
            ),
            Wrong(
                "one loss detached",
                "gradients",
                "the size's loss doesn't reach the body",
                "body.W",
                {"jax": partial(two_heads_model, detached=True)},
            ),
            weighing("weight at the other loss", "0.3 weighs the digit", 0.3, 1),
            weighing("losses not weighed", "they are added as they are", 1, 1),
            weighing("weights that sum to one", "1 - 0.3 weighs the digit", 0.7, 0.3),
            weighing("one loss left out", "the size isn't learnt", 1, 0),
        ),
    ),
)
