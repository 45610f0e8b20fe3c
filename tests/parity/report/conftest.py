"""A headless browser that opens a page, runs a script in it and says what it returned."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from parity.checking import Verdict
from parity.comparison import compare
from parity.levels.every_step import Trajectory
from parity.levels.ladder import LEVELS
from parity.levels.level import Result
from parity.locate.alignment import Alignment
from parity.locate.parting import Parting, Place

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LIGHT, DARK = 1, 0
SECONDS = 120


def chromium():
    """Path of a browser, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def axe():
    """The source of axe-core: $AXE_CORE, or what a package of Python or of npm brings."""
    spec = importlib.util.find_spec("axe_playwright_python")
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    places = [Path(os.environ.get("AXE_CORE", "")), Path("node_modules/axe-core/axe.min.js")]
    places += [folder / "axe.min.js" for folder in folders]
    if source := next((place.read_text() for place in places if place.is_file()), None):
        return source
    pytest.skip("no axe-core: install axe-playwright-python, or name its file by $AXE_CORE")


@pytest.fixture
def browse(tmp_path):
    """browse(page, script, width=, dark=): what the script, the body of an async function, returns.

    There must be no error and no warning in the console.
    """
    if (browser := chromium()) is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")

    def browse(page, script, width=1280, dark=False, library=""):
        begin = "<script>var wrong = []; onerror = text => { wrong.push(text); };</script>"
        told = (
            "addEventListener('load', async () => {\n"
            f"  const found = await (async () => {{ {script} }})();\n"
            "  const said = JSON.stringify({found, wrong});\n"
            "  document.body.replaceChildren();\n"
            "  document.title = 'SAID' + said + 'SAID';\n"
            "})"
        )
        whole = page.replace("<head>", f"<head>{begin}", 1)
        whole = whole.replace(
            "</body>", f"<script>{library}</script><script>{told}</script></body>"
        )
        file = tmp_path / "opened.html"
        file.write_text(whole)
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={DARK if dark else LIGHT}",
            f"--window-size={width},900",
            "--virtual-time-budget=60000",
            "--dump-dom",
            file.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        said = re.search("SAID(.*)SAID", done.stdout, re.DOTALL)
        assert said, done.stderr[-2000:] + done.stdout[-500:]
        told = json.loads(unescape(said.group(1)))
        assert not told["wrong"], told["wrong"]
        return told["found"]

    return browse


def result(name, precision, error=0.0, bound=1.0, **options):
    """What a level found in one number that is off by so much."""
    level = next(level for level in LEVELS if level.name == name)
    compared = compare(np.array([1.0 + error]), np.array([1.0]), bound, name=f".{name}")
    return Result(level, precision, (compared,), 0.25, **options)


@pytest.fixture(scope="session")
def agreeing():
    """A verdict on three epochs of 20 steps, made by hand; one step's loss is equal in all bits."""
    steps, rng = np.arange(60), np.random.default_rng(0)
    loss = 2.3 * np.exp(-steps / 30) + 0.1
    apart = 1e-16 * (1 + rng.random(60))
    apart[7] = 0

    def run(off):
        val = {"val_loss": loss[19::20] + 0.05, "val_acc": np.array([0.5, 0.6, 0.7])}
        return {"train_loss": loss + off} | val

    curves = {"jax float64": run(0.0), "torch float64": run(4 * apart), "jax float32": run(1e-7)}
    curves |= {"torch float32": run(2e-7), "yardstick": {"train_loss": loss[:20] + 1e-9}}
    margins = {s: {"W": rng.random(60), "loss": rng.random(60) / 10} for s in ("jax", "torch")}
    kinks = {"max model.py:3": np.ones(60, int)}
    trajectory = Trajectory("float32", margins, np.full(60, 1e-3), {}, kinks, loss, 1.0)
    results = result("inputs", "bits"), result("logits", "float64", 0.5), result("step", "float32")
    about = {"jax": {"model": "ours.Net", "device": "cpu"}, "parameters": {"W": [3, 4], "b": [4]}}
    about["torch"] = {"model": "theirs.Net", "device": "cpu"}
    return Verdict("net", results, curves, about, None, trajectory, ("what was assumed",))


@pytest.fixture(scope="session")
def differing(agreeing):
    """One that parts in a tanh, with the drawing of both graphs."""
    same, theirs = [Place("add", (2, 3), "a", "m.py:1 (f)", "forward", number=i) for i in (1, 11)]
    tanh = replace(same, op="tanh", number=2), replace(theirs, op="sigmoid", number=12)
    parting = Parting(0, "logits", "logits", *((t,) for t in tanh), "mean", (1.0, 2.0), 1e-9, ())
    found = Alignment(
        ((same, theirs),), (), tanh[:1], tanh[1:], 0.5, parting, {2: (1,)}, {12: (11,)}
    )
    results = result("inputs", "bits"), result("logits", "float64", 3.0), agreeing.results[2]
    skipped = replace(results[2], comparisons=(), skipped="both hold nothing", precision="float64")
    return replace(agreeing, pair="<wrong> port", results=(*results, skipped), alignment=found)


ABOUT = {
    "data": "60 random rows",
    "command": "pytest",
    "versions": {"jax": "1", "torch": "2"},
    "hardware": {"cores": 2},
    "time": "today",
}


@pytest.fixture
def report():
    """report(*verdicts): a Report on them."""
    from parity.report.report import Report

    return lambda *verdicts, **options: Report(verdicts, ABOUT, 12.0, **options)
