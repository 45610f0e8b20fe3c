"""The fixture `parity` as a porter's own test run sees it."""

import json
import re
from pathlib import Path

import pytest

import parity.report.report  # noqa: F401  (pytester forgets what was first imported within it)

pytest_plugins = ["pytester"]

PAIR = """
import numpy as np, pytest, torch

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
PARAMS = {"w": np.zeros((3, 2), "float32"), "b": np.zeros(2, "float32")}
WEIGHTS = {"w": "weight", "b": "bias"}

def honest(p, X):
    return X @ p["w"] + p["b"]

def wrong(p, X):
    return X @ p["w"] - p["b"]

def broken(p, X):
    raise RuntimeError("no such layer")

def ask(parity, ours, **options):
    __tracebackhide__ = True
    return parity(torch.nn.Linear(3, 2), (ours, PARAMS), (X, None), weights=WEIGHTS, **options)
"""


@pytest.fixture(autouse=True)
def this_house(monkeypatch):
    """A process of its own finds the plugin where this one does."""
    monkeypatch.setenv("PYTHONPATH", str(Path(parity.__file__).parents[1]))


@pytest.fixture
def run(pytester):
    """Run pytest on tests that follow PAIR, with the plugin and without what this run has."""

    def run(tests, *arguments, process=False):
        pytester.makepyfile(PAIR + tests)
        plugins = "-p", "no:parity", "-p", "parity.pytest_plugin", "-p", "no:cacheprovider"
        plugins += ("--disable-warnings",)  # an installed plugin's files are there already
        run = pytester.runpytest_subprocess if process else pytester.runpytest
        return run(*plugins, *arguments)

    return run


AGREES = """
@pytest.mark.parity(levels=("inputs", "logits"), device="cpu")
def test_agrees(parity):
    verdict = ask(parity, honest)
    assert [r.level.name for r in verdict.results] == ["inputs", "logits", "logits"]
    assert [r.level.name for r in ask(parity, honest, levels="inputs").results] == ["inputs"]
"""
DIFFERS = """
def test_differs(parity):
    ask(parity, wrong, levels=["inputs", "weights", "logits"])
"""
REFUSED = """
def test_refused(parity):
    ask(parity, broken, levels="logits")
"""


def test_a_pair_that_agrees_passes_and_the_cost_is_printed(run):
    result = run(AGREES)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*= parity =*", "2 pairs in *.? s: 2 agree", "slowest: *(2) *s*"])


def test_a_failure_is_the_ladder_in_short_and_none_of_our_frames(run):
    result = run(DIFFERS)
    result.assert_outcomes(failed=1)
    said = result.stdout.str()
    assert "parity/" not in said.partition("= parity =")[0] and "All levels: -vv" in said
    result.stdout.fnmatch_lines(
        [
            "E   *FunctionModel = torch.nn.modules.linear.Linear: DIFFER",
            "E *agree    inputs bits, weights bits",
            "E *FAILED   logits float64, logits float32",
            "E *batch of 6: .logits*",
            "E *In the code, *",
            "E * jax * at test_*.py:* (wrong)",
        ]
    )


def test_the_whole_ladder_comes_with_vv(run):
    result = run(DIFFERS, "-vv")
    result.stdout.fnmatch_lines(["E *inputs     bits     ok", "E *logits     float32  FAILED"])
    assert "All levels" not in result.stdout.str()


def test_an_error_begins_in_the_users_own_lines(run):
    result = run(REFUSED)
    said = result.stdout.str()
    assert "parity/" not in said.partition("= parity =")[0] and "flax/" not in said
    assert said.count("site-packages") == 0
    result.stdout.fnmatch_lines(
        [
            '>       raise RuntimeError("no such layer")',
            "*direct cause*",
            "E   *ValueError: jax: the model fails for *RuntimeError: no such layer",
            "1 pair in *: 1 REFUSED",
        ]
    )


