"""Every step certified: clean runs are, planted faults aren't, and the culprit is named."""

import json

import numpy as np
import pytest
import torch

import torch_mlp
from parity.interrupted import Interrupted
from parity.levels.every_step import LAG, certify
from parity.report import steps_picture
from parity.sides.pairs import JaxSide, TorchSide, book_pair, paired
from parity.sides.reference import Reference
from parity.sides.side import Taken

SHARED = {}


def jax_side(examples, dtype, kind):
    """Shared by the tests, which leave it as it was, for its compiled programs."""
    if (dtype, kind) in SHARED:
        return SHARED[dtype, kind]
    ours, book = book_pair(kind, (6, 6), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    jax, other = JaxSide(ours, examples, dtype), TorchSide(book, examples)
    paired(jax, other)
    jax.load(other.params())
    SHARED[dtype, kind] = jax, book
    return jax, book


def sides(examples, dtype="float32", kind="scratch", theirs=None, torch_side=TorchSide):
    jax, book = jax_side(examples, dtype, kind)
    other = torch_side(theirs or book, examples, dtype)
    paired(jax, other)
    return jax, other


def scratch(cls, *args):
    return cls(12, 4, (6, 6), *(args or (0.1,)))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("scratch", "float32"), ("scratch", "float64"), ("mlp", "float32")]
)
def test_every_step_of_a_faithful_port_is_certified(examples, kind, dtype):
    jax, other = sides(examples, dtype, kind)
    before = jax.params(), other.params()
    t = certify(jax, other, epochs=2)
    assert t.ok and t.steps == 2 * 3 and not len(t.failed), t
    assert "all certified" in str(t)
    for s in ("jax", "torch"):
        assert set(t.margins[s]) == {*jax.params(), "loss"}
        # The bound isn't vacuous: rounding fills a part of it. One of the six steps may be exact on
        # a side (JAX's float64 step computes what its judge does), but not on both.
        assert np.sort(t.margin[s])[1] > 1e-3
    assert (np.max(list(t.margin.values()), axis=0) > 1e-3).all()
    limit = {"float32": 1e-3, "float64": 1e-12}[dtype]
    assert (t.visible < limit).all()
    for side, kept in zip((jax, other), before, strict=True):
        for name, array in side.params().items():
            np.testing.assert_array_equal(array, kept[name])
    assert json.loads(json.dumps(t.to_json(), allow_nan=False))["ok"]
    assert steps_picture.margins(t, kind).startswith(b"\x89PNG")


def test_the_first_loss_and_the_way_are_those_of_the_trainer(examples):
    jax, other = sides(examples)
    losses = certify(jax, other, epochs=2).losses
    np.testing.assert_allclose(losses, jax.train(2).history.train_loss, rtol=1e-5)


class Transposed(torch_mlp.MLPScratch):
    def forward(self, X):
        H = X.reshape((-1, 12))
        for i in (1, 2):
            W = getattr(self, f"W{i}")
            Z = H @ (W.T if i == 2 else W) + getattr(self, f"b{i}")
            H = torch.max(Z, torch.zeros_like(Z))
        return H @ self.W3 + self.b3


def test_a_transposed_square_kernel_fails_at_once_and_is_found_in_the_logits(examples):
    t = certify(*sides(examples, theirs=scratch(Transposed)), epochs=1)
    assert not t.ok and t.failed[0] == 0
    d = t.divergence
    assert (d.step, d.level, d.side, d.origin) == (0, "logits", "torch", "made there")
    assert d.origins["gradients"] == "made there" and d.origins["step"] == "inherited"
    assert "NOT certified" in str(t) and "logits" in str(t)


def test_a_learning_rate_off_by_a_millionth_is_seen_in_float64_and_said_to_be_invisible_in_float32(
    examples,
):
    off = scratch(torch_mlp.MLPScratch, 0.1 * (1 + 1e-6))
    t = certify(*sides(examples, "float64", theirs=off), epochs=1)
    assert list(t.failed) == [0, 1, 2] and t.margin["torch"].min() > 1e4
    d = t.divergence
    assert (d.step, d.level, d.side, d.origin) == (0, "step", "torch", "made there")
    assert d.margins["gradients"] <= 1 < d.margins["step"]
    blind = certify(*sides(examples, "float32", theirs=off), epochs=1)
    assert blind.ok and blind.visible.min() > 1e-6


def test_an_update_off_by_what_is_called_visible_is_seen(examples):
    clean = certify(*sides(examples), epochs=1)
    off = scratch(torch_mlp.MLPScratch, 0.1 * (1 + clean.visible.min() * (1 + 1e-4)))
    t = certify(*sides(examples, theirs=off), epochs=1)
    assert np.argmin(clean.visible) in t.failed


