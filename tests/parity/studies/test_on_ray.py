"""A sweep whose runs are tasks of Ray's: where a worker is killed, the next one goes on."""

import csv
import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from mlp_core.checkpoint import Checkpoints
from parity.cli import main, parse
from parity.config import SweepConfig
from parity.config.exercises import EXERCISES, Setting
from parity.studies.sweep import on_ray

ROOT = Path(__file__).parents[3]
OPTIONS = ["width", "--values", "4", "--seeds", "1", "--epochs", "30", "--data", "sample"]


def workers(mark):
    """{process: its title} of the Ray workers that hold a run, of this test alone."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes().decode(errors="replace")
            if title.startswith("ray::trained") and mark in (entry / "environ").read_text():
                found[int(entry.name)] = title
        except (OSError, UnicodeDecodeError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs Ray: the extra 'ray'")
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes in /proc")
def test_a_run_whose_worker_is_killed_goes_on_to_the_same_results(tmp_path):
    mark, saved = uuid.uuid4().hex, tmp_path / "saved"
    command = [sys.executable, "-m", "parity.cli", "sweep", *OPTIONS, "--engine", "ray"]
    command += ["--checkpoint", str(saved), "--out", str(tmp_path / "out")]
    own = {"PYTHONPATH": str(ROOT), "MARK": mark, "RAY_ADDRESS": ""}
    place = Checkpoints(saved / "width" / "4-seed-0")
    with subprocess.Popen(command, env=os.environ | own, cwd=tmp_path) as process:
        deadline, lost = time.monotonic() + 300, []
        while not lost and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
            if place.paths():
                lost = workers(mark)
                for worker in lost:
                    os.kill(worker, signal.SIGKILL)
        assert process.wait(timeout=300) == 0
    assert len(lost) == 1
    newest = place.newest()
    assert 0 < newest.facts["resumed"][0] < newest.step == 30 * 24
    lines = [*csv.DictReader((tmp_path / "out" / "sweep.csv").read_text().splitlines())]
    config = parse(["sweep", *OPTIONS])
    settings = EXERCISES["width"].settings(config.values, Setting(config.hiddens, config.lr))
    history = on_ray.trained(settings["4"], 0, config, tmp_path / "whole")
    assert [float(line["val_loss"]) for line in lines] == history.val("loss")
    assert newest.arrays["history/train_loss"].tolist() == history.train_loss


def test_ray_takes_no_devices_and_is_named_where_it_is_missing(tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match="of --engine jax"):
        SweepConfig(engine="ray", devices=2)
    monkeypatch.setattr("mlp_core.extras.is_there", lambda module: module != "ray")
    assert main(["sweep", *OPTIONS, "--engine", "ray", "--out", str(tmp_path)]) == 2
    assert "pip install 'mlp-parity[ray]'" in capsys.readouterr().err
