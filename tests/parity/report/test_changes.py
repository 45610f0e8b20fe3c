"""`mlp-parity report A B`: what it calls worse, what better, and what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import parity
from mlp_core.files import write_json
from parity.cli import main
from parity.comparison import compare


@pytest.fixture
def saved(tmp_path, report):
    """saved(name, *verdicts): the folder of a report on them."""

    def saved(name, *verdicts, **options):
        write_json(tmp_path / name / "report.json", report(*verdicts, **options).to_json())
        return str(tmp_path / name)

    return saved


def compared(verdict, at, left, bound, size=1):
    """The verdict with other numbers in one of its results."""
    found = compare(np.full(size, 1.0 + left), np.ones(size), bound, name=".x")
    results = list(verdict.results)
    results[at] = replace(results[at], comparisons=(found,))
    return replace(verdict, results=tuple(results))


def changes(*folders):
    """(exit code, [(kind, level, what)]) of the command."""
    out = Path(folders[0]).parent / "changes"
    code = main(["report", *folders, "--out", str(out)])
    found = json.loads((out / "changes.json").read_text())
    assert found["ok"] == (code == 0)
    assert (out / "changes.html").read_text().count("<script>") == 1
    return code, [(c["kind"], c["where"], c["what"]) for c in found["changes"]]


def test_a_report_against_itself_has_no_change_and_loads_no_framework(saved, agreeing):
    folder = saved("a", agreeing)
    assert changes(folder, folder) == (0, [])
    code = (
        "import sys\n"
        "from parity.cli import main\n"
        f"assert main(['report', {folder!r}, {folder!r}]) == 0\n"
        "assert not {'jax', 'torch'} & set(sys.modules), 'a framework was loaded'\n"
    )
    root = Path(parity.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and "Nothing got worse." in done.stdout, done.stderr


def test_a_verdict_that_falls_is_worse_and_one_that_rises_is_better(saved, agreeing, capsys):
    differs = compared(agreeing, 1, 3.0, 1.0)
    good, bad = saved("good", agreeing), saved("bad", differs)
    code, found = changes(good, bad)
    assert code == 1 and ("worse", "", "agree, then DIFFER") in found
    assert ("worse", "logits float64", "ok, then FAILED") in found
    out = capsys.readouterr().out
    assert "Worse: net: logits float64: ok, then FAILED" in out and "WORSE: 2 got worse" in out
    code, found = changes(bad, good)
    assert code == 0 and ("better", "logits float64", "FAILED, then ok") in found
    assert {kind for kind, *_ in found} == {"better"}


@pytest.mark.parametrize(
    "before, after, kind",
    [
        ((0.1, 1.0), (0.9, 1.0), None),  # rounding, both times
        ((3.0, 1.0), (4.9, 1.0), None),  # the bounds leave open which is larger
        ((3.0, 1.0), (5.1, 1.0), "worse"),
        ((5.1, 1.0), (3.0, 1.0), "better"),
        ((3.0, 1.0), (np.nan, 1.0), "worse"),
        ((np.nan, 1.0), (np.nan, 1.0), None),
    ],
)
def test_a_size_has_changed_only_where_its_bounds_leave_no_doubt(
    saved, agreeing, before, after, kind
):
    folders = [saved(str(i), compared(agreeing, 1, *x)) for i, x in enumerate((before, after))]
    code, found = changes(*folders)
    assert [kind for kind, *_ in found] == [kind] * bool(kind) and code == (kind == "worse")


def test_a_bound_that_became_infinite_judges_less(saved, agreeing):
    judged, open_ = (compared(agreeing, 1, 0.5, bound) for bound in (1.0, np.inf))
    code, found = changes(saved("a", judged), saved("b", open_))
    assert code == 1 and ("worse", "logits float64", "ok, then VACUOUS") in found
    assert ("worse", "logits float64", "judges 0 numbers, where it judged 1") in found


def test_what_is_no_longer_asked_judged_or_compared_is_worse(saved, agreeing):
    whole = saved("whole", agreeing, replace(agreeing, pair="other"))
    assert ("worse", "", "agree, then not compared") in changes(whole, saved("a", agreeing))[1]
    level = saved("level", replace(agreeing, results=agreeing.results[:2]))
    assert ("worse", "step float32", "ok, then not asked") in changes(whole, level)[1]
    many, few = (saved(f"{n}", compared(agreeing, 1, 0.1, 1.0, n)) for n in (9, 2))
    assert changes(many, few) == (
        1,
        [("worse", "logits float64", "judges 2 numbers, where it judged 9")],
    )
    refused = saved("refused", refused={"net": "ValueError: no such\nlayer"})
    found = changes(many, refused)
    assert found == (1, [("worse", "", "agree, then REFUSED: ValueError: no such")])


def test_fewer_numbers_of_other_data_are_no_worse_and_what_was_asked_is_said(saved, agreeing):
    other = replace(agreeing, about=agreeing.about | {"batch_size": 2}, notes=())
    many, few = compared(agreeing, 1, 0.1, 1.0, 9), compared(other, 1, 0.1, 1.0, 2)
    code, found = changes(saved("many", many), saved("few", few))
    assert code == 0 and {kind for kind, *_ in found} == {"otherwise"}
    assert ("otherwise", "batch_size", "null, then 2") in found
    assert ("otherwise", "no longer noted", "what was assumed") in found


def test_a_difference_that_is_no_longer_asked_about_is_not_mended(saved, agreeing):
    differs = compared(agreeing, 1, 3.0, 1.0)
    results = list(differs.results)
    results[1] = replace(results[1], comparisons=(), skipped="no float64")
    silent = replace(differs, results=tuple(results))
    _, found = changes(saved("a", differs), saved("b", silent))
    assert ("otherwise", "logits float64", "FAILED, then skipped") in found


DEEP = "[" * 100_000
HOSTILE = {
    "": "it is no JSON",
    "[]": "the file: list, expected an object",
    '{"a": NaN}': "NaN is no number in JSON",
    DEEP: "it is nested too deeply",
    '{"pairs": 1' + "0" * 5000 + "}": "it is no JSON",
    '{"about": {}}': "pairs: nothing, expected a value",
    '{"about": 3}': "about: int, expected an object",
}
BROKEN = {
    ("pairs",): ({}, "pairs: {}, expected a list"),
    ("pairs", 0): (None, "pairs[0]: NoneType, expected an object"),
    ("pairs", 0, "verdict"): ("fine", "pairs[0].verdict: 'fine', expected one of agree"),
    ("pairs", 0, "levels", 1, "verdict"): ([], "levels[1].verdict: [], expected one of ok"),
    ("pairs", 0, "levels", 1, "seconds"): (True, "seconds: True, expected a number from 0"),
    ("pairs", 0, "levels", 2, "seconds"): (-1, "seconds: -1, expected a number from 0"),
    ("pairs", 0, "levels", 1, "comparisons", 0, "error"): (10**400, "error: 1000"),
    ("pairs", 0, "levels", 1, "comparisons", 0, "elements"): (0.5, "elements: 0.5, expected a who"),
    ("pairs", 0, "levels", 1, "comparisons", 0, "name"): ("x" * 10**6, "name: 'xxx"),
    ("interrupted",): ("yes", "interrupted: 'yes', expected true or false"),
    ("about", "versions"): ([1], "about.versions: list, expected an object"),
}


def refused(file, capsys):
    assert main(["report", str(file), str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err) < 600 and "Traceback" not in said.err
    return " ".join(said.err.split())


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_report_is_refused_in_a_line(text, tmp_path, capsys):
    file = tmp_path / "report.json"
    file.write_text(text)
    assert HOSTILE[text] in refused(file, capsys)


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: ".".join(map(str, path)))
def test_a_report_with_one_wrong_value_is_refused_by_its_place(path, saved, agreeing, capsys):
    file = Path(saved("a", agreeing)) / "report.json"
    raw = part = json.loads(file.read_text())
    for name in path[:-1]:
        part = part[name]
    part[path[-1]], said = BROKEN[path]
    file.write_text(json.dumps(raw))
    assert said in refused(file, capsys)


def test_bytes_that_are_no_text_and_a_file_that_is_not_there_are_refused(tmp_path, capsys):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    assert "it is no JSON" in refused(tmp_path / "bytes.json", capsys)
    assert "No such file" in refused(tmp_path / "gone", capsys)


@pytest.mark.slow
def test_axe_finds_nothing_on_the_page_of_changes(browse, axe, saved, agreeing):
    changes(a := saved("a", agreeing), saved("b", compared(agreeing, 1, 3.0, 1.0)))
    page = (Path(a).parent / "changes/changes.html").read_text()
    assert "logits float64: ok, then FAILED" in page
    asked = "return (await axe.run()).violations.map(v => [v.id, v.nodes.map(n => n.html)]);"
    assert browse(page, asked, 480, True, axe) == []