class Nudged(TorchSide):
    """Off by a few bounds in one element of one gradient, at one step of the trajectory."""

    index, at, amount = (3, 5), 1, 0.0

    def __init__(self, *args):
        super().__init__(*args)
        self.seen = []

    def evaluate(self, X, y):
        one = super().evaluate(X, y)
        if y.tobytes() not in self.seen:
            self.seen.append(y.tobytes())
        if self.seen.index(y.tobytes()) == self.at:
            one.gradients["W2"][self.index] += self.amount
            g = one.gradients["W2"][self.index]
            one.step["W2"][self.index] = self.params()["W2"][self.index] - np.float32(0.1) * g
        return one

    def restart(self, params, *rest):
        self.start = params
        super().restart(params, *rest)

    def step(self, batch):
        held = self.params()
        self.load(self.start)
        one = self.evaluate(*batch)
        self.load(held)
        return Taken(one.loss, one.step, {}, {})


def test_one_gradient_off_by_a_few_bounds_is_named_to_the_element(examples):
    jax, other = sides(examples)
    batches = list(jax.stream(1))
    bounds = Reference(jax).evaluate(*batches[1]).bound
    # The step rounds its weights once more, so a few bounds of the gradient must outweigh that.
    Nudged.amount = 5 * float(bounds.gradients["W2"].max()) + 100 * 2.0**-24
    t = certify(*sides(examples, torch_side=Nudged), epochs=1)
    assert list(t.failed) == [1] and t.margin["jax"].max() <= 1
    d = t.divergence
    assert (d.step, d.level, d.side, d.leaf, d.index) == (1, "gradients", "torch", "W2", (3, 5))
    assert d.origins == {"gradients": "made there", "step": "inherited"}
    assert d.torch - d.reference == pytest.approx(Nudged.amount, rel=0.5)
    assert abs(d.jax - d.reference) <= d.bound < abs(d.torch - d.reference)
    assert "W2[3, 5]" in str(d) and "made there" in str(d) and "step inherited" in str(d)


class Stale(TorchSide):
    """Takes each step from the weights of the one before."""

    last = None

    def load(self, params, state=()):
        super().load(self.last or params)
        self.last = dict(params)

    def restart(self, params, *rest):
        super().restart(self.last or params, *rest)
        self.last = dict(params)


def test_weights_stale_by_a_step_are_named_as_weights(examples):
    t = certify(*sides(examples, torch_side=Stale), epochs=1, stop=True)
    assert not t.ok and t.divergence.level == "weights"


class OtherOrder(TorchSide):
    def stream(self, epochs):
        for X, y in super().stream(epochs):
            yield X[::-1].copy(), y


class NoPartial(TorchSide):
    def stream(self, epochs):
        yield from (batch for batch in super().stream(epochs) if len(batch[1]) == 32)


class OneUlp(TorchSide):
    def stream(self, epochs):
        for X, y in super().stream(epochs):
            yield np.nextafter(X, np.float32(2)), y


@pytest.mark.parametrize("fault", [OtherOrder, NoPartial])
def test_another_batch_is_found_in_the_inputs(examples, fault):
    t = certify(*sides(examples, torch_side=fault), epochs=1, stop=True)
    assert not t.ok and t.divergence.level == "inputs"


def test_data_that_end_too_soon_are_named(examples):
    class Short(TorchSide):
        def stream(self, epochs):
            yield from list(super().stream(epochs))[:-1]

    t = certify(*sides(examples, torch_side=Short), epochs=1)
    assert not t.ok and t.steps == 2 and "torch's data has ended" in str(t)


def test_a_nan_fails(examples):
    class Broken(Nudged):
        amount = np.nan

    t = certify(*sides(examples, torch_side=Broken), epochs=1)
    assert list(t.failed) == [1] and t.margins["torch"]["W2"][1] == np.inf
    assert t.divergence.level == "gradients" and t.divergence.index == (3, 5)
    assert json.dumps(t.to_json(), allow_nan=False)


def test_ctrl_c_keeps_the_steps_that_were_certified(examples):
    class Stopped(TorchSide):
        steps = 0

        def step(self, batch):
            self.steps += 1
            if self.steps == 9:
                raise KeyboardInterrupt
            return super().step(batch)

    jax, other = sides(examples, torch_side=Stopped)
    before = other.params()
    with pytest.raises(Interrupted) as caught:
        certify(jax, other, epochs=4)
    assert caught.value.found.steps == 8 - LAG and caught.value.found.ok
    assert all(np.array_equal(a, before[n]) for n, a in other.params().items())
