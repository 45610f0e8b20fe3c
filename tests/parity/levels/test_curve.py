"""Whole runs, and what a ReLU's sign that rounding turned may do to one of them."""

import numpy as np
import pytest

from mlp_core.history import Epoch, History
from parity.levels.curve import FURTHER, TWINS, YARDSTICK, curves, judge_curve, note_curve
from parity.levels.effective_bits import RATIO
from parity.levels.pair import Pair
from parity.problem import Examples
from parity.sides.pairs import JaxSide, book_pair
from parity.sides.reference import Expected
from parity.sides.side import Evaluation, Run

STEPS, EXAMPLES = 90, 1000


def run(off=0.0, steps=STEPS, acc=0.5, weight=2.0):
    """A training whose losses are off by `off` of themselves from step 40 on."""
    losses = np.exp(-np.arange(steps) / 50)
    losses[40:] *= 1 + off
    epoch = Epoch(steps=steps, samples=1, seconds=0.0, val={"acc": acc, "loss": 1 + off})
    history = History(train_loss=losses.tolist(), epochs=[epoch])
    return Run(history, {"W1": np.array([weight * (1 + off)])})


class Given(Pair):
    """What judge_curve asks of Pair, of runs that are given. strayed: how far off each twin is."""

    val_examples, batches, narrow, without_float64 = EXAMPLES, {"batch": ()}, "", ""

    def __init__(self, torch32, strayed, torch64=None, jax32=None):
        super().__init__({}, {}, Examples(), 1, params={"W1": np.array([1.0])})
        self.made = {
            ("jax", "float64"): run(),
            ("torch", "float64"): torch64 or run(1e-15),
            ("jax", "float32"): jax32 or run(1e-7),
            ("torch", "float32"): torch32,
        }
        self.strayed, self.asked = strayed, {}

    def run(self, side, precision, update_scale=1.0):
        return run(YARDSTICK) if update_scale != 1 else self.made[side, precision]

    def twins(self, precision, count, spread):
        self.asked[precision] = count, spread
        return [run(off) for off in self.strayed]

    def has_twins(self, precision):
        return precision in self.asked

    def expected(self, precision, batch):
        one = Evaluation({"logits": np.zeros(1)}, np.array(1e-16), {}, {})
        return Expected(one, one, one, {})


def test_runs_off_by_rounding_need_no_twins():
    found = Given(run(2e-7), [1e-6])
    for precision in ("float64", "float32"):
        assert all(c.ok for c in judge_curve(found, precision))
        assert note_curve(found, precision) == ""
    assert not found.asked


def test_a_side_may_stray_as_far_as_twins_do():
    found = Given(run(1e-3), [1e-6, 5e-4])
    assert all(c.ok for c in judge_curve(found, "float32"))
    assert found.asked == {"float32": (TWINS, RATIO * 2.0**-24)}
    assert "ReLU's sign may have turned" in note_curve(found, "float32")


@pytest.mark.parametrize("side", ["jax", "torch"])
def test_a_side_that_strays_where_no_twin_does_is_a_fault(side):
    wrong = run(1e-3)
    found = Given(wrong if side == "torch" else run(1e-7), [1e-5] * TWINS, jax32=wrong)
    found = found if side == "jax" else Given(wrong, [1e-5] * TWINS)
    failed = [c for c in judge_curve(found, "float32") if not c.ok]
    assert {c.sides[0] for c in failed} == {side}
    assert failed[0].name.startswith("train_loss: distance")


def test_the_furthest_twin_counts_four_times_and_no_more():
    for off, ok in ((0.9 * FURTHER * 1e-3, True), (1.1 * FURTHER * 1e-3, False)):
        found = judge_curve(Given(run(off), [1e-3] * TWINS), "float32")
        assert all(c.ok for c in found) == ok


def test_one_example_predicted_otherwise_is_rounding_and_two_are_not():
    for count, ok in ((1, True), (2, False)):
        other = run(1e-7, acc=0.5 + count / EXAMPLES)
        assert all(c.ok for c in judge_curve(Given(other, [1e-6]), "float32")) == ok


def test_in_float64_twins_excuse_what_they_do_themselves():
    apart = run(1e-6)
    alone = judge_curve(Given(run(), [1e-12], torch64=apart), "float64")
    assert {c.name for c in alone if not c.ok} == {"train_loss", "val_loss", "final W1"}
    found = Given(run(), [1e-12, 2e-6], torch64=apart)
    assert all(c.ok for c in judge_curve(found, "float64"))
    assert found.asked == {"float64": (TWINS, RATIO * 2.0**-53)}


@pytest.mark.parametrize("wrong", [run(np.nan), run(np.inf), run(steps=STEPS - 1)])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_no_twin_excuses_a_nan_or_another_length(wrong, precision):
    found = Given(wrong, [1.0] * TWINS, torch64=wrong)
    with np.errstate(all="ignore"):
        assert not all(c.ok for c in judge_curve(found, precision))
    assert not found.asked


@pytest.fixture(scope="module")
def side(digits):
    ours, _ = book_pair("scratch", (6,), 0.1, 0, 12, 4, sigma=0.5)
    return JaxSide(ours, Examples(digits, 32, 5), "float64")


def test_twins_train_as_the_model_does_from_weights_nearby(side):
    before, plain = side.params(), side.train(2)
    same, other = side.twins(2, 1, 0.0)[0], side.twins(2, 3, 1e-6)
    for name, curve in curves(plain).items():
        np.testing.assert_allclose(curves(same)[name], curve, rtol=1e-13)
        assert all(curves(twin)[name].shape == curve.shape for twin in other)
    for name, array in plain.params.items():
        np.testing.assert_allclose(same.params[name], array, rtol=0, atol=1e-13)
        apart = [np.abs(twin.params[name] - array).max() for twin in other]
        assert all(1e-9 < a < 1e-4 for a in apart) and len(set(apart)) == 3, name
    for name, array in before.items():
        np.testing.assert_array_equal(side.params()[name], array)


def test_a_pair_keeps_its_twins_and_announce_them(side):
    said = []
    one = Pair({"float64": side}, {}, side.examples, 1, on_start=said.append)
    assert one.twins("float32", 2, 1e-6) is one.twins("float32", 2, 1e-6)
    assert said == ["1 epochs of 2 twins in float64"] and one.has_twins("float32")
    assert not one.has_twins("float64")
