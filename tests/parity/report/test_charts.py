"""Curves as data: what is drawn, what isn't, and what a page has room for."""

import re
from dataclasses import replace

import numpy as np
import pytest

from parity.report.charts import POINTS, Chart, Curve, charts, thinned, ticks, within
from parity.report.summary import facts, reason


def chart(y, **options):
    y = np.asarray(y, float)
    return Chart("it", "nats", (Curve("one", "jax-float64", 1 + np.arange(len(y)), y),), **options)


def points(path):
    found = re.findall(r"([ML])([-+.e\d]+) ([-+.e\d]+)", path)
    return [(letter, float(x), -float(y)) for letter, x, y in found]


def test_what_is_not_finite_or_not_positive_on_a_logarithm_is_a_gap():
    drawn = chart([1.0, np.nan, 10.0, 0.0, np.inf, 100.0, 1000.0], log=True)
    assert points(drawn.path(drawn.curves[0])) == [
        ("M", 1, 0),
        ("M", 3, 1),
        ("M", 6, 2),
        ("L", 7, 3),
    ]
    assert drawn.dots(drawn.curves[0]).count("M") == 4
    plain = chart([1.0, 0.0, -2.0])
    assert [y for *_, y in points(plain.path(plain.curves[0]))] == [1, 0, -2]


def test_a_chart_of_nothing_that_can_be_drawn_has_a_window_and_ticks():
    empty = chart([np.nan, np.nan], log=True)
    assert np.all(np.isfinite(empty.window)) and empty.path(empty.curves[0]) == ""
    assert empty.x_ticks and all(0 <= at <= 1 for _, at in empty.x_ticks + empty.y_ticks)


def test_thinning_loses_no_peak_and_no_gap():
    y = np.ones(10_000)
    y[1234], y[8765], y[5000] = 50.0, -50.0, np.nan
    x, kept = thinned(np.arange(10_000), y, 100)
    assert len(x) <= 100 and np.all(np.diff(x) > 0)
    assert {1234, 5000, 8765} <= set(x.tolist()) and np.isnan(kept).sum() == 1
    assert thinned(np.arange(5), y[:5], 5)[1].tolist() == y[:5].tolist()


@pytest.mark.parametrize(
    "low, high, whole, expected",
    [
        (0.0, 10.0, False, [0, 2, 4, 6, 8, 10]),
        (0.31, 0.58, False, [0.4, 0.5]),
        (-16.2, -3.9, True, [-15, -10, -5]),
        (-0.1, 0.1, True, [0]),
    ],
)
def test_ticks_are_round_numbers(low, high, whole, expected):
    assert ticks(low, high, whole=whole) == pytest.approx(expected)


def test_a_verdict_draws_its_runs_their_distance_and_its_certified_steps(agreeing):
    found = {c.title: c for c in charts(agreeing)}
    assert list(found) == [
        "Loss",
        "Validation accuracy",
        "Training loss: how far apart",
        "Every step in float32: share of its rounding bound",
        "What a step's bound can see",
    ]
    loss = found["Loss"].curves
    assert [len(c.x) for c in loss] == [60] * 4 + [3] * 4 and loss[4].x.tolist() == [20, 40, 60]
    assert "at 1 of 60 steps not at all" in found["Training loss: how far apart"].says
    x, values = [*found["Validation accuracy"].table][-1]
    assert (x, values) == (60, [0.7] * 4)
    assert charts(replace(agreeing, curves={}, trajectory=None)) == []


def test_runs_of_other_lengths_and_of_none_are_drawn_as_far_as_they_go(agreeing):
    short = {"train_loss": np.array([2.0, np.inf])}
    found = {c.title: c for c in charts(replace(agreeing, curves=agreeing.curves | {
        "jax float64": short, "jax float32": {"train_loss": np.zeros(0)}}))}  # fmt: skip
    apart = found["Training loss: how far apart"]
    assert [len(c.x) for c in apart.curves] == [2, 2, 2] and "at most inf apart" in apart.says
    assert len(found["Loss"].curves) == 3 + 2


def test_many_curves_have_few_points_each(agreeing):
    groups = within([charts(agreeing)] * 400)
    drawn = [c.path(curve) for group in groups for c in group for curve in c.curves]
    assert 0 < sum(path.count("M") + path.count("L") for path in drawn) <= POINTS
    assert within([charts(agreeing)] * POINTS)[0] == []


def test_the_reason_names_what_is_closest_to_its_bound_or_what_fails(agreeing, differing):
    assert reason(agreeing) == (
        "All of 3 checks agree; the closest to its bound is 'logits' in float64, at 0.5 of it."
    )
    assert reason(differing).startswith("'logits' in float64 differs: .logits[0]: left 4.0, right")
    said = dict(facts(differing))
    assert said["checks"] == "2 agree, 1 differ, 1 skipped; 3 numbers judged"
    assert said["parameters"] == "16 in 2 arrays" and "60 steps in float32" in said["every step"]
    empty = replace(agreeing, results=())
    assert empty.undecided and reason(empty) == "No level could be asked of this pair."
