"""Names of tensors, given as a hint."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.ad_checkpoint import checkpoint_name
from torch import nn

import parity


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(X))


def net(activation, params, X):
    with jax.named_scope("encoder"):
        H = activation(X @ params["W1"] + params["b1"])
    return checkpoint_name(H @ params["W2"] + params["b2"], "out")


def aligned(activation=jnp.tanh, **names):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((8, 4)).astype(np.float32), rng.integers(0, 3, 8).astype(np.int32)
    shapes = {"W1": (4, 5), "b1": 5, "W2": (5, 3), "b2": 3}
    params = {n: np.zeros(shape, np.float32) for n, shape in shapes.items()}
    weights = {"W1": "body.0.weight", "b1": "body.0.bias", "W2": "head.weight", "b2": "head.bias"}
    port = partial(net, activation), params
    return parity.align(Net(), port, data, batch_size=8, weights=weights, names=names)


def test_names_of_the_same_numbers_are_confirmed():
    found = aligned(encoder="body", out="head")
    assert [n.same for n in found.named] == [True, True] and found.parting is None
    assert "'body' and 'encoder': the same numbers" in str(found)


def test_a_wrong_hint_aligns_nothing():
    found, without = aligned(encoder="head"), aligned()
    assert not found.named[0].same
    assert found.pairs == without.pairs and found.share == without.share


def test_a_named_tensor_of_other_numbers_is_said_to_be():
    found = aligned(jnp.sin, encoder="body")
    assert not found.named[0].same and found.parting
    assert found.named[0].jax_place.op == "sin" and found.named[0].torch_place.op == "tanh"


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="no 'decoder' on jax's side; there are encoder, out"):
        aligned(decoder="body")