@pytest.mark.parametrize(
    "marker, argument, said",
    [
        ('device="gpu"', "parity", 'parity: device=\'gpu\', expected "cpu" or "cuda" or "tpu"'),
        ("epochs=1", "parity", "parity: the marker has epochs, expected levels=..., device=...; *"),
        ("", "", "parity: the test is marked, and doesn't take the fixture `parity`"),
    ],
)
def test_a_marker_that_cannot_be_meant_is_refused_in_one_line(run, marker, argument, said):
    result = run(f"@pytest.mark.parity({marker})\ndef test_it({argument}): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ERROR at setup of test_it*", said])
    assert "During handling" not in result.stdout.str() and "test_it():" not in said


def seen(folder):
    """Files that a user sees: the parts are gone, a lock that means nothing stays."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_one_page_holds_all_pairs_and_does_not_hide_those_refused(run, pytester):
    result = run(AGREES + DIFFERS + REFUSED, "--parity-report", "found")
    result.assert_outcomes(passed=1, failed=2)
    folder = pytester.path / "found"
    result.stdout.fnmatch_lines([f"page: {folder / 'index.html'}"])
    assert seen(folder) == {"index.html", "report.json", "ladder.png"}
    report = json.loads((folder / "report.json").read_text())
    words = {pair["pair"].partition("::")[2]: pair["verdict"] for pair in report["pairs"]}
    assert words == {"test_agrees": "agree", "test_agrees (2)": "agree", "test_differs": "DIFFER"}
    assert report["ok"] is False and "no such layer" in [*report["refused"].values()][0]
    page = (folder / "index.html").read_text()
    assert "in which 2 tests failed" in page
    assert "test_refused could not be compared: " in page and "they part here" in page
    links = set(re.findall(r'href="#([^"]+)"', page))
    assert len(links) == 4 and all(f'id="{link}"' in page for link in links)


def test_a_pair_that_was_refused_is_no_agreement_of_the_run(run, pytester):
    run(AGREES + REFUSED, "--parity-report", "found")
    report = json.loads((pytester.path / "found/report.json").read_text())
    assert not report["ok"] and report["verdict"].startswith("UNDECIDED: nothing differs, but ")


def test_a_folder_that_cannot_be_written_is_refused_before_the_tests(run, pytester):
    (pytester.path / "file").touch()
    result = run(AGREES, "--parity-report", "file")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *file: expected a folder* with --parity-report"])


def test_a_device_that_is_not_there_skips_the_test_and_the_page_says_so(run, pytester, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    tests = """
@pytest.mark.parity(device="cuda")
def test_on_a_gpu(parity):
    ask(parity, honest)
"""
    result = run(AGREES + tests, "--parity-report", "found", "-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["3 pairs in *: 2 agree, 1 skipped", "SKIPPED*: device: 'cuda'*"])
    report = json.loads((pytester.path / "found/report.json").read_text())
    assert report["ok"] and report["verdict"].endswith("; 1 pair skipped for want of a device).")
    assert len(report["pairs"]) == 2 and "test_on_a_gpu" in [*report["skipped"]][0]
    assert "test_on_a_gpu was skipped: device: " in (pytester.path / "found/index.html").read_text()


@pytest.mark.slow
def test_workers_write_their_parts_and_the_controller_joins_them(run, pytester):
    tests = AGREES + DIFFERS + REFUSED
    result = run(tests, "-n", "2", "--parity-report", "found", process=True)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["4 pairs in *"])
    report = json.loads((pytester.path / "found/report.json").read_text())
    assert len(report["pairs"]) == 3 and len(report["refused"]) == 1
    assert "in which 2 tests failed" in report["about"]["run"]
    assert seen(pytester.path / "found") == {"index.html", "report.json", "ladder.png"}


def test_a_run_without_comparisons_loads_no_framework_and_says_nothing(run, pytester):
    pytester.makeconftest(
        "import sys\n"
        "def pytest_unconfigure():\n"
        "    heavy = {'jax', 'torch', 'flax', 'parity.checking', 'rich'}\n"
        "    print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_subprocess("-p", "no:parity", "-p", "parity.pytest_plugin", "-s")
    result.assert_outcomes(passed=1)
    assert "= parity =" not in result.stdout.str() and "loaded: []" in result.stdout.str()
