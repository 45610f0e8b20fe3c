"""A model that sows its intermediates, which are shown to its user and no state of a step."""

import jax.numpy as jnp
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


class TwiceTheirs(torch.nn.Module):
    """Two branches that start with the same weights: nothing but a name tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Linear(5, 4), torch.nn.Linear(5, 4)
        self.right.load_state_dict(self.left.state_dict())
        self.b = torch.nn.Linear(4, 3)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.left(X)) - 2 * torch.relu(self.right(X)))


class TwiceOurs(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.left, self.right = (nnx.Linear(5, 4, rngs=rngs) for _ in range(2))
        self.b = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, X):
        right = self.right(X)
        self.sow(nnx.Intermediate, "ours_right", right)
        left = self.left(X)
        self.sow(nnx.Intermediate, "ours_left", left)
        return self.b(jnp.tanh(left) - 2 * nnx.relu(right))


@pytest.mark.filterwarnings("ignore:Using .Module.sow:DeprecationWarning")  # by Flax
def test_sown_names_decide_which_of_two_tensors_of_the_same_numbers_is_meant():
    X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    data = X, np.arange(8).astype(np.int32) % 3
    table = {f"{n}.{ours}": f"{n}.{theirs}" for n in ("left", "right", "b")
             for ours, theirs in (("kernel", "weight"), ("bias", "bias"))}  # fmt: skip
    names = {"ours_left": "left", "ours_right": "right"}

    def lines(names):
        found = parity.align(
            TwiceTheirs(), TwiceOurs(nnx.Rngs(0)), data, batch_size=8, weights=table, names=names
        )
        assert all(n.same for n in found.named), found
        return {t.module: j.number for t, j in found.pairs if t.op == "addmm"}

    without, told = lines(None), lines(names)
    assert without["left"] == without["right"]  # the first of the two, for both
    assert told["left"] > told["right"]


@pytest.mark.filterwarnings("ignore:Using .Module.sow:DeprecationWarning")  # by Flax
def test_a_model_that_sows_is_aligned():
    X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    data = X, np.arange(8).astype(np.int32) % 3
    found = parity.align(Theirs(), Ours(nnx.Rngs(0)), data, batch_size=8, weights="guess")
    assert found.parting is None
    assert all("log_softmax" in place.op for place in found.lone_torch), found
