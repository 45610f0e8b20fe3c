"""The notebooks run from the first cell to the last, and are kept with a full run's outputs."""

import importlib.util
import json
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((HOUSE / "notebooks").glob("*.ipynb"))}
QUICK = "EPOCHS, SEEDS, VALUES = 1, 1, 1"


def cells(name):
    found = json.loads(NOTEBOOKS[name].read_text("utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found]


def text_of(outputs):
    return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's client and its event loop
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_on_the_sample_and_tells_a_true_twin_from_a_false_one(name, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("FASHION_MNIST_DIR", "sample")
    monkeypatch.setenv("PYTHONPATH", str(HOUSE), prepend=os.pathsep)
    book = nbformat.read(NOTEBOOKS[name], as_version=4)
    for cell in book.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = QUICK
        cell.source = re.sub(r"max_epochs=\d+", "max_epochs=2", cell.source)
        cell.source = cell.source.replace("(784, 10, 256,", "(784, 10, 16,")  # of the two checks
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3").execute()
    *_, same, _, slip, _ = book.cells
    assert ": agree\n" in text_of(same.outputs) and "FAILED" not in text_of(same.outputs)
    assert ": DIFFER\n" in text_of(slip.outputs)
    drawn = [cell for cell in book.cells if "trainer.fit" in cell.source]
    for cell in drawn:
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", ())]
        assert len(pictures) == 1, "a board draws into one output"
    assert len(drawn) == 2


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_with_the_outputs_of_a_whole_run(name):
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == [*range(1, len(code) + 1)]
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    for cell in code:
        if re.search(r"^(sweep\(|print\(|.*trainer\.fit)", cell["source"], re.M):
            assert cell["outputs"], cell["source"]
    told = text_of(output for cell in code for output in cell["outputs"])
    assert "60,000 + 10,000 images" in told
    assert NOTEBOOKS[name].stat().st_size < 2e6


def test_the_cells_in_torch_are_the_notes_cells():
    notes = (HOUSE / "tests" / "torch_mlp" / "test_cells.py").read_text("utf-8")
    printed = [c["source"] for c in cells("mlp_torch") if "class MLP" in c["source"][:10]]
    printed += [
        c["source"] for c in cells("mlp_torch") if c["source"].startswith(("def relu", "@d2l"))
    ]
    assert len(printed) == 4
    for source in printed:
        assert source in notes


def test_the_first_cell_installs_only_what_is_missing_and_moves_no_framework(monkeypatch):
    setup = next(c["source"] for c in cells("mlp_jax") if "setup" in c["metadata"].get("tags", ()))
    ran = []
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    exec(setup, {})
    assert not ran
    there = {"jax", "torch", "optax"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in there or None)
    exec(setup, {})
    (command,) = ran
    assert command[1:4] == ["-m", "pip", "install"] and command[-2:] == ["flax", "mlp-parity"]
    pins = Path(command[command.index("--constraint") + 1]).read_text()
    assert re.search(r"^jax==", pins, re.M) and re.search(r"^torch==", pins, re.M)


def wheel(folder, name, version, needs=""):
    """A package of nothing, as pip takes it."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        needs = needs and f"Requires-Dist: {needs}\n"
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        file.writestr(f"{info}/METADATA", head)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.mark.slow
@pytest.mark.parametrize(("needs", "goes"), [("jax", True), ("jax>=99", False)])
def test_pip_rather_fails_than_moves_a_framework(needs, goes, tmp_path, monkeypatch):
    setup = next(c["source"] for c in cells("mlp_jax") if "setup" in c["metadata"].get("tags", ()))
    wheel(tmp_path, "jax", "99.0")
    wheel(tmp_path, "a_port", "1.0", needs)
    options = {
        "NO_INDEX": "1",
        "FIND_LINKS": str(tmp_path),
        "DRY_RUN": "1",
        "CONFIG_FILE": os.devnull,
    }
    for option, value in options.items():
        monkeypatch.setenv(f"PIP_{option}", value)
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: find(name) if name != "parity" else None
    )
    cell = setup.replace('SOURCE = "mlp-parity"', 'SOURCE = "a_port"')
    if goes:
        exec(cell, {})
    else:
        with pytest.raises(subprocess.CalledProcessError):
            exec(cell, {})


def test_there_is_a_notebook_for_each_side():
    assert set(NOTEBOOKS) == {"mlp_jax", "mlp_torch"}
