"""One run on a device: each stage written when it ends, whatever becomes of the others."""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from parity.cli import main
from parity.config import AcceleratorConfig
from parity.exits import Refused
from parity.studies.accelerator import launches, probes
from parity.studies.accelerator import run as accelerator
from parity.studies.accelerator.launches import Launch, summary
from parity.studies.accelerator.probes import precision
from parity.studies.accelerator.stages import Stage, _launches, shown, stages
from parity.studies.bench.timing import Size

# A stage is forked from this process, in which JAX has started; from the command's it hasn't.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
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


@pytest.mark.slow
def test_a_stage_that_hangs_leaves_half_of_the_time_to_the_others(tried, tmp_path):
    found = tried([stage("slow", SLEEPS), stage("good", wrote(tmp_path, "good"))], minutes=0.2)
    assert [one.outcome for one in found[-1].ended] == ["stopped, out of time", "ok"]
    assert 5 < found[-1].ended[0].seconds < 10


def test_stages_for_which_no_time_is_left_say_so(tried, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "SHARE", 1.0)
    found = tried([stage("slow", SLEEPS), stage("late", wrote(tmp_path, "late"))], minutes=0.02)
    assert found[-1].ended[1].outcome == "no time left" and "late" not in found[-1].tables


KILLED = """
import sys
from pathlib import Path
from parity.config import AcceleratorConfig
from parity.exits import Refused
from parity.studies.accelerator import run as accelerator
from parity.studies.accelerator.stages import Stage

folder = Path(sys.argv[1])
good = "import os; os.makedirs(%r, exist_ok=True);" % str(folder / "good")
good += "open(%r, 'w').write('{}')" % str(folder / "good" / "found.json")
slow = "import os, time; open(%r, 'w').write(str(os.getpid()));" % str(folder / "pid")
slow += "time.sleep(60)"
table = lambda found: [("a",), ("5",)]
accelerator.stages = lambda *_: [
    Stage(name, "?", ("-c", code), "found.json", table)
    for name, code in (("good", good), ("slow", slow))
]
for _ in accelerator.run(AcceleratorConfig(device="cpu", out=folder), lambda text: None):
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends children with their parent")
def test_a_run_that_is_killed_leaves_what_it_has_and_no_process(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    own, end = tmp_path / "pid", time.monotonic() + 60
    while not (own.exists() and own.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    run.kill()
    run.wait()
    written = json.loads((tmp_path / "accelerator.json").read_text())
    assert [one["stage"] for one in written["ended"]] == ["good"] and "good" in written["tables"]
    assert "good" in (tmp_path / "DEVICE.md").read_text()
    stage = Path(f"/proc/{own.read_text()}")
    while stage.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not stage.exists()


def test_launches_are_counted_and_the_gaps_are_what_lies_between_them():
    times = [("a", 0.0, 2.0), ("b", 1.0, 3.0), ("a", 5.0, 6.0), ("c", 6.0, 7.0), ("a", 11.0, 12.0)]
    found = summary([Launch(*one) for one in times], steps=2)
    assert found["launches a step"] == 2.5 and found["span"] == 12 and found["busy"] == 6
    assert (found["gaps"], found["median gap"], found["longest gap"]) == (2, 3, 4)
    assert found["longest kinds"][0] == {"name": "a", "launches a step": 1.5, "seconds": 4}
    with pytest.raises(ValueError, match="no launch"):
        summary([], steps=1)


def test_a_profile_that_cannot_be_taken_leaves_the_other_side(monkeypatch):
    def broken(*_):
        raise OSError("no CUPTI here")

    monkeypatch.setattr(launches, "_jax", broken)
    monkeypatch.setattr(launches, "_torch", lambda *_: [Launch("mm", 0.0, 1.0)])
    found = launches.profiled("cpu", small=True)
    assert "no CUPTI" in found["jax"]["failed"] and found["torch"]["launches"] == 1
    assert "no CUPTI" in shown(_launches(found))


@pytest.mark.slow
def test_a_profile_of_an_epoch_counts_what_each_step_launches():
    for side, count in (("jax", launches._jax), ("torch", launches._torch)):
        steps = {}
        for n in (2, 6):
            kinds = Counter(one.name for one in count("cpu", Size(width=256, examples=256 * n)))
            steps[n] = sum(kinds.values())
        assert (steps[6] - steps[2]) / 4 > 5, (side, steps)


def test_what_an_earlier_run_wrote_is_not_shown_as_this_ones(tried, tmp_path):
    *_, first = tried([stage("good", wrote(tmp_path, "good"))])
    assert first.tables["good"]
    *_, second = tried([stage("good", "raise SystemExit(3)")])
    assert second.tables == {} and "| 5 |" not in (tmp_path / "DEVICE.md").read_text()


def test_without_the_device_the_page_of_an_earlier_run_stays(tried, tmp_path):
    tried([stage("good", wrote(tmp_path, "good"))])
    before = (tmp_path / "DEVICE.md").read_text()
    with pytest.raises(Refused, match="no rocket here"):
        tried([stage("found", "print('no rocket here'); raise SystemExit(2)")])
    assert (tmp_path / "DEVICE.md").read_text() == before


def test_an_error_of_pythons_is_no_difference(tried, tmp_path):
    differs = wrote(tmp_path, "differs") + "; raise SystemExit(1)"
    *_, last = tried([stage("found", "import nosuch"), stage("differs", differs)])
    assert [one.outcome for one in last.ended] == ["failed with exit code 1", "differs"]


def test_a_program_that_wavers_is_a_difference(monkeypatch, tmp_path):
    drawn = iter([b"1", b"1", b"2", b"3"])
    monkeypatch.setattr(probes, "_epoch", lambda side, device: next(drawn))
    file = tmp_path / "determinism.json"
    monkeypatch.setattr(sys, "argv", ["probes", "determinism", "cpu", str(file)])
    assert probes.main() == 1
    assert [run["same"] for run in json.loads(file.read_text())["runs"]] == [True, False]


def test_minutes_have_an_end(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["accelerator", "--minutes", "inf"])
    assert "minutes = inf, expected at least 0.01, and" in capsys.readouterr().err


def test_where_a_graph_fails_later_stages_do_without(tried, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_xnnpack=false")
    told = "import os; print(os.environ['XLA_FLAGS'])"
    *_, last = tried([stage("graph", "raise SystemExit(134)"), stage("after", told)])
    assert last.ended[1].said == "--xla_cpu_use_xnnpack=false --xla_gpu_enable_command_buffer="
    *_, last = tried([stage("graph", "pass"), stage("after", told)])
    assert last.ended[1].said == "--xla_cpu_use_xnnpack=false"


def test_epochs_as_a_graph_and_step_by_step_train_the_same(monkeypatch):
    monkeypatch.setattr(probes, "HIDDEN", 8)
    one, other = probes.graph("cpu")["runs"]
    assert one["weights"] == other["weights"] and len(one["seconds"]) == len(other["seconds"]) == 4
    assert not one["told"]  # a CPU has none


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
    kinds = {"product", "batched product", "convolution", "attention, values"}
    assert {p["operation"] for p in found} == kinds | {"attention, scores"}
    for one in found:  # a score is told by its softmax, which rounds
        assert one["bits"] > 17 if "scores" in one["operation"] else one["bits"] == 24, one


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
