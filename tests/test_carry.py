"""The scripts for a machine without a registry: help, what is packed, what is missing there."""

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mlp_core import drawing
from mlp_core.drawing import can_draw
from mlp_core.files import write_pictures
from parity.cli import main

ROOT = Path(__file__).parents[1]
CARRY, THERE = ROOT / "scripts" / "carry", ROOT / "scripts" / "there"
# What such a machine may lack and be given, and what it needs anyway.
CARRIED = ("jaxtyping", "platformdirs", "filelock", "requests", "tqdm", "rich", "tyro")
OWN = ("jax", "jaxlib", "flax", "optax", "torch", "numpy", "scipy", "safetensors", "jinja2")


def script(*arguments, **environment):
    done = subprocess.run(
        [str(one) for one in arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHON": sys.executable} | environment,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_scripts_show_their_help_without_any_wheels(option, tmp_path):
    code, said, _ = script(sys.executable, CARRY, option)
    assert code == 0 and "scripts/carry wheels" in said
    code, said, _ = script(THERE, "--minutes", "4", option, WHEELS=str(tmp_path))
    assert code == 0 and "scripts/there --minutes 4" in said and "#" not in said


def test_a_wrong_call_is_a_usage_error(tmp_path):
    assert script(sys.executable, CARRY)[::2] == (
        2, "carry: expected a folder for the wheels, as in: scripts/carry wheels\n"
    )  # fmt: skip
    code, _, said = script(THERE, WHEELS=str(tmp_path))
    assert code == 2 and said.startswith("there: no wheels in ")


def test_all_that_the_project_needs_is_packed_but_for_what_is_compiled():
    carry = runpy.run_path(str(CARRY))
    wanted = carry["needed"]("mlp-parity", carry["THERE"])
    assert {"jaxtyping", "wadler-lindig", "requests", "charset-normalizer", "pygments"} <= {*wanted}
    assert {*CARRIED} <= {*wanted}
    assert not {*wanted} & {"jax", "torch", "matplotlib", "numpy", "markupsafe", "ml-dtypes"}


def folders(tmp_path, names):
    """Empty modules of these names, and a Python that finds these and its own library alone."""
    for name in names:
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").touch()
    python = tmp_path / "python"
    code = f'PYTHONPATH={tmp_path / "site"} exec {sys.executable} -S "$@"'
    python.write_text(f"#!/bin/sh\n{code}\n")
    python.chmod(0o755)
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "one-1-py3-none-any.whl", "w") as wheel:
        for name in CARRIED[1:]:
            wheel.writestr(f"{name}.py", "")
    return {"PYTHON": str(python), "WHEELS": str(wheels)}


def test_what_is_missing_there_is_named_at_once_with_what_to_do(tmp_path):
    code, out, said = script(THERE, **folders(tmp_path / "a", OWN[2:]))
    assert (code, out) == (2, "") and "lacks jax,jaxlib: install them" in said
    code, out, said = script(THERE, **folders(tmp_path / "b", OWN))
    assert (code, out) == (2, "") and "lacks jaxtyping: pack " in said
    assert said.count("\n") == 1


@pytest.fixture
def without_matplotlib(monkeypatch):
    """As on a machine that lacks it. None in sys.modules: importing it is a ModuleNotFoundError."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [n for n in sys.modules if n.startswith("parity.") and "picture" in n]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    can_draw.cache_clear()
    yield
    can_draw.cache_clear()


def test_pictures_are_left_out_where_nothing_draws_them(without_matplotlib, tmp_path, capsys):
    def pictures():
        import matplotlib.figure  # noqa: F401

        raise AssertionError("drawn")

    for _ in range(2):
        write_pictures(tmp_path, pictures)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "pictures are left out" in said and "matplotlib" in said
    assert not [*tmp_path.iterdir()]
    assert drawing.can_draw() is False


@pytest.mark.slow
def test_only_what_draws_imports_matplotlib():
    names = "report.report, studies.bench.run, studies.faults.run, studies.sweep.run"
    names = ", ".join(f"parity.{one}" for one in (*names.split(", "), "studies.trajectory.run"))
    code = f"import sys; sys.modules['matplotlib'] = None; import {names}"
    assert script(sys.executable, "-c", code) == (0, "", "")


SMALL = ("--data", "sample", "--epochs", "1", "--hiddens", "8")


@pytest.mark.parametrize(
    "command, written",
    [
        pytest.param(("check", *SMALL, "--model", "mlp", "--levels", "inputs", "--no-certify"),
                     "report.json", marks=pytest.mark.slow),
        (("train", *SMALL, "--side", "torch"), "history.json"),
        pytest.param(("trajectory", *SMALL, "--model", "mlp", "--copies", "0"),
                     "trajectory-mlp.json", marks=pytest.mark.slow),
        pytest.param(("bench", "--data", "sample", "--rows", "floor", "--rounds",
                      "1", "--width", "16"), "bench.json", marks=pytest.mark.slow),
        pytest.param(("sweep", "lr", *SMALL, "--seeds", "2", "--values", "0.1"), "sweep.json",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_command_writes_all_but_its_pictures(command, written, without_matplotlib, tmp_path):
    assert main([*command, "--out", str(tmp_path)]) in (0, 2)
    assert (tmp_path / written).exists() and not [*tmp_path.glob("*.png")]
