"""The exercises as a user types them, what their rows say, and what is said of divergence."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mlp
from jax_mlp import scratch
from mlp_core.history import Epoch, History
from parity.cli import main, parse
from parity.config import SweepConfig
from parity.config.exercises import EXERCISES, GRID, Setting, ValueMissed
from parity.rounding.bound import bound
from parity.studies.sweep.outcome import Outcome, Row, apart
from parity.studies.sweep.pictures import picture

QUICK = ["--data", "sample", "--epochs", "2", "--seeds", "2", "--hiddens", "8"]


def sweep(tmp_path, *arguments):
    code = main(["sweep", *arguments, *QUICK, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "sweep.json").read_text())
    return code, found[arguments[0]]


def test_an_exercise_ends_to_end(tmp_path, capsys):
    code, found = sweep(tmp_path, "width", "--values", "4", "16", "--model", "scratch")
    out = capsys.readouterr().out
    assert code == 0 and found["answer"].startswith("Best width: ")
    assert "How does the width" in out and "accuracy" in out and "seconds" in out
    assert [row["value"] for row in found["rows"]] == ["4", "16"]
    assert [row["setting"]["hiddens"] for row in found["rows"]] == [[4], [16]]
    for row in found["rows"]:
        assert row["seeds"] == [0, 1] and row["epochs"] == 2 and row["diverged"] == 0
        assert np.shape(row["val_acc"]) == np.shape(row["train_loss"]) == (2, 2)
    assert (tmp_path / "sweep-width.png").read_bytes().startswith(b"\x89PNG")
    lines = [*csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines())]
    assert len(lines) == 2 * 2 * 2  # values, seeds, epochs
    assert float(lines[-1]["val_acc"]) == found["rows"][-1]["val_acc"][-1][-1]


@pytest.mark.slow
def test_a_run_is_the_trainers(tmp_path):
    _, found = sweep(tmp_path, "lr", "--values", "0.1", "--seed", "3")
    jax_mlp.manual_seed(3)
    data = jax_mlp.FashionMNIST(256, data="sample", seed=3)
    history = jax_mlp.Trainer(2).fit(jax_mlp.MLP(10, (8,), 0.1), data)
    # Accuracies are counts out of 1,000: one image at a tie may fall either way by rounding.
    assert np.abs(np.subtract(found["rows"][0]["val_acc"][0], history.val("acc"))).max() <= 0.001
    np.testing.assert_allclose(found["rows"][0]["val_loss"][0], history.val("loss"), rtol=1e-4)


@pytest.mark.slow
def test_divergence_and_chance_are_marked_and_kept_out_of_the_means(tmp_path, capsys):
    _, found = sweep(tmp_path, "lr", "--values", "0.1", "1e20")
    calm, wild = found["rows"]
    assert calm["diverged"] == 0 and wild["diverged"] == 2
    assert wild["val_loss"][0][-1] == "nan" and wild["best_epoch"] is None
    assert "1e20: 2 of 2 diverged" in found["answer"]
    assert "2 of 2 diverged" in capsys.readouterr().out
    _, found = sweep(tmp_path, "spread", "--values", "0")  # all units alike and blank
    assert found["rows"][0]["at_chance"] == 2 and "2 of 2 at chance" in found["answer"]


SLOW = pytest.mark.slow  # one of a kind is enough for every day


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=SLOW) for n in ("joint", "depth", "bottleneck", "activation")]
)
def test_every_exercise_takes_values(tmp_path, name):
    values = {
        "depth": ("8", "8-4"),
        "bottleneck": ("8", "8-1"),
        "joint": ("8@0.1", "4-4@0.2"),
        "activation": ("tanh", "gelu"),
    }[name]
    code, found = sweep(tmp_path, name, "--values", *values)
    assert code == 0 and [row["value"] for row in found["rows"]] == [*values]
    expected = {
        "depth": "Against 8: 8-4 ",
        "bottleneck": "Against 8: 8-1 ",
        "joint": "Chosen out of 2 by the validation set itself, so this figure is optimistic",
        "activation": "Best activation: ",
    }
    assert expected[name] in found["answer"]


def test_settings_are_what_the_values_say():
    base = Setting((256,), 0.1)
    change = {name: exercise.settings((), base) for name, exercise in EXERCISES.items()}
    assert change["bottleneck"]["256-1-256"].hiddens == (256, 1, 256)
    assert change["joint"]["64-64@0.3"] == Setting((64, 64), 0.3) and len(GRID) == 16
    assert change["activation"]["gelu"].activation == "gelu"
    assert change["spread"]["0.01"].sigma == 0.01 and change["lr"]["3"].lr == 3.0
    assert all(exercise.settings((), base) for exercise in EXERCISES.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", "wide"), ("width", "0"), ("lr", "nan"), ("joint", "256"), ("activation", "rely"),
     ("spread", "-1"), ("depth", "8--8")],
)  # fmt: skip
def test_a_value_that_is_none_is_refused_with_what_was_expected(tmp_path, capsys, name, value):
    with pytest.raises(ValueMissed, match="expected"):
        EXERCISES[name].settings([value], Setting((8,), 0.1))
    arguments = ["sweep", name, f"--values={value}", "--data", "sample"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert f"{name}: '{value}', expected" in capsys.readouterr().err


def test_defaults_have_one_source():
    assert parse(["sweep"]) == SweepConfig()
    assert parse(["sweep", "lr"]).exercise == "lr"
    with pytest.raises(SystemExit):
        parse(["sweep", "--values", "1"])  # of which exercise?


def row(value, accuracies, losses=None, n=10_000):
    """A row of runs of two epochs, which end at these accuracies."""
    runs = []
    for seed, acc in enumerate(accuracies):
        loss = 1 - acc if losses is None else losses[seed]
        epochs = [Epoch(1, 1, 0.5, {"loss": 2.0, "acc": 0.2}), Epoch(1, 1, 0.5, {})]
        epochs[1].val = {"loss": loss, "acc": acc}
        about = {"hyperparameters": {"seed": seed}}
        runs.append(History([2.0, loss], epochs, about=about))
    return Row(value, Setting((8,), 0.1), tuple(runs), n)


def outcome(name, *rows):
    return Outcome(EXERCISES[name], rows, {})


def test_the_sentence_follows_the_figures_and_not_the_values():
    good, close, bad = (row("a", [0.9, 0.91, 0.92]), row("b", [0.89, 0.91, 0.9]),
                        row("c", [0.5, 0.51, 0.52]))  # fmt: skip
    text = outcome("width", bad, close, good).answer
    assert text == (
        "Best width: a, accuracy 0.9100 +- 0.0100; not told apart from it by 3 seeds: b; "
        "worst: c, 0.4000 +- 0.0227 lower."
    )
    assert (
        "Against c: b gains 0.3900 +- 0.0227; a gains" in outcome("depth", bad, close, good).answer
    )
    assert "worst" not in outcome("width", close, good).answer
    assert "Against a: b changes nothing; c loses 0.4" in outcome("depth", good, close, bad).answer


def test_the_interval_is_welchs():
    """Of [1, 2, 3] and [4, 6, 8, 10] less 5: t(0.975, 4.94) sqrt(1/3 + 5/3), by hand."""
    from scipy import stats

    a, b = row("a", [0.01, 0.02, 0.03]), row("b", [0.04, 0.06, 0.08, 0.10])
    by, half = apart(a, b)
    u, v = 1e-4 / 3, 20 / 3 * 1e-4 / 4
    df = (u + v) ** 2 / (u**2 / 2 + v**2 / 3)
    assert by == pytest.approx(-0.05)
    assert half == pytest.approx(stats.t.ppf(0.975, df) * np.sqrt(u + v))
    single = apart(row("a", [0.5]), row("b", [0.4]))
    assert single[0] == pytest.approx(0.1) and np.isnan(single[1])


def test_a_run_that_diverged_in_training_alone_is_not_passed_over():
    wild = row("a", [0.9, 0.9])
    wild.runs[0].train_loss[1] = float("nan")
    assert wild.diverged == 1 and len(wild.final("acc")) == 1 and wild.note == "1 of 2 diverged"
    lost = row("b", [0.1], [float("nan")])
    assert outcome("lr", lost).answer == "Every run diverged."
    for name in ("lr", "joint", "activation"):
        assert picture(outcome(name, wild, lost)).startswith(b"\x89PNG")
    assert picture(outcome("lr", lost)).startswith(b"\x89PNG")


def test_chance_is_judged_by_the_number_of_validation_examples():
    assert row("a", [0.12], n=1_000).at_chance == 1  # 0.1 + 3 sqrt(0.09 / 1000) = 0.128
    assert row("a", [0.12], n=10_000).at_chance == 0  # 0.109


def test_the_first_step_of_each_run_lies_within_its_rounding_bound():
    """Weights after one step of a sweep, against the float64 step and its computed bound."""
    X = np.random.default_rng(0).standard_normal((32, 12), np.float32)
    y = np.random.default_rng(1).integers(0, 4, 32).astype(np.int32)

    class One(jax_mlp.DataModule):
        batch_size = 32

        def get_dataloader(self, train):
            if train:
                return jax_mlp.ArrayLoader([X, y], jax_mlp.data.Schedule(32, 32, shuffle=False))
            return None

    models = []
    for seed, lr in ((0, 0.1), (1, 0.5), (2, 0.01)):
        jax_mlp.manual_seed(seed)
        models.append(jax_mlp.MLPScratch(12, 4, (6,), lr, sigma=0.5))
    start = [jax.tree.map(np.asarray, model.params) for model in models]
    with jax.default_matmul_precision("highest"):
        histories = jax_mlp.Sweep(1).fit(models, One())
    for model, before, history in zip(models, start, histories, strict=True):
        lr = jnp.float32(model.lr)

        def step(params, X, y, lr=lr):
            return scratch.step(params, (X, y), lr=lr)

        b = bound(step, before, X, y, roundoff=2**-24)
        (params, loss), (params_bound, loss_bound) = b.value, b.bound
        assert abs(history.train_loss[0] - loss) <= loss_bound
        for name, value in params.items():
            got = np.asarray(model.params[name], np.float64)
            assert (np.abs(got - value) <= params_bound[name]).all(), name
            assert (np.abs(got - before[name]) > params_bound[name]).any()  # it can see a step


def test_sweep_needs_no_torch(tmp_path):
    code = (
        "import sys\n"
        "from parity.cli import main\n"
        f"code = main(['sweep', 'lr', '--values', '0.1', *{QUICK}, '--out', {str(tmp_path)!r}])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_runs_spread_over_devices_are_the_same_runs(tmp_path):
    """In processes of their own: the number of devices is settled when JAX starts."""
    found = {}
    for devices in ("1", "2"):
        arguments = ["lr", "--values", "0.1", "--devices", devices, *QUICK, "--out", str(tmp_path)]
        code = (
            "import sys, jax\n"
            "from parity.cli import main\n"
            f"code = main(['sweep', *{arguments}])\n"
            f"assert jax.device_count() == {devices}\n"
            "sys.exit(code)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[devices] = json.loads((tmp_path / "sweep.json").read_text())["lr"]["rows"][0]
    for key in ("train_loss", "val_loss"):
        np.testing.assert_allclose(found["1"][key], found["2"][key], rtol=1e-4)


def test_devices_that_there_are_not_are_exit_code_2(tmp_path, capsys):
    jax.devices()  # JAX has started
    arguments = ["lr", *QUICK, "--devices", "99", "--out", str(tmp_path)]
    assert main(["sweep", *arguments]) == 2
    # No more are asked for than there are runs.
    assert re.search(r"devices = \d\d, expected 1 to", capsys.readouterr().err)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_finished(tmp_path):
    command = [sys.executable, "-m", "parity.cli", "sweep", "lr", "--values", "0.1", "0.2"]
    command += ["--data", "sample", "--epochs", "100000", "--seeds", "1", "--hiddens", "8"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True,
    )  # fmt: skip
    time.sleep(15)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = json.loads((tmp_path / "sweep.json").read_text())["lr"]
    assert found["interrupted"] and found["rows"][0]["epochs"] > 1
    assert "Interrupted" in out and (tmp_path / "sweep-lr.png").exists()
