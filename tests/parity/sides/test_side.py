"""The protocol: what a side that can do less is asked, and what it is not."""

import numpy as np
import optax
import pytest
import torch
from flax import nnx

from parity import check
from parity.levels.ladder import climb, named
from parity.levels.pair import Pair
from parity.problem import Problem
from parity.sides.pairs import JaxSide, book_pair
from parity.sides.side import CAPABILITIES, Differentiable, Side, Trainable, lacks


class Golden:
    """A side that knows outputs and nothing else, as a saved model does."""

    name = "torch"

    def __init__(self, side):
        self.dtype, self._side = side.dtype, side

    def __getattr__(self, name):
        if name in ("evaluate", "pullback", "train", "stream"):
            raise AttributeError(name)
        return getattr(self._side, name)


@pytest.fixture(scope="module")
def pair(examples):
    ours, theirs = book_pair("scratch", (6,), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    found = Pair.of(Problem(theirs, ours, examples, epochs=1))
    found.torch = {dtype: Golden(side) for dtype, side in found.torch.items()}
    return found


def test_both_frameworks_sides_fulfil_the_whole_protocol(examples):
    ours, theirs = book_pair("scratch", (6,), 0.1, 1, inputs=12, outputs=4)
    pair = Pair.of(Problem(theirs, ours, examples), precisions=["float32"])
    for side in pair.sides("float32").values():
        assert isinstance(side, Side) and isinstance(side, Differentiable)
        assert isinstance(side, Trainable) and not any(lacks(side, c) for c in CAPABILITIES)
    assert isinstance(pair.jax["float32"], JaxSide)


def test_a_side_with_outputs_alone_is_asked_for_outputs_alone(pair):
    asked = named(["inputs", "weights", "probes", "logits", "gradients", "every step", "curve"])
    results = list(climb(pair, asked))
    assert all(r.ok for r in results), results
    skipped = {r.level.name: r.skipped for r in results if r.skipped}
    assert set(skipped) == {"probes", "gradients", "every step", "curve"}
    assert skipped["gradients"] == "torch: this side has no gradient"
    assert skipped["curve"] == "torch: this side has no train"
    logits = [r for r in results if r.level.name == "logits"]
    assert len(logits) == 2 and all(r.comparisons for r in logits)


def test_gradients_alone_are_asked_of_a_model_whose_optimiser_remembers():
    ours, theirs = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 2)
    X = np.eye(3, dtype=np.float32)
    adam = lambda p: torch.optim.AdamW(p, 1e-3), optax.adamw(1e-3, weight_decay=0.01)
    options = {"loss": "mse", "weights": "guess", "optimizer": adam, "levels": ["gradients"]}
    assert check(ours, theirs, (X, X[:, :2]), **options).ok


def test_a_step_that_no_level_asks_for_is_not_taken(examples):
    ours, theirs = book_pair("scratch", (6,), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    whole, part = (Pair.of(Problem(theirs, ours, examples), precisions=["float32"]) for _ in "12")
    part.without_step = True
    (batch, *_) = whole.batches
    for side in ("jax", "torch"):
        one, other = (pair.evaluate(side, "float32", batch) for pair in (whole, part))
        assert one.step and not (other.step or other.memory)
        for name, gradient in one.gradients.items():
            np.testing.assert_array_equal(gradient, other.gradients[name])
    bounds = [pair.expected("float32", batch).bound for pair in (whole, part)]
    np.testing.assert_array_equal(*(b.gradients["W1"] for b in bounds))
    assert not bounds[1].step
