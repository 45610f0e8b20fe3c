"""A step is traced once: what it changes is carried from step to step, or refused by name."""

import jax.numpy as jnp
import pytest
from flax import nnx
from small_trainings import Listed

import jax_mlp as d2l
from mlp_core.attributes import Untraceable


class Counting(d2l.MLPScratch):
    def __init__(self):
        super().__init__(6, 3, 5, lr=0.1)
        self.count, self.log = 0, {"losses": [1.0]}
        self.inner = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.gain = jnp.ones(2)  # floating: it trains
        self.steps = jnp.zeros((), int)
        self.seen = nnx.Variable(jnp.zeros((), int))


def more(self):
    self.count += 1


CHANGES = {
    "self.count": more,
    "self.last": lambda self: setattr(self, "last", self.W1.sum()),
    "self.shape": lambda self: setattr(self, "shape", (1, 2)),
    "self.log": lambda self: self.log["losses"].append(1.0),
    "self.inner.scale": lambda self: setattr(self.inner, "scale", 2),
    "self.inner.kernel": lambda self: self.inner.kernel.set_value(0 * self.inner.kernel[...]),
    "self.gain": lambda self: setattr(self, "gain", self.gain / 2),
    "self.W1": lambda self: setattr(self, "W1", self.W1 / 2),
}


def with_change(step, change):
    def changed(self, *given):
        change(self)
        return getattr(Counting, step)(self, *given)

    return type("Own", (Counting,), {step: changed})()


@pytest.mark.parametrize("step", ["training_step", "validation_step"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_would_be_lost_is_refused_by_name(blobs, name, step):
    with pytest.raises(Untraceable) as error:
        d2l.Trainer(1).fit(with_change(step, CHANGES[name]), blobs)
    said = str(error.value)
    assert f"Own.{step}: changes {name}, " in said and "nnx.Variable" in said


def test_a_change_in_forward_is_refused_whatever_the_loader(blobs):
    for data in (blobs, Listed(blobs)):
        with pytest.raises(Untraceable, match="changes self.count"):
            d2l.Trainer(1).fit(with_change("forward", more), data)


def test_state_that_steps_change_is_kept_by_both_steps(blobs):
    def count(self):
        self.seen[...] += 1
        self.steps = self.steps + 1

    for data in (blobs, Listed(blobs)):
        for step, each in (("training_step", 9), ("validation_step", 3)):
            model = with_change(step, count)
            d2l.Trainer(2).fit(model, data)
            assert (int(model.seen[...]), int(model.steps)) == (2 * each, 2 * each)
    runs = [with_change(step, count) for step in ("training_step", "validation_step")]
    d2l.Sweep(2).fit(runs, blobs)
    assert [int(model.seen[...]) for model in runs] == [18, 6]


@pytest.mark.parametrize("counter", ["epoch", "train_batch_idx", "val_batch_idx"])
def test_a_step_that_reads_a_counter_of_the_trainer_is_refused(blobs, counter):
    model = with_change("training_step", lambda self: getattr(self.trainer, counter))
    with pytest.raises(Untraceable, match=rf"trainer\.{counter}: it would stay 0"):
        d2l.Trainer(1).fit(model, blobs)
