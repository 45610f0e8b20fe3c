"""Both graphs side by side: rows as data, and the page."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import parity
from parity.locate.alignment import Alignment
from parity.locate.parting import Parting, Place
from parity.report.graphs import ALL_SEEN, DRAWN, drawing
from parity.report.page import rendered
from parity.report.report import Report


def place(number, op="add", module="", phase="forward", line="model.py:1 (forward)", shape=(2, 3)):
    return Place(op, shape, module, line, phase, number=number)


def aligned(
    pairs=(), scaled=(), lone_torch=(), lone_jax=(), parting=None, torch_of=None, jax_of=None
):
    ours = tuple(map(tuple, (pairs, scaled, lone_torch, lone_jax)))
    return Alignment(*ours, 0.5, parting, torch_of or {}, jax_of or {})


def parted(torch_places, jax_places, agreeing=()):
    both = tuple(torch_places), tuple(jax_places)
    return Parting(0, "logits", "logits", *both, "mean", (1.0, 2.0), 1e-9, tuple(agreeing))


@pytest.fixture
def three():
    """The same, then a tanh for a sin, then what follows from it on each side."""
    same = place(1), place(11)
    tanh, sin = place(2, "tanh"), place(12, "sin")
    after = place(3, "mul"), place(13, "mul")
    return aligned(
        [same],
        [],
        [tanh, after[0]],
        [sin, after[1]],
        parted([tanh, after[0]], [sin], [same]),
        {1: ("input",), 2: (1,), 3: (2, "W")},
        {11: ("input ",), 12: (11,), 13: (12, "w")},
    )


def test_aligned_tensors_and_the_parting_stand_on_one_height(three):
    rows = drawing(three).rows
    assert [(r.kind, r.mark) for r in rows] == [
        ("same", "agrees"),
        ("apart", "parts"),
        ("jax", ""),
        ("torch", "suspect"),
    ]
    assert (rows[1].jax.place.op, rows[1].torch.place.op) == ("sin", "tanh")
    assert rows[0].jax.given == ("input",) and rows[1].torch.rows == (1,)
    assert (rows[3].torch.rows, rows[3].torch.given) == ((2,), ("W",))


def test_a_tensor_of_jax_alone_stands_below_what_it_was_made_of_and_in_its_phase():
    pairs = [(place(i, phase=p), place(10 + i, phase=p)) for i, p in enumerate(["forward"] * 3)]
    pairs.append((place(3, phase="optimiser"), place(13, phase="optimiser")))
    lone = [place(20, "mul"), place(21, "exp"), place(22, "log", phase="optimiser")]
    found = drawing(aligned(pairs, lone_jax=lone, jax_of={20: (11,), 21: (20, 10), 22: (10,)}))
    assert [r.jax.place.number for r in found.rows] == [10, 11, 20, 21, 12, 22, 13]
    assert found.rows[3].jax.rows == (1, 3)
    assert found.phases == [(0, 5, "forward"), (5, 2, "optimiser")]


def test_products_behind_a_parting_keep_both_sides_abreast():
    theirs = [place(i, "addmm" if i % 3 == 0 else "tanh") for i in range(9)]
    ours = [place(i, "dot_general" if i % 3 == 0 else "tanh") for i in range(9)]
    rows = drawing(aligned(lone_torch=theirs, lone_jax=ours)).rows
    assert [r.place.number // 3 for r in rows] == [0] * 6 + [1] * 6 + [2] * 6
    assert {r.kind for r in rows} == {"jax", "torch"}


def test_what_parts_is_drawn_though_it_is_given_or_a_layout():
    given = replace(place(5, "given"), given="W")
    found = drawing(aligned([(place(1), place(2))], parting=parted([given], [place(9, "rev")])))
    assert [(r.kind, r.mark) for r in found.rows] == [("same", ""), ("apart", "parts")]


def test_few_rows_are_all_seen_and_many_fold_up_to_the_parting():
    def deep(blocks):
        pairs = [(place(i, module=f"blocks.{i // 13}.up"), place(i)) for i in range(13 * blocks)]
        here = place(13 * blocks // 2, "tanh", f"blocks.{blocks // 2}.up")
        pairs = [p for p in pairs if p[0].number != here.number]
        return drawing(aligned(pairs, lone_torch=[here], parting=parted([here], [])))

    few = deep(ALL_SEEN // 13)
    assert len(few.groups) > 3 and all(group.open for group in few.groups)
    many = deep(80)
    assert [g.name for g in many.groups if g.open] == ["forward: blocks.40"]
    assert many.groups[40].marks == ["parts"] and many.groups[40].aligned == 12
    assert len(many.groups) == 80 and many.folds
    assert sum(n for _, n, _ in many.stripes) == len(many.rows) == 80 * 13
    assert [c for *_, c in many.stripes] == ["same", "parts", "same"]


def test_of_too_many_rows_those_around_the_parting_are_drawn():
    here = place(4 * DRAWN, "tanh")
    pairs = [(place(i), place(i)) for i in range(5 * DRAWN) if i != here.number]
    found = drawing(aligned(pairs, lone_torch=[here], parting=parted([here], [])))
    assert (len(found.rows), found.left_out) == (DRAWN, 4 * DRAWN)
    assert "parts" in {row.mark for row in found.rows}
    assert len(rendered("alignment.html", alignment=aligned(), drawing=found)) < 3e6


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.names = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)


def test_names_are_text_whatever_they_hold(tmp_path, three):
    bad = "<script>alert('a')</script>\"><img src=x onerror=alert(1)>"
    evil = replace(place(7, bad, bad, line=f"{bad}:3 ({bad})"), given=bad)
    harmless = parity.save_page(three, tmp_path / "harmless.html").read_text()
    parting = parted([evil], [evil], [(place(1, bad), place(11, bad))])
    found = aligned([(place(1, bad), place(11, bad))], (), [evil], [evil], parting, {7: (bad,)})
    page = parity.save_page(found, tmp_path / "page.html").read_text()
    assert "alert(1)" in page and "<img" not in page
    assert Tags(page).names.count("script") == Tags(harmless).names.count("script") == 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, X):
        H = torch.sigmoid(self.first(X))
        return self.last(H)


def net(p, X):
    H = jax.nn.tanh(X @ p["a"] + p["b"])
    return H @ p["c"] + p["d"]


def test_the_page_of_a_wrong_port_shows_both_lines_in_a_red_row(tmp_path):
    params = {n: jnp.zeros(s) for n, s in [("a", (5, 6)), ("b", 6), ("c", (6, 4)), ("d", 4)]}
    table = {"a": "first.weight", "b": "first.bias", "c": "last.weight", "d": "last.bias"}
    X = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    verdict = parity.check(
        Net(), (net, params), (X, None), weights=table, batch_size=8, levels=["logits"]
    )
    about = {"data": "8 random rows", "command": "", "versions": {}, "hardware": {}, "time": ""}
    Report((verdict,), about, 1.0).write(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)
    red = re.findall(r'<tr class="row apart parts".*?(?=<tr|</tbody)', page, re.DOTALL)
    assert len(red) == 1
    assert re.search(r"tanh.*test_graphs\.py:\d+ \(net\)", red[0], re.DOTALL)
    assert re.search(r"sigmoid.*test_graphs\.py:\d+ \(forward\)", red[0], re.DOTALL)
    assert page.count("last that agree</small>") >= 1
