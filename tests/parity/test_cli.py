"""The commands as a user types them: what they print, write and return."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlp_core.history import History
from parity.cli import main, parse
from parity.config import CheckConfig, TrainConfig

QUICK = ["--data", "sample", "--epochs", "1", "--hiddens", "8"]


def test_the_main_job_ends_to_end_on_the_sample(tmp_path, capsys):
    code = main(["check", *QUICK, "--model", "scratch", "--out", str(tmp_path / "report")])
    out = capsys.readouterr().out
    assert code == 0 and "AGREE" in out and "gradients" in out
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["ok"] and report["pairs"][0]["about"]["epochs"] == 1
    assert {level["level"] for level in report["pairs"][0]["levels"]} >= {"inputs", "curve"}
    page = (tmp_path / "report/index.html").read_text()
    assert "AGREE" in page and page.count('<figure class="plot"') >= 2
    assert 'src="http' not in page and 'href="http' not in page
    for name in ("curves-scratch.png", "margins-scratch.png", "ladder.png"):
        assert (tmp_path / "report" / name).read_bytes().startswith(b"\x89PNG")


def test_prove_needs_no_data_and_says_for_which_shapes_it_holds(capsys):
    assert main(["prove", "--model", "mlp", "--hiddens", "3", "--activation", "tanh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mlp: identical (but for 2^-") and "inputs [3, 7]" in out


def test_prove_exits_with_1_for_another_function_and_2_where_it_cannot_tell(capsys, monkeypatch):
    from parity.identity.answers import Answer
    from parity.identity.prove import Proof
    from parity.studies import proof

    for verdict, code in (("different", 1), ("undecided", 2)):
        found = Proof((Answer("loss", verdict, "why"),), 5, 70.0, {})
        monkeypatch.setattr(proof, "prove", lambda *a, found=found, **k: found)
        assert main(["prove"]) == code and f"loss: {verdict}" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("edge", [["--lr", "0"], ["--sigma", "0"], ["--lr", "1e38"]])
def test_a_run_that_stands_still_or_overflows_agrees(tmp_path, edge):
    assert main(["check", *QUICK, *edge, "--out", str(tmp_path)]) == 0


@pytest.mark.slow
def test_a_difference_gives_exit_code_1_and_names_the_level(tmp_path, capsys, monkeypatch):
    import jax_mlp

    class Off(jax_mlp.MLPScratch):
        def forward(self, X):
            return super().forward(X) + 1e-3

    monkeypatch.setattr(jax_mlp, "MLPScratch", Off)
    code = main(["check", *QUICK, "--model", "scratch", "--out", str(tmp_path)])
    assert code == 1
    assert "DIFFER: first at scratch identity all inputs" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["ok"] is False
    assert "FAILED" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("side", ["jax", "torch"])
@pytest.mark.parametrize("model", ["scratch", "mlp"])
def test_train_writes_weights_history_and_curve(tmp_path, capsys, side, model):
    arguments = ["train", *QUICK, "--side", side, "--model", model, "--out", str(tmp_path)]
    assert main(arguments) == 0
    history = History.load(tmp_path / "history.json")
    assert len(history.train_loss) == 24 and history.about["side"] == side
    arrays = load_file(tmp_path / "weights.safetensors")
    assert len(arrays) == 4 and all(np.isfinite(a).all() for a in arrays.values())
    assert (tmp_path / "history.csv").read_text().count("\n") == 25
    assert (tmp_path / "curve.png").exists()
    assert "samples/s" in capsys.readouterr().out
    first = (tmp_path / "weights.safetensors").read_bytes()
    assert main(arguments) == 0  # twice in a row, to the same bits
    assert (tmp_path / "weights.safetensors").read_bytes() == first


def test_convert_there_and_back_gives_the_same_bits(tmp_path, capsys):
    rng = np.random.default_rng(0)
    original = {
        "net.1.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "net.1.bias": rng.standard_normal(3).astype(np.float32),
        "net.3.weight": rng.standard_normal((3, 3)).astype(np.float32),
        "net.3.bias": rng.standard_normal(3).astype(np.float32),
    }
    save_file(original, tmp_path / "torch.safetensors")
    flax, back = str(tmp_path / "flax.safetensors"), str(tmp_path / "back.safetensors")
    assert main(["convert", str(tmp_path / "torch.safetensors"), flax, "--to", "flax"]) == 0
    kernel = load_file(flax)["net.layers.3.kernel"]
    np.testing.assert_array_equal(kernel, original["net.3.weight"].T)
    assert main(["convert", flax, back, "--to", "torch"]) == 0
    for name, array in load_file(back).items():
        assert array.tobytes() == original[name].tobytes()


def test_convert_lists_all_problems_and_writes_nothing(tmp_path, capsys):
    bad = {"W1": np.full((2, 2), np.inf, np.float32), "x": np.zeros(1, np.float32)}
    save_file(bad, tmp_path / "bad.safetensors")
    assert main(["convert", str(tmp_path / "bad.safetensors"), str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "bad.safetensors" in err and "'b1' is missing" in err
    assert "'x'" in err and "non-finite" in err
    assert not (tmp_path / "out").exists()


def test_data_says_what_it_found(capsys):
    assert main(["data", "--data", "sample"]) == 0
    out = capsys.readouterr().out
    assert "sha256" in out and "ankle boot" in out


def test_a_folder_that_is_not_there_is_exit_code_2(tmp_path, capsys):
    for command in ("check", "train"):
        out = ["--out", str(tmp_path / "out")]
        assert main([command, "--data", str(tmp_path / "nowhere"), *out]) == 2
        err = capsys.readouterr().err
        assert "nowhere" in err and "Traceback" not in err


@pytest.mark.parametrize("option, way", [("--kernel", "fused"), ("--images", "bytes")])
def test_a_way_of_jax_is_refused_for_torch(option, way, tmp_path, capsys):
    command = ["train", *QUICK, "--side", "torch", "--out", str(tmp_path / "out")]
    assert main([*command, option, way]) == 2
    assert f"{option} {way} is JAX's" in capsys.readouterr().err


def test_a_tracker_that_cannot_be_meant_is_refused_before_the_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    for target, said in [
        ("board:x", "expected one of"),
        (f"tensorboard:{tmp_path}/file", "a file"),
    ]:
        out = ["--out", str(tmp_path / "out")]
        assert main(["train", "--data", "sample", "--track", target, *out]) == 2
        assert said in capsys.readouterr().err
        assert not {path.name for path in (tmp_path / "out").iterdir()} - {".lock"}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["jax", "torch"])
def test_a_tracker_gets_the_run_of_either_side(tmp_path, side, capsys):
    pytest.importorskip("tensorboardX", reason="tensorboardX isn't installed")
    command = ["train", "--side", side, "--data", "sample", "--epochs", "1", "--hiddens", "4"]
    track = ["--track", f"tensorboard:{tmp_path / 'tb'}", "--out", str(tmp_path)]
    assert main([*command, *track]) == 0
    assert "Tracked: tensorboard:" in capsys.readouterr().out
    assert [*(tmp_path / "tb").glob("events.out.tfevents.*")]


@pytest.mark.parametrize(
    "line",
    ["", "chek", "check --epochs x", "check --epochs 0", "train --side numpy", "train --lr nan"],
)
def test_usage_errors_are_exit_code_2_with_a_message(line, capsys):
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("config", [CheckConfig, TrainConfig])
def test_defaults_have_one_source(config):
    name = config.__name__.removesuffix("Config").lower()
    assert parse([name]) == config()
    assert all(f.default is not dataclasses.MISSING for f in dataclasses.fields(config))


def test_certifying_is_on_unless_it_is_left_out():
    assert parse(["check"]).certify and not parse(["check", "--no-certify"]).certify


def test_help_shows_examples_and_loads_no_framework():
    code = (
        "import sys\n"
        "from parity.cli import main\n"
        "try: main(['check', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'torch'} & set(sys.modules), 'a framework was loaded'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Examples" in done.stdout and "--data sample" in done.stdout


@contextlib.contextmanager
def running(arguments):
    """A command in a process of its own, which doesn't outlive the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "parity.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()


