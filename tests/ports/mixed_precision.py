"""bfloat16: products in it with float32 master weights, and parameters that are kept in it.

An error must stand out of bfloat16's own rounding, 2^-9 of each value: these are large ones.
"""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from drawn import BATCH, CLASSES, COUNT, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

INPUTS, WIDTH, RATE = 4, 6, 0.1
FREQUENCIES = (1.0, 0.1, 0.01)
LONG, AWAY = 400, 1000  # positions; how far from 0 the inputs lie


# --- float32 master weights: a network that is told the time, as a diffusion model is -------------


def timed() -> tuple[Any, ...]:
    """((inputs, times up to 999), labels)."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((COUNT, INPUTS)).astype(np.float32)
    times = rng.integers(257, 1000, COUNT).astype(np.int32)  # bfloat16 is exact up to 256
    return (X, times), rng.integers(0, CLASSES, COUNT).astype(np.int32)


class TorchTimed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS + 2 * len(FREQUENCIES), WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, X: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        angles = times[:, None].float() * torch.tensor(FREQUENCIES, dtype=torch.float32)
        H = torch.cat([X.bfloat16(), angles.sin().bfloat16(), angles.cos().bfloat16()], 1)
        # Product and sum are rounded each, as in Flax; nn.Linear rounds once.
        H = H @ self.first.weight.bfloat16().T + self.first.bias.bfloat16()
        H = torch.tanh(H)
        H = H @ self.last.weight.bfloat16().T + self.last.bias.bfloat16()
        return H.float()


class Timed(nnx.Module):
    """clock: the type in which times are held. sine_first: sines lie before the cosines."""

    def __init__(self, clock: Any = jnp.float32, sine_first: bool = True) -> None:
        linear = partial(nnx.Linear, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        self.first = linear(INPUTS + 2 * len(FREQUENCIES), WIDTH)
        self.last = linear(WIDTH, CLASSES)
        self.clock, self.sine_first = clock, sine_first

    def __call__(self, X: jax.Array, times: jax.Array) -> jax.Array:
        at = times[:, None].astype(self.clock).astype(jnp.float32)
        angles = at * jnp.array(FREQUENCIES, jnp.float32)
        waves = (jnp.sin(angles), jnp.cos(angles))[:: 1 if self.sine_first else -1]
        H = jnp.concatenate([part.astype(jnp.bfloat16) for part in (X, *waves)], axis=1)
        return self.last(jnp.tanh(self.first(H))).astype(jnp.float32)


def rounded_weights() -> optax.GradientTransformation:
    """Plain descent whose weights are bfloat16 after each step: there are no master weights."""

    def update(updates: Any, state: Any, params: Any) -> Any:
        def one(update: jax.Array, weight: jax.Array) -> jax.Array:
            return (weight + update).astype(jnp.bfloat16).astype(weight.dtype) - weight

        return jax.tree.map(one, updates, params), state

    def start(params: Any) -> optax.EmptyState:
        return optax.EmptyState()

    return optax.chain(optax.sgd(RATE), optax.GradientTransformation(start, update))


def torch_descent(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=RATE)


TABLE = {
    "first.kernel": "first.weight",
    "first.bias": "first.bias",
    "last.kernel": "last.weight",
    "last.bias": "last.bias",
}


# --- bfloat16 parameters: a norm in float32, a sum over many positions ----------------------------


def far_away() -> tuple[Any, ...]:
    """Long sequences of numbers near 1,000, each about means of its own."""
    rng = np.random.default_rng(0)
    means = AWAY + rng.standard_normal((COUNT, 1, INPUTS))
    X = means + rng.standard_normal((COUNT, LONG, INPUTS)) / 2
    return X.astype(np.float32), rng.integers(0, CLASSES, COUNT).astype(np.int32)


class TorchPooled(nn.Module):
    """one_by_one: the positions are added in bfloat16."""

    def __init__(self, one_by_one: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, WIDTH, bias=False)
        self.last = nn.Linear(WIDTH, CLASSES)
        self.one_by_one = one_by_one
        self.bfloat16()

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = nn.functional.layer_norm(X, (INPUTS,)).bfloat16()
        H = torch.sigmoid(H @ self.first.weight.T)
        if self.one_by_one:
            H = reduce(torch.add, H.unbind(1)).float() / LONG
        else:
            H = H.float().mean(1)
        return (H.bfloat16() @ self.last.weight.T + self.last.bias).float()


class Pooled(nnx.Module):
    """cast_first: inputs are made bfloat16 before the norm. fast: its variance is the mean of
    squares less the square of the mean, all in bfloat16."""

    def __init__(self, cast_first: bool = False, fast: bool = False, summed: bool = False) -> None:
        linear = partial(nnx.Linear, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
        self.first, self.last = linear(INPUTS, WIDTH, use_bias=False), linear(WIDTH, CLASSES)
        self.cast_first, self.fast, self.summed = cast_first, fast, summed

    def norm(self, X: jax.Array) -> jax.Array:
        X = X.astype(jnp.bfloat16) if self.cast_first else X
        mean = X.mean(-1, keepdims=True)
        if self.fast:
            square = (X * X).mean(-1, keepdims=True).astype(jnp.bfloat16)
            var = jnp.maximum(0, square - (mean * mean).astype(jnp.bfloat16)).astype(X.dtype)
        else:
            var = X.var(-1, keepdims=True)
        return ((X - mean) / jnp.sqrt(var + 1e-5)).astype(jnp.bfloat16)

    def __call__(self, X: jax.Array) -> jax.Array:
        H = jax.nn.sigmoid(self.first(self.norm(X))).astype(jnp.float32)
        H = H.sum(1) if self.summed else H.mean(1)
        return self.last(H.astype(jnp.bfloat16)).astype(jnp.float32)


def jax_wrong(make: Callable[..., Any], name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(make, **how)})


FAMILIES = (
    Port(
        "bfloat16 with float32 master weights",
        seeded(TorchTimed),
        Timed,
        timed,
        weights=TABLE,
        options={"optimizer": (torch_descent, optax.sgd(RATE))} | BATCH,
        wrong=(
            jax_wrong(
                Timed,
                "times in bfloat16",
                "which has no odd number above 256",
                clock=jnp.bfloat16,
            ),
            jax_wrong(
                Timed,
                "cosines before sines",
                "the halves of the embedding change places",
                sine_first=False,
            ),
            Wrong(
                "no master weights",
                "step",
                "weights are rounded to bfloat16 after each step",
                "first.kernel",
                {"options": {"optimizer": (torch_descent, rounded_weights())}},
            ),
        ),
    ),
    Port(
        "bfloat16 parameters",
        seeded(TorchPooled),
        Pooled,
        far_away,
        weights={ours: theirs for ours, theirs in TABLE.items() if ours != "first.bias"},
        options=BATCH,
        wrong=(
            jax_wrong(
                Pooled,
                "cast before the norm",
                "bfloat16 near 1,000 counts in fours",
                cast_first=True,
            ),
            jax_wrong(
                Pooled,
                "variance in bfloat16",
                "the square of the mean is taken from the mean of squares",
                fast=True,
            ),
            jax_wrong(Pooled, "sum for mean", "over the positions", summed=True),
            Wrong(
                "summed in bfloat16",
                "logits",
                "Torch's positions are added one by one, and small ones are lost",
                "logits",
                {"torch": seeded(partial(TorchPooled, one_by_one=True))},
            ),
        ),
    ),
)
