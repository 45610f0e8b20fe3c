"""The whole of a trajectory's report, on the embedded sample."""

import json
from dataclasses import replace

import numpy as np

from parity.studies.trajectory.run import Journey, travel
from parity.studies.trajectory.seeds import Equivalence, Seeds

SMALL = {"hiddens": (8,), "lr": 0.1, "batch_size": 256, "seed": 2, "data": "sample"}


def seeds(shift, margin=0.02):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.01, (2, 16))
    return Seeds((Equivalence("accuracy", a, b + shift, margin),), {})


def test_a_journey_on_the_sample_agrees_and_is_written_down(tmp_path):
    told = []
    found = travel(
        "mlp", epochs=1, precisions=("float32",), copies=6, on_start=told.append, **SMALL
    )
    assert found.ok and found.verdict.startswith("AGREE") and len(told) == 2, str(found)
    found.write(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "trajectory-mlp.json",
        "margins-mlp-float32.png",
        "envelope-mlp.png",
    }
    assert json.loads((tmp_path / "trajectory-mlp.json").read_text())["ok"] is True
    with_seeds = replace(found, seeds=seeds(0.0))
    assert with_seeds.ok and "seeds-mlp.png" in with_seeds.pictures()


def test_too_few_seeds_are_undecided_and_a_difference_is_a_difference():
    unsure, off = (Journey("mlp", seeds=s) for s in (seeds(0.0, margin=0.004), seeds(0.05)))
    assert unsure.undecided and not unsure.ok and unsure.verdict.startswith("UNDECIDED")
    assert not off.undecided and not off.ok and off.verdict.startswith("DIFFER")


def test_nothing_asked_is_no_agreement():
    assert not Journey("mlp").ok
