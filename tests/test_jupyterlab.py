"""The board grows in a real JupyterLab, in a real browser, while the cell that trains runs."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
CELL = """\
import time
import {side}_mlp as d2l
model = d2l.MLPScratch(784, 10, 256, lr=0.1)
trainer = d2l.Trainer(max_epochs={epochs})
took, redraw = [], model.board._redraw
def timed(last=False):
    start = time.perf_counter()
    redraw(last)
    took.append(time.perf_counter() - start)
model.board._redraw = timed
data, start = d2l.FashionMNIST(256, data="sample"), time.perf_counter()
trainer.fit(model, data)
whole = time.perf_counter() - start
print("redraws cost", sum(took[1:]) / whole)  # matplotlib is imported by the first
"""


@pytest.fixture
def lab(tmp_path):
    """lab(text): the address of a notebook with that cell, in a JupyterLab of its own."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("jupyterlab isn't installed: pip install 'mlp-parity[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    folders = {f"JUPYTER_{what}_DIR": str(tmp_path / what) for what in ("CONFIG", "RUNTIME")}
    options = ["--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token="]
    options += [f"--ServerApp.root_dir={tmp_path}"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **folders, "PYTHONPATH": str(HOUSE)},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            time.sleep(1)
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api").read()
                break
            except OSError:
                continue

        def at(text):
            sources = {"first": "'the kernel answers'", "trains": text}
            cells = [cell | {"id": name, "source": source} for name, source in sources.items()]
            book = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
            (tmp_path / "board.ipynb").write_text(json.dumps(book))
            return f"{address}/doc/tree/board.ipynb"

        yield at
    finally:
        server.terminate()
        server.wait(30)


def watched(address):
    """(the pictures that were seen while the cell ran, how many outputs hold one, all its text)."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as started:
        window = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = window.new_page()
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        first, trains = (page.locator(".jp-Cell").nth(i) for i in range(2))

        def execute(cell):
            cell.locator(".jp-InputPrompt").click()
            page.keyboard.press("Control+Enter")

        for _ in range(30):  # what is sent before the kernel listens is lost
            execute(first)
            page.wait_for_timeout(2000)
            if "answers" in "".join(first.locator(".jp-OutputArea").all_inner_texts()):
                break
        execute(trains)
        pictures, prompt = [], trains.locator(".jp-InputPrompt")
        end = time.monotonic() + 300
        while time.monotonic() < end and not re.match(r"\[\d+\]", prompt.inner_text().strip()):
            for source in trains.locator("img").evaluate_all("found => found.map(i => i.src)"):
                if source not in pictures:
                    pictures.append(source)
            page.wait_for_timeout(50)
        page.wait_for_timeout(500)
        text = "".join(trains.locator(".jp-OutputArea").all_inner_texts())
        found = trains.locator("img").count(), text
        window.close()
        return pictures, *found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the browser's driver
@pytest.mark.parametrize(("side", "epochs"), [("jax", 40), ("torch", 8)])
def test_a_board_grows_while_its_cell_runs(lab, side, epochs):
    pictures, outputs, text = watched(lab(CELL.format(side=side, epochs=epochs)))
    assert len(pictures) >= 3, text
    assert outputs == 1, "a board draws into one output"
    assert float(text.split("redraws cost")[1].split()[0]) < 0.06, text
