"""The catalogue of planted faults: each caught where it can show first, and nothing else."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from parity.levels.accuracy import tied_logits
from parity.levels.initial_weights import distance
from parity.levels.ladder import LEVELS
from parity.studies.faults.bench import PARTNERS, Bench, small_images
from parity.studies.faults.catalogue import CATALOGUE, Fault
from parity.studies.faults.changes import accuracy, epoch, forward, loss, nll, optimizer
from parity.studies.faults.port import batches, drawn, images, labels, loaded
from parity.studies.faults.random_networks import clean_run
from parity.studies.faults.run import plant_faults


@pytest.fixture(scope="module")
def benches():
    return {}


HERE = [f for f in CATALOGUE if f.pair == "scratch"]
# Of each level the first, and a NaN; the whole catalogue is slow.
FIRST = {f.level: f.name for f in reversed(HERE)}
FEW = [f for f in HERE if f.name in {*FIRST.values(), "NaN for one unit"}]


@pytest.fixture(scope="module")
def few(benches):
    return plant_faults(FEW, clean=3, benches=benches)


@pytest.fixture(scope="module")
def report(benches):
    return plant_faults(clean=15, benches=benches)


@pytest.mark.slow
def test_the_first_fault_of_each_level_is_caught_there(few):
    assert {o.fault.name: o.first for o in few.outcomes} == {f.name: f.level for f in FEW}
    assert few.ok and not few.slipped and not few.false_alarms, few
    assert few.clean.networks == 3 and few.clean.comparisons > 3 * 50


@pytest.mark.slow
def test_every_fault_is_caught_first_at_the_level_that_can_show_it(report):
    assert {o.fault.name: o.first for o in report.outcomes} == {f.name: f.level for f in CATALOGUE}
    assert report.ok and not report.slipped, report


@pytest.mark.slow
def test_honest_pairs_and_random_networks_raise_no_alarm(report):
    assert set(report.pairs) == {"scratch", "mlp", "bits", "tanh", "gelu", "gelu_tanh"}
    assert not report.false_alarms
    assert report.clean.networks == 15 and report.clean.ok, report.clean
    assert report.clean.comparisons > 15 * 50
    assert 0 < report.clean.largest["step"] <= 1


@pytest.mark.slow
def test_every_level_catches_something_and_is_asked_by_somebody(report):
    assert report.vacuous == []
    # Perceptrons hold nothing but parameters: the state's faults are among the ports.
    elsewhere = {"state", "products", "determinism", "devices"}  # these three: of an accelerator
    assert report.levels == tuple(n for n in (level.name for level in LEVELS) if n not in elsewhere)


def test_the_catalogue_holds_at_least_60_faults_of_every_kind_under_names_of_their_own():
    assert len(CATALOGUE) >= 60
    assert len({f.name for f in CATALOGUE}) == len(CATALOGUE)
    kinds = Counter(f.kind for f in CATALOGUE)
    assert len(kinds) == 11 and min(kinds.values()) >= 5
    assert all(f.says.endswith(".") and f.says[0].isascii() for f in CATALOGUE)


# Every way of planting, with nothing planted: what is caught is the fault, not the planting.
NOTHING = {
    "nothing": lambda port: None,
    "images": images(lambda X: X.copy()),
    "labels": labels(lambda y: y.copy()),
    "batches": batches(lambda right, epoch: list(right.batches(epoch))),
    "weights": loaded(lambda params: params),
    "initial": drawn(lambda name, array, fan_in, rng: array),
    "forward": forward(),
    "loss": loss(lambda z, y: nll(z, y).mean()),
    "accuracy": accuracy(lambda z, y: z.argmax(1) == y),
    "optimiser": optimizer(),
    "epoch": epoch(lambda trainer: None),
}


QUICK = ("forward", "optimiser")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow, id=n) for n in NOTHING],
)
def test_planting_nothing_slips_through_and_is_said_to(name, benches):
    fault = Fault(name, "state", "step", "Nothing is wrong.", NOTHING[name])
    found = plant_faults([fault], benches=benches)
    assert not found.ok and [o.fault.name for o in found.slipped] == [name], found
    assert found.verdict == f"NOT SHARP: 1 of 1 faults slip through: {name}."
    assert f"{name} (scratch): SLIPPED THROUGH. Nothing is wrong." in str(found)


def test_a_fault_that_shows_elsewhere_than_expected_is_not_ok(benches):
    fault = next(f for f in CATALOGUE if f.name == "missing bias")
    found = plant_faults([replace(fault, level="step")], benches=benches)
    assert not found.ok and not found.slipped
    assert "caught at probes, expected at step" in str(found)
    assert found.verdict.startswith("MISPLACED: 1 of 1")


def test_a_level_that_catches_nothing_is_named_vacuous(benches, capsys):
    from rich.console import Console

    fault = next(f for f in CATALOGUE if f.name == "last of tied logits")
    found = plant_faults([fault], benches=benches)
    assert found.ok  # it says nothing about the ladder's soundness
    assert set(found.vacuous) == set(found.levels) - {"accuracy"}
    found.print(Console())
    assert "VACUOUS: level 'curve' catches nothing." in capsys.readouterr().out


@pytest.mark.slow
def test_a_false_alarm_on_an_honest_network_is_counted(few, benches):
    bench = benches["scratch"]
    dishonest = PARTNERS["scratch"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARTNERS, "scratch", optimizer(lr=lambda lr: lr * (1 + 1e-9)))
        found = clean_run(bench, 2)
    assert PARTNERS["scratch"] is dishonest
    assert not found.ok and len(found.alarms) >= 2 and "step float64" in found.alarms[0]
    assert "FALSE ALARMS" in str(found)
    broken = replace(few, clean=found)
    assert not broken.ok and broken.verdict.startswith("NOT SOUND")


def test_ctrl_c_keeps_the_honest_networks_that_were_judged(benches):
    def stop(number):
        if number == 2:
            raise KeyboardInterrupt

    fault = CATALOGUE[0]
    found = plant_faults([fault], clean=5, benches=benches, on_network=stop)
    assert found.interrupted and not found.ok and found.verdict.startswith("INTERRUPTED: 1 faults")
    assert [o.first for o in found.outcomes] == [fault.level]
    assert found.clean.networks == 2 and found.clean.ok


@pytest.mark.slow
def test_after_random_networks_the_bench_is_what_it_was(few, benches):
    fault, first = few.outcomes[0].fault, few.outcomes[0]
    clean_run(benches["scratch"], 1)
    assert plant_faults([fault], benches=benches).outcomes[0] == first


@pytest.mark.slow
def test_the_report_prints_and_writes_all_that_it_found(few, tmp_path, capsys):
    from rich.console import Console

    few.print(Console())
    out = capsys.readouterr().out
    assert all(f.name in out for f in FEW)
    assert "SHARP: all" in out
    few.write(tmp_path)
    written = json.loads((tmp_path / "faults.json").read_text())
    assert written["ok"] and len(written["faults"]) == len(FEW)
    assert written["clean"]["networks"] == 3
    nan = next(f for f in written["faults"] if f["name"] == "NaN for one unit")
    assert nan["first"] == "probes" and nan["levels"]["logits"]["margin"] == "inf"
    assert (tmp_path / "faults.png").read_bytes().startswith(b"\x89PNG")


def test_no_bench_no_verdict():
    assert not plant_faults([]).ok


def test_the_small_pair_has_something_for_every_fault_to_show_on():
    X, y, X_val, y_val = small_images(np.random.default_rng(0))
    order = Bench("mlp").examples.schedule(len(y), True).epoch(0)
    first, last = order[:32], order[64:]
    assert len(last) == 6  # a partial batch
    assert (X[first].reshape(32, -1) == 0).all(axis=1).any()  # a blank image: ties
    assert X.shape[-1] == X.shape[-2] and len(y_val) % 32  # square; partial in validation too
    assert set(y) == set(y_val) == set(range(4))
    z, _ = tied_logits(4)
    assert ((z == z.max(1, keepdims=True)).sum(1) > 1).mean() > 0.25


def test_the_distance_of_two_samples_is_kolmogorov_and_smirnovs():
    a, b = np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 2.5, 4.0, 5.0])
    assert distance(a, a) == 0 and distance(a, b) == distance(b, a) == 0.75
    assert distance(a, a + 10) == 1