def interrupted(arguments, stream, after, seconds):
    """The output of a command that gets SIGINT so long after a line on stderr or stdout."""
    with running(arguments) as process:
        for line in getattr(process, stream):
            if after in line:
                break
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    return out


@pytest.mark.parametrize("side", ["jax", pytest.param("torch", marks=pytest.mark.slow)])
def test_ctrl_c_keeps_weights_and_history(tmp_path, side):
    command = ["train", "--side", side, "--data", "sample", "--epochs", "100000", "--hiddens", "8"]
    saved = tmp_path / "saved"  # once there is a checkpoint, it trains
    with running([*command, "--out", str(tmp_path), "--checkpoint", str(saved)]) as process:
        deadline = time.monotonic() + 60
        while not list(saved.glob("step-*.safetensors")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    history = History.load(tmp_path / "history.json")
    assert history.interrupted and history.train_loss
    assert load_file(tmp_path / "weights.safetensors")


@contextlib.contextmanager
def beside(folder):
    """A check of both pairs that goes on for long, when its second process has begun."""
    command = ["check", "--data", "sample", "--hiddens", "8", "--epochs", "100000", "--no-certify"]
    with running([*command, "--out", str(folder)]) as process:
        children, deadline = [], time.monotonic() + 60
        while not children and time.monotonic() < deadline:
            time.sleep(0.1)
            of_this = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in of_this}
            children = [int(pid) for pid, name in names.items() if "spawn_main" in name]
        try:
            yield process, children[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(children[0], signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes in /proc")
def test_ctrl_c_keeps_what_both_pairs_have(tmp_path):
    with beside(tmp_path) as (process, child):
        time.sleep(12)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130 and "INTERRUPTED" in out and "Traceback" not in err, err
        assert not os.path.exists(f"/proc/{child}")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"] and not report["ok"]
    assert [pair["pair"] for pair in report["pairs"]] == ["scratch", "mlp"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes in /proc")
def test_a_process_that_was_killed_ends_the_check_with_2_and_a_word(tmp_path):
    with beside(tmp_path) as (process, child):
        os.kill(child, signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "mlp: a process was ended by signal 9" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_keeps_what_a_trajectory_has_certified(tmp_path):
    command = ["trajectory", *QUICK, "--copies", "3", "--copy-epochs", "100000"]
    out = interrupted([*command, "--out", str(tmp_path)], "stderr", "3 copies", 8)
    assert "24 steps, all certified" in out and "INTERRUPTED: scratch" in out
    found = json.loads((tmp_path / "trajectory-scratch.json").read_text())
    assert found["interrupted"] and not found["ok"]
    assert found["certified"][0]["steps"] == 24 and found["envelope"]["checkpoints"]
    assert (tmp_path / "margins-scratch-float32.png").exists()
    assert not (tmp_path / "trajectory-mlp.json").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_the_faults_that_were_planted(tmp_path):
    command = ["faults", "--only", "initialisation", "--clean", "100000"]
    out = interrupted([*command, "--out", str(tmp_path)], "stderr", "faults planted", 1)
    assert "INTERRUPTED" in out and "VACUOUS" not in out
    found = json.loads((tmp_path / "faults.json").read_text())
    assert found["interrupted"] and not found["ok"]
    assert {fault["first"] for fault in found["faults"]} == {"initial weights"}
    assert (tmp_path / "faults.png").exists()


def test_on_a_gpu_jax_leaves_memory_to_torch_unless_the_user_says_otherwise(monkeypatch):
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.setenv(name, "")  # so that it is brought back
    for before, after in ((None, "false"), ("true", "true")):
        monkeypatch.delenv(name) if before is None else monkeypatch.setenv(name, before)
        assert main(["bench", "--rows", "no such row"]) == 2
        assert os.environ[name] == after
