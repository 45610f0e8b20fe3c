"""One run on a device: each stage written when it ends, whatever becomes of the others."""

import json
import time

import pytest

from parity.cli import main
from parity.config import AcceleratorConfig
from parity.studies.accelerator import run as accelerator
from parity.studies.accelerator.probes import precision
from parity.studies.accelerator.stages import Stage, shown, stages

SLEEPS = "import sys, time; print('begun', flush=True); time.sleep(60)"


def stage(name, code, result="found.json"):
    return Stage(name, "?", ("-c", code), result, lambda found: [("a",), (str(found["a"]),)])


def wrote(folder, name):
    code = f"import os; os.makedirs({str(folder / name)!r}, exist_ok=True);"
    return code + f"open({str(folder / name / 'found.json')!r}, 'w').write('{{\"a\": 5}}')"


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """What is known after each of these stages."""

    def of(found, minutes=1.0):
        monkeypatch.setattr(accelerator, "stages", lambda config, device: found)
        monkeypatch.setattr(accelerator, "GRACE", 2.0)
        config = AcceleratorConfig(device="cpu", minutes=minutes, out=tmp_path)
        return list(accelerator.run(config, lambda text: None))

    return of


def test_a_stage_that_fails_is_recorded_and_the_next_begins(tried, tmp_path):
    broken = stage("broken", "print('why'); raise SystemExit(3)")
    *_, last = tried([broken, stage("good", wrote(tmp_path, "good"))])
    assert [one.outcome for one in last.ended] == ["failed with exit code 3", "ok"]
    assert last.ended[0].said == "why" and last.tables["good"] == [("a",), ("5",)]
    assert not last.ok
    written = json.loads((tmp_path / "accelerator.json").read_text())
    assert [one["stage"] for one in written["ended"]] == ["broken", "good"]
    for name in ("DEVICE.md", "index.html"):
        text = (tmp_path / name).read_text()
        assert "failed with exit code 3" in text and "why" in text


def test_what_takes_too_long_is_stopped_and_what_was_found_before_is_there(tried, tmp_path):
    start = time.monotonic()
    found = tried([stage("good", wrote(tmp_path, "good")), stage("slow", SLEEPS)], minutes=0.06)
    assert time.monotonic() - start < 30
    assert [one.outcome for one in found[-1].ended] == ["ok", "stopped, out of time"]
    assert json.loads((tmp_path / "accelerator.json").read_text())["tables"] == {
        "good": [["a"], ["5"]]
    }


def test_stages_for_which_no_time_is_left_say_so(tried, tmp_path):
    found = tried([stage("slow", SLEEPS), stage("late", wrote(tmp_path, "late"))], minutes=0.02)
    assert found[-1].ended[1].outcome == "no time left" and "late" not in found[-1].tables


def test_a_half_written_result_is_none(tmp_path):
    one = stage("good", "")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "found.json").write_text('{"a": ')
    assert one.read(tmp_path) is None


def test_a_device_that_is_not_there_ends_the_run_in_one_line(tmp_path, capsys):
    pytest.importorskip("jax")
    command = ["accelerator", "--device", "tpu", "--small", "--out", str(tmp_path)]
    assert main(command) == 2
    assert "device: 'tpu', but JAX" in capsys.readouterr().err.splitlines()[-1]


def test_products_of_the_cpu_use_all_bits():
    found = precision("cpu")["products"]
    assert {p["side"] for p in found} == {"jax", "torch"}
    assert {p["operation"] for p in found} == {"product", "batched product", "convolution"}
    assert all(p["bits"] == 24 for p in found)


def test_a_cell_with_a_bar_stays_one_cell():
    assert shown([("a", "b"), ("x|y", "z")]).splitlines()[-1] == r"| x\|y | z |"


@pytest.mark.slow
def test_a_small_run_ends_to_end(tmp_path, capsys):
    command = ["accelerator", "--device", "cpu", "--data", "sample", "--small", "--minutes", "30"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    text = (tmp_path / "DEVICE.md").read_text()
    for one in stages(AcceleratorConfig(device="cpu", small=True, out=tmp_path), "cpu"):
        assert f"## {one.name}: " in text and one.read(tmp_path) is not None
    assert "FAILED" not in text and "NO" not in text.split()
