"""A large step is compiled once: a run is taken step by step by the program that judges it."""

import numpy as np
import optax
import pytest
import torch
from flax import nnx

from jax_mlp import programs
from parity.problem import Examples, Training
from parity.sides.jax_side import JaxSide

rng = np.random.default_rng(0)
X, y = rng.normal(size=(10, 3)).astype(np.float32), rng.integers(0, 2, 10)


class Normed(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.linear, self.norm = nnx.Linear(3, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)

    def __call__(self, X):
        return self.norm(self.linear(X))


def side():
    optimizer = torch.optim.SGD, optax.sgd(optax.linear_schedule(0.1, 0.01, 4), momentum=0.5)
    examples = Examples((X, y), batch_size=4)
    return JaxSide(Normed(), examples, "float64", Training(optimizer=optimizer))


@pytest.fixture(scope="module")
def large():
    """Of the same model, with every program counted as large."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "LARGE", 1)
        yield side()


def same(one, other):
    assert np.allclose(one.history.train_loss, other.history.train_loss, rtol=0, atol=1e-12)
    for a, b in ((one.params, other.params), (one.state, other.state)):
        assert {*a} == {*b} and len(a)
        assert all(np.allclose(a[n], b[n], rtol=0, atol=1e-12) for n in a)


def test_the_run_is_the_one_that_an_epochs_program_takes(large, monkeypatch):
    found = large.train(2, update_scale=2.0)
    monkeypatch.setattr(programs, "LARGE", 1200)
    same(found, side().train(2, update_scale=2.0))


def test_what_evaluates_a_batch_trains_too_and_twins_do(large):
    large.evaluate(X[:4], y[:4].astype(np.int32))
    (twin,) = large.twins(1, 1, 0.0)
    same(twin, large.train(1))
    assert len(large._evaluate._programs) == 2  # of a full batch and of the last
