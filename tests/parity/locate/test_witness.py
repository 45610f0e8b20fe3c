"""Lines where two models part on numbers that no data have."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import parity

HERE = Path(__file__).read_text().splitlines()
X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
DATA = X, (np.arange(8) % 3).astype(np.int32)


class Theirs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


def ours(activation):
    def call(p, x):
        H = activation(x @ p["a.weight"] + p["a.bias"])
        return H @ p["b.weight"] + p["b.bias"]

    shapes = {"a.weight": (5, 4), "a.bias": (4,), "b.weight": (4, 3), "b.bias": (3,)}
    return call, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def clipped(x):
    return jnp.minimum(jax.nn.relu(x), 1e6)  # never reached by data


def leaking(x):
    return jnp.where(x > 0, x, 1e-9 * x)  # below rounding


def proven(activation=jax.nn.relu, optimizer=None):
    return parity.prove(Theirs(), ours(activation), DATA, weights="guess", optimizer=optimizer)


@pytest.mark.parametrize("activation, text", [(clipped, "never reached"), (leaking, "1e-9 * x")])
def test_the_line_is_named_where_data_show_nothing(activation, text):
    proof = proven(activation)
    assert proof.verdict == "different" and proof.lines
    at = next(i for i, line in enumerate(HERE, 1) if text in line and "#" in line)
    assert f"test_witness.py:{at} ({activation.__name__})" in proof.lines[0], proof


def test_the_optimiser_s_line_is_named():
    theirs = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    proof = proven(optimizer=(theirs, optax.chain(optax.trace(0.9), optax.scale(-0.1000001))))
    assert proof.verdict == "different"
    assert "optimiser" in proof.lines[0] and "torch/optim/sgd.py" in proof.lines[1], proof
