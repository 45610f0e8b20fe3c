"""Free runs inside their one-ulp envelope; equivalence over seeds."""

import json

import numpy as np
import pytest

import torch_mlp
from parity.problem import Problem
from parity.sides.pairs import JaxSide, book_models, book_pair, sides_of
from parity.studies.trajectory import pictures
from parity.studies.trajectory.envelope import Envelope, free_run
from parity.studies.trajectory.seeds import ALARM, Equivalence, compare_seeds

COPIES = 12


def sides(examples, kind="scratch", lr=0.1):
    ours, _ = book_pair(kind, (6, 6), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    _, theirs = book_pair(kind, (6, 6), lr, 1, inputs=12, outputs=4, sigma=0.5)
    return sides_of(Problem(theirs, ours, examples), "float32")


@pytest.mark.parametrize("kind", ["scratch", "mlp"])
def test_a_faithful_port_stays_inside_the_envelope(examples, kind):
    jax, other = sides(examples, kind)
    before = other.params()
    e = free_run(jax, other, 4, copies=COPIES)
    assert e.ok and (e.torch > 0).all(), e
    assert e.copies.shape == (COPIES, 12) and list(e.checkpoints) == list(range(1, 13))
    assert (e.copies < 1e-3 * e.way).all()
    assert "inside" in str(e) and json.loads(json.dumps(e.to_json(), allow_nan=False))["ok"]
    assert all(np.array_equal(a, before[n]) for n, a in other.params().items())
    assert pictures.envelope(e, kind).startswith(b"\x89PNG")


def test_a_learning_rate_off_by_a_hundred_thousandth_leaves_it(examples):
    e = free_run(*sides(examples, lr=0.1 * (1 + 1e-5)), 4, copies=COPIES)
    assert not e.ok and e.share.max() > 1 and e.rank == pytest.approx(1 / (COPIES + 1))
    assert "OUTSIDE" in str(e)


def test_too_few_copies_are_refused(examples):
    with pytest.raises(ValueError, match="at least 3"):
        free_run(*sides(examples), 1, copies=2)


def lognormal(seed, copies=32, torch=1.0):
    rng = np.random.default_rng(seed)
    growth = np.exp(np.linspace(0, 3, 20)) * 1e-8
    draws = np.exp(rng.normal(0, 0.5, (copies + 1, 1))) * growth
    return Envelope(np.arange(1, 21) * 10, draws[1:], torch * draws[0], 1e5 * growth, 0.0)


def test_the_false_alarm_probability_is_kept_on_lognormal_distances():
    assert all(lognormal(seed).ok for seed in range(2000))  # at 1e-4: 0.2 expected


def test_a_run_far_out_is_an_alarm_and_a_nan_too():
    assert sum(lognormal(seed, torch=200).ok for seed in range(50)) == 0
    broken = lognormal(0)
    broken.torch[3] = np.nan
    assert not broken.ok


def test_saturation_is_where_growth_is_no_longer_amplified():
    steps = np.arange(1, 41)
    grown = np.where(steps <= 20, np.exp(steps / 4.0), np.exp(5) * np.sqrt(steps / 20))
    one = Envelope(steps, np.tile(grown, (4, 1)), grown, grown, 0.0)
    assert 15 <= one.saturated <= 21
    amplified = np.exp(steps / 4.0)
    assert Envelope(steps, np.tile(amplified, (4, 1)), amplified, amplified, 0.0).saturated is None


def figures(shift, spread=0.01, n=16, margin=0.02, seed=0):
    rng = np.random.default_rng(seed)
    a, b = (rng.normal(0.8, spread, n) for _ in range(2))
    return Equivalence("accuracy", a, b + shift, margin)


def test_equal_distributions_are_equivalent_different_ones_are_not():
    assert figures(0.0).ok and figures(0.0).power > 0.9
    assert figures(0.05).verdict == "different"
    assert figures(0.0, spread=0.05).verdict == "undecided"


def test_equivalence_is_claimed_at_the_margin_no_more_often_than_its_level():
    claimed = sum(figures(0.02, seed=seed).ok for seed in range(1000))
    assert claimed <= 0.05 * 1000 + 3 * np.sqrt(0.05 * 0.95 * 1000)


def test_the_stated_power_and_the_detectable_difference_are_what_happens():
    shown = sum(figures(0.0, spread=0.018, seed=seed).ok for seed in range(500))
    stated = np.mean([figures(0.0, spread=0.018, seed=s).power for s in range(500)])
    assert abs(shown / 500 - stated) < 0.1
    needed = int(np.median([figures(0.0, spread=0.018, seed=s).needed for s in range(500)]))
    enough = sum(figures(0.0, spread=0.018, n=needed, seed=seed).ok for seed in range(500))
    assert 0.8 < enough / 500 < 0.97
    true = np.mean([figures(0.0, seed=seed).detectable for seed in range(500)])
    found = sum(figures(true, seed=seed).p_equal < ALARM for seed in range(500))
    assert 0.8 < found / 500 < 0.98


def models(kind, lr):
    def at(rate):
        return book_models(kind, (6,), rate, inputs=12, outputs=4, sigma=0.5)

    return at(0.1)[0], at(lr)[1]


@pytest.mark.parametrize(("lr", "ok"), [(0.1, True), (0.005, False)])
def test_seeds_agree_for_a_faithful_port_and_not_for_another_rate(examples, lr, ok):
    s = compare_seeds(*models("scratch", lr), examples, 20, seeds=range(8))
    loss = s.figures[1]
    assert (loss.verdict == "different") is not ok and len(loss.torch) == 8
    assert len(set(loss.jax)) == len(set(loss.torch)) == 8
    assert json.dumps(s.to_json(), allow_nan=False)
    assert pictures.seeds(s, "scratch").startswith(b"\x89PNG")


def test_jax_seeds_in_one_compiled_call_give_what_its_trainer_gives(examples):
    jax_model, torch_model = models("scratch", 0.1)
    kept = {}

    def model(seed):
        return kept.setdefault(seed, jax_model(seed))

    s = compare_seeds(model, torch_model, examples, 2, seeds=[3, 4, 5])
    one = JaxSide(kept[4], type(examples)(examples.source, examples.batch_size, 4)).train(2)
    assert s.figures[1].jax[1] == pytest.approx(one.history.val("loss")[-1], rel=1e-5)


def test_few_seeds_are_refused(examples):
    assert torch_mlp  # the side whose Trainer runs them
    with pytest.raises(ValueError, match="at least 3"):
        compare_seeds(*models("scratch", 0.1), examples, 1, seeds=[1, 1, 1])
