"""A model that sows its intermediates, which are shown to its user and no state of a step."""

import numpy as np
import pytest
import torch
from flax import nnx

import parity


class Theirs(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(X)))


class Ours(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.b = nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, X):
        H = nnx.relu(self.a(X))
        self.sow(nnx.Intermediate, "hidden", H)
        return self.b(H)


@pytest.mark.filterwarnings("ignore:Using .Module.sow:DeprecationWarning")  # by Flax
def test_a_model_that_sows_is_aligned():
    X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    data = X, np.arange(8).astype(np.int32) % 3
    found = parity.align(Theirs(), Ours(nnx.Rngs(0)), data, batch_size=8, weights="guess")
    assert found.parting is None
    assert all("log_softmax" in place.op for place in found.lone_torch), found
