"""Killed, stopped, started twice: what a command has saved is whole, and it goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from mlp_core.checkpoint import Checkpoints
from mlp_core.history import History
from mlp_core.locking import locked
from parity.cli import main

HERE = Path(__file__).parent
SMALL = ["--data", "sample", "--hiddens", "8"]


def killed(side, folder, kills, seed):
    """What killed_training.py reports."""
    program = [sys.executable, "-P", HERE / "killed_training.py", side, folder, str(kills), seed]
    roots = {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(
        program, capture_output=True, text=True, env=os.environ | roots, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("side", "kills"),
    [("torch", 3), pytest.param("torch", 25, marks=pytest.mark.slow),
     pytest.param("jax", 8, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_killed_training_always_goes_on_and_loses_nothing_that_was_saved(side, kills, tmp_path):
    found = killed(side, tmp_path, kills, "1")
    assert found["codes"] == [0, 0] and found["same bits"]
    assert found["steps"] == sorted(found["steps"]) and found["steps"][-1] > 0
    assert not list((tmp_path / "killed").glob(".step*"))


def train(out, *more, side="torch"):
    return main(["train", "--side", side, *SMALL, "--out", str(out), *more])


def losses(folder):
    return History.load(folder / "history.json").train_loss


def test_train_resumes_to_the_files_of_a_run_that_was_never_stopped(tmp_path, capsys):
    assert train(tmp_path / "whole", "--epochs", "2") == 0
    saved = ["--checkpoint", str(tmp_path / "saved"), "--checkpoint-every", "7"]
    assert train(tmp_path / "out", "--epochs", "1", *saved, "--resume") == 0
    newest = Checkpoints(tmp_path / "saved").paths()[0]
    assert newest.name == "step-000000000024.safetensors"
    newest.write_bytes(newest.read_bytes()[:5000])  # a damaged one: the one before is taken
    assert train(tmp_path / "out", "--epochs", "2", *saved, "--resume") == 0
    assert "going on from the one before it" in capsys.readouterr().err
    weights = [(tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "out")]
    assert weights[0] == weights[1] and losses(tmp_path / "whole") == losses(tmp_path / "out")
    about = History.load(tmp_path / "out" / "history.json").about
    assert about["resumed"] == [21]
    for more, said in (([], "go on from it with resume"), (["--lr", "0.2"], "of another run")):
        resume = ["--resume"] if more else []
        assert train(tmp_path / "out", "--epochs", "2", *saved, *more, *resume) == 2
        assert said in capsys.readouterr().err


def test_options_that_need_a_folder_of_checkpoints_say_so(capsys):
    for option in (["--resume"], ["--checkpoint-every", "3"]):
        with pytest.raises(SystemExit):
            main(["train", *option])
        assert "needs a folder of checkpoints" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_sigterm_saves_writes_the_results_and_ends_with_143(tmp_path):
    saved = tmp_path / "saved"
    command = [sys.executable, "-m", "parity.cli", "train", "--side", "torch", *SMALL]
    command += ["--epochs", "100000", "--out", str(tmp_path), "--checkpoint", str(saved)]
    process = subprocess.Popen(
        [*command, "--checkpoint-every", "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        while not Checkpoints(saved).paths() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143 and "stopping after this step" in err, err
    assert "interrupted" in out
    found, history = Checkpoints(saved).newest(), History.load(tmp_path / "history.json")
    assert history.interrupted and len(history.train_loss) == found.step
    state = load_file(tmp_path / "weights.safetensors")
    assert (state["net.3.bias"] == found.arrays["state/model/3"]).all()


def test_the_second_run_into_one_folder_is_refused(tmp_path, capsys):
    with locked(tmp_path, ValueError, ""):
        for command in ("train", "check", "bits"):
            assert main([command, *SMALL, "--out", str(tmp_path)]) == 2
            said = capsys.readouterr().err
            assert "another run is writing there now" in said and "--out" in said


def test_a_run_that_diverges_leaves_nothing_of_the_run_before_beside_it(tmp_path, capsys):
    assert train(tmp_path, "--epochs", "1") == 0
    (tmp_path / "own notes").write_text("kept")
    assert train(tmp_path, "--epochs", "1", "--lr", "1e38") == 2
    assert "has diverged" in capsys.readouterr().err
    names = sorted(path.name for path in tmp_path.glob("[!.]*"))
    assert names == ["curve.png", "history.csv", "history.json", "own notes", "run.json"]
    assert [*json.loads((tmp_path / "run.json").read_text())["files"]] == names[:3]


def test_ctrl_c_before_anything_was_measured_is_no_divergence(tmp_path, capsys, monkeypatch):
    import torch_mlp

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_mlp.Trainer, "fit_epoch", interrupted)
    assert train(tmp_path, "--epochs", "1") == 130
    assert capsys.readouterr().err == "mlp-parity: interrupted\n"


def test_ctrl_c_while_the_command_is_imported_ends_it_in_one_line():
    code = (
        "import os, signal, sys\n"
        "class Import:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'parity.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Import())\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from parity.start import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == "mlp-parity: interrupted\n"


@pytest.mark.slow
def test_bits_goes_on_on_another_number_of_devices(tmp_path):
    saved = ["--checkpoint", str(tmp_path / "saved"), "--resume"]
    options = ["bits", *SMALL, "--batch-size", "2000", "--side", "jax"]
    script = "import sys; from parity.cli import main; sys.exit(main(sys.argv[1:]))"
    runs = [
        ["--epochs", "2"],
        ["--epochs", "1", *saved],
        ["--epochs", "2", "--devices", "2", "--checkpoint-every", "2", *saved],
    ]
    printed = []
    for i, run in enumerate(runs):
        command = [sys.executable, "-c", script, *options, *run, "--out", str(tmp_path / str(i))]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        assert done.returncode == 0, done.stderr
        printed.append(json.loads((tmp_path / str(i) / "bits.json").read_text())["runs"]["jax"])
    for what in ("weights", "losses"):
        assert printed[0][what] == printed[2][what] != printed[1][what]


@pytest.mark.slow
def test_sigterm_under_torchrun_saves_one_checkpoint_for_all_to_go_on_from(tmp_path):
    saved, options = tmp_path / "saved", ["bits", *SMALL, "--side", "torch", "--epochs"]
    place = Checkpoints(saved / "torch")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "parity.cli", *options, "100000", "--processes", "2"]
    command += ["--out", str(tmp_path / "out"), "--checkpoint", str(saved)]
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[1])}
    with subprocess.Popen(
        [*command, "--checkpoint-every", "3"], env=os.environ | settings, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not place.paths() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        _, err = process.communicate(timeout=120)
    assert err.count("stopping after this step, with a checkpoint") == 2  # both have heard it
    step = place.newest().step
    assert step % 3 == 0
    epochs = str(step // 24 + 1)
    resumed = ["--checkpoint", str(saved), "--resume"]
    hashes = []
    for i, more in enumerate((resumed, [])):
        # One process goes on with what two have begun: in reproducible arithmetic it may.
        assert main([*options, epochs, *more, "--out", str(tmp_path / str(i))]) in (0, 2)
        found = json.loads((tmp_path / str(i) / "bits.json").read_text())["runs"]["torch"]
        hashes.append((found["weights"], found["losses"]))
    assert hashes[0] == hashes[1]


@pytest.mark.slow
def test_a_trajectory_goes_on_to_the_same_report(tmp_path):
    saved = ["--checkpoint", str(tmp_path / "saved"), "--checkpoint-every", "5"]
    options = ["--model", "scratch", "--epochs", "1", "--copies", "3", "--copy-epochs", "1"]
    options += ["--seeds", "3", "--seed-epochs", "1"]
    reports = []
    for resume in ([], ["--resume"]):
        command = ["trajectory", *SMALL, *options, *saved, *resume, "--out", str(tmp_path / "out")]
        assert main(command) in (0, 2)  # three seeds may be too few to tell
        text = (tmp_path / "out" / "trajectory-scratch.json").read_text()
        reports.append(_without_seconds(json.loads(text)))
        for part in ("certified-float32", "envelope", "seeds"):  # as if killed before the last
            Checkpoints(tmp_path / "saved" / "scratch" / part).paths()[0].unlink()
    assert reports[0] == reports[1]


def _without_seconds(value):
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [_without_seconds(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_a_check_that_is_killed_goes_on_at_its_level_to_the_same_report(tmp_path):
    options = ["check", *SMALL, "--epochs", "1", "--model", "scratch"]
    options += ["--levels", "inputs", "weights", "logits"]
    saved = tmp_path / "saved" / "scratch"
    resumed = ["--checkpoint", str(tmp_path / "saved"), "--resume", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "parity.cli", *options, *resumed]
    with subprocess.Popen(command, env=os.environ) as process:
        deadline = time.monotonic() + 120
        while not Checkpoints(saved).paths() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert 0 < Checkpoints(saved).newest().step < 4
    for more in (resumed, ["--out", str(tmp_path / "whole")]):
        assert main([*options, *more]) == 0
    reports = [
        json.loads((tmp_path / run / "report.json").read_text())["pairs"]
        for run in ("out", "whole")
    ]
    assert _without_seconds(reports[0]) == _without_seconds(reports[1])
