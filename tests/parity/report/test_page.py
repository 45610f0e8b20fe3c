"""The page of a report: its size, what it holds, and how it behaves in a browser."""

import re
from dataclasses import replace

import pytest

from parity.comparison import compare
from parity.levels.ladder import LEVELS
from parity.report.report import WHOLE

AXE = """
for (const closed of document.querySelectorAll("details")) closed.open = true;
const found = await axe.run();
return {
  violations: found.violations.map(v => [v.id, v.help, v.nodes.map(n => n.html.slice(0, 200))]),
  passes: found.passes.length,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  wider: document.documentElement.scrollWidth - innerWidth,
};
"""


@pytest.mark.slow
@pytest.mark.parametrize("width, dark", [(1280, False), (480, True)])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    browse, axe, report, agreeing, differing, width, dark
):
    page = report(differing, agreeing, refused={"third": "ValueError: no such"}).page()
    found = browse(page, AXE, width, dark, axe)
    assert found["violations"] == [] and found["passes"] > 20
    assert found["dark"] == dark and found["wider"] <= 0


USED = """
const rows = () => [...document.querySelector(".ladder").tBodies[0].rows];
const cells = () => rows().map(row => row.cells[0].dataset.sort);
const head = document.querySelectorAll(".ladder thead th")[3], before = cells();
const orders = [1, 2, 3].map(() => {
  head.querySelector("button").click();
  return [head.getAttribute("aria-sort"), cells()];
});
const plot = document.querySelector(".plot"), svg = plot.querySelector(".curves");
const press = what => plot.querySelector(`[data-do=${what}]`).click();
const box = () => svg.getAttribute("viewBox").split(" ").map(Number);
const whole = box();
press("in");
press("right");
const near = box(), ticks = [...plot.querySelectorAll(".x span")].map(s => s.textContent);
press("all");
const back = box(), key = plot.querySelector("button.key");
key.click();
const seen = getComputedStyle(svg.querySelector(".curve")).display;
const off = [key.getAttribute("aria-pressed"), seen];
const place = svg.getBoundingClientRect(), middle = place.left + place.width / 2;
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: middle, clientY: place.top + 9}));
const read = plot.querySelector("output").textContent;
return {before, orders, whole, near, ticks, back, off, read};
"""


@pytest.mark.slow
def test_tables_sort_and_curves_zoom(browse, report, differing):
    bits = replace(differing.results[0], comparisons=(compare(1.0, 2.0),))  # infinitely far
    found = browse(report(replace(differing, results=(bits, *differing.results[1:]))).page(), USED)
    ascending, descending, none = found["orders"]
    assert ascending == ["ascending", ["3", "2", "1", "4"]]  # what has no number comes last
    assert descending == ["descending", ["1", "2", "3", "4"]]
    assert none == [None, found["before"]]
    (x, _, width, height), (nx, _, near, low) = found["whole"], found["near"]
    assert (x, width) == (1, 59) and near == width / 2 and nx == x + width / 4 + near / 4
    assert low < height and found["back"] == pytest.approx(found["whole"])
    assert all(nx <= float(tick) <= nx + near for tick in found["ticks"])
    assert found["off"] == ["false", "none"]
    assert re.match("step 3[01]: torch float64, each step 0.", found["read"])


def test_the_page_needs_no_network_and_escapes_what_it_shows(report, differing):
    evil = "<script>alert(1)</script>"
    page = report(replace(differing, pair=evil, notes=(evil,))).page()
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)
    assert evil not in page and page.count("<script>") == 1 and "<img" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) and set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_the_page_of_300_pairs_stays_under_3_MB_and_says_what_it_leaves_out(
    report, agreeing, differing
):
    pairs = [replace(agreeing, pair=f"tests/test_{i}.py::test_it") for i in range(300)]
    pairs[200] = replace(differing, pair="the wrong one")
    page = report(*pairs).page()
    assert len(page.encode()) < 3e6
    assert f"The ladders of {300 - WHOLE} pairs have no room here" in page
    assert "the wrong one: where they part" in page and "test_299.py" in page


def test_what_differs_is_said_above_the_ladder_and_identity_undecided_is_no_difference(
    report, agreeing, differing
):
    _, said, ladder = re.split("what differs</h3>|the ladder</h3>", report(differing).page())
    assert "logits float64" in said and ".logits[0]: left 4.0" in said
    assert "numbers</summary>" in ladder and "numbers</summary>" not in said
    level = next(level for level in LEVELS if level.name == "identity")
    empty = replace(agreeing.results[0], level=level, comparisons=())
    page = report(replace(agreeing, results=(empty,))).page()
    assert "<dd>undecided</dd>" in page and "what differs" not in page


def test_a_run_whose_pairs_were_all_skipped_is_no_agreement(report):
    found = report(skipped={"a": "device: 'tpu', but JAX has none"})
    assert found.undecided and found.verdict.startswith("UNDECIDED: no pair was compared; 1 pair")
    assert "a was skipped: device: " in found.page()
