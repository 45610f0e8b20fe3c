"""Token embeddings: with a padding index and positions, and tied to the output."""

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

TOKENS, WIDTH, LENGTH, PADDING = 7, 6, 5, 0

Arrays = dict[str, np.ndarray]


class Padded(nn.Module):
    """Tokens and their places; a class from the mean. The padding's row is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH, padding_idx=PADDING)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        H = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.last(torch.tanh(H).mean(1))


class Tied(nn.Module):
    """The next token; the output's rows are the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, WIDTH)
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, TOKENS, bias=False)
        self.last.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.hidden(self.tokens(ids))))


def untied() -> nn.Module:
    """Equal at first, and two parameters."""
    model = Tied()
    model.last.weight = nn.Parameter(model.tokens.weight.detach().clone())
    return model


padded, tied = seeded(Padded), seeded(Tied)


def padded_params(t: Arrays) -> dict[str, Any]:
    last = {"W": t["last.weight"].T, "b": t["last.bias"]}
    return {"tokens": t["tokens.weight"], "places": t["places.weight"], "last": last}


def tied_params(t: Arrays) -> dict[str, Any]:
    hidden = {"W": t["hidden.weight"].T, "b": t["hidden.bias"]}
    return {"tokens": t["tokens.weight"], "hidden": hidden}


def apply_padded(
    params: Any,
    ids: jax.Array,
    *,
    padding: int | None = PADDING,
    scale: float = 1.0,
    start: int = 0,
    zeroed: bool = False,
    held: bool = False,
) -> jax.Array:
    """padding: whose row isn't trained. start: the first place; past the last one JAX takes the
    last. zeroed: the padding's row is taken for 0. held: no place is trained."""
    E = params["tokens"][ids] * scale
    if padding is not None:
        E = jnp.where(ids[..., None] == padding, jax.lax.stop_gradient(E), E)
    E = jnp.where(ids[..., None] == PADDING, 0, E) if zeroed else E
    places = params["places"][start + jnp.arange(ids.shape[1])]
    H = E + (jax.lax.stop_gradient(places) if held else places)
    return linear(params["last"], jnp.tanh(H).mean(1))


def apply_tied(
    params: Any,
    ids: jax.Array,
    *,
    scale: float = 1.0,
    out_scale: float = 1.0,
    copied: bool = False,
    held: bool = False,
) -> jax.Array:
    """copied: the output uses the table as it is, untrained. held: the input does."""
    table = params["tokens"]
    hold = jax.lax.stop_gradient
    H = jnp.tanh(linear(params["hidden"], (hold(table) if held else table)[ids] * scale))
    return H @ (hold(table) if copied else table).T * out_scale


def padded_model(**how: Any) -> Any:
    return partial(apply_padded, **how), params_of(padded, padded_params)


def tied_model(**how: Any) -> Any:
    return partial(apply_tied, **how), params_of(tied, tied_params)


def sentences() -> tuple[np.ndarray, np.ndarray]:
    """Ids, with the padding's at the end of most, and a class."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, TOKENS, (COUNT, LENGTH))
    ids[np.arange(LENGTH) >= rng.integers(2, LENGTH + 1, (COUNT, 1))] = PADDING
    return ids.astype(np.int32), rng.integers(0, CLASSES, COUNT).astype(np.int32)


def next_tokens() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, TOKENS, (COUNT, LENGTH + 1)).astype(np.int32)
    return ids[:, :-1], ids[:, 1:]


def wrong(make: Any, name: str, level: str, says: str, **how: Any) -> Wrong:
    leaf = "logits" if level == "logits" else "tokens"
    return Wrong(name, level, says, leaf, {"jax": partial(make, **how)})


FAMILIES = (
    Port(
        "embedding with padding",
        padded,
        padded_model,
        sentences,
        weights=padded_params,
        options=BATCH,
        wrong=(
            wrong(
                padded_model,
                "padding trained",
                "gradients",
                "its row is looked up like any other",
                padding=None,
            ),
            wrong(
                padded_model,
                "another padding index",
                "gradients",
                "the last row is held, as in tables that pad with the last index",
                padding=TOKENS - 1,
            ),
            wrong(padded_model, "padding zeroed", "logits", "its row is taken for 0", zeroed=True),
            wrong(
                padded_model,
                "scaled by the root of the width",
                "logits",
                "as the first transformer did",
                scale=WIDTH**0.5,
            ),
            wrong(
                padded_model,
                "places from 1",
                "logits",
                "the place past the table's end becomes its last, silently",
                start=1,
            ),
            Wrong(
                "places held",
                "gradients",
                "fixed, as sines would be",
                "places",
                {"jax": partial(padded_model, held=True)},
            ),
        ),
    ),
    Port(
        "tied output",
        tied,
        tied_model,
        next_tokens,
        weights=tied_params,
        options=BATCH,
        wrong=(
            wrong(
                tied_model,
                "output's table copied",
                "gradients",
                "the gradient reaches the table through the input alone",
                copied=True,
            ),
            wrong(
                tied_model,
                "input's table held",
                "gradients",
                "the gradient reaches the table through the output alone",
                held=True,
            ),
            wrong(
                tied_model,
                "input scaled",
                "logits",
                "by the root of the width, as Gemma does",
                scale=WIDTH**0.5,
            ),
            wrong(
                tied_model,
                "output scaled",
                "logits",
                "by 1 over the root of the width, as T5 does",
                out_scale=WIDTH**-0.5,
            ),
            Wrong(
                "not tied",
                "weights",
                "Torch's side has two parameters that only start equal",
                "last.weight",
                {"torch": seeded(untied)},
            ),
        ),
    ),
)
