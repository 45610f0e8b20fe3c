"""`mlp-parity check` and `init` for models of a user's own, named as module:name."""

import contextlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.cli import main, parse
from parity.config.check import is_import
from parity.exits import Refused
from parity.studies import imported

pytest_plugins = ["pytester"]

SHOP = """
import jax, numpy as np, optax, torch
from flax import nnx

class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

    def forward(self, X):
        return self.out(torch.relu(self.hidden(X)))

class Dropping(Theirs):
    def forward(self, X):
        return torch.nn.functional.dropout(super().forward(X), 0.5, self.training)

class Ours(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.out = nnx.Linear(3, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, X):
        return self.out(nnx.relu(self.hidden(X)))

def words():
    return torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Flatten(), torch.nn.Linear(32, 1))

def embedded(p, tokens):
    return p["E"][tokens].reshape(len(tokens), -1) @ p["W"] + p["b"]

def words_in_jax():
    shapes = {"E": (7, 4), "W": (32, 1), "b": 1}
    return embedded, {name: np.zeros(shape, "float32") for name, shape in shapes.items()}

def wrong():
    return (lambda p, X: jax.nn.tanh(X @ p["a"] + p["b"]) @ p["c"] + p["d"]), {
        name: np.zeros(shape, "float32")
        for name, shape in {"a": (3, 4), "b": 4, "c": (4, 2), "d": 2}.items()
    }

def moved(t):
    return {"a": t["hidden.weight"].T, "b": t["hidden.bias"],
            "c": t["out.weight"].T, "d": t["out.bias"]}

def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 3)).astype("float32"), rng.integers(0, 2, 12).astype("int32")

TABLE = {f"{at}.{ours}": f"{at}.{theirs}" for at in ("hidden", "out")
         for ours, theirs in (("kernel", "weight"), ("bias", "bias"))}
ADAM = (lambda p: torch.optim.Adam(p, 1e-3), optax.adam(1e-3))
SUMS = (lambda out, y: out.square().mean(), lambda out, y: (out ** 2).mean())

def needs(width, depth): pass
def fails(): return 1 / 0
"""
QUICK = ["--epochs", "1", "--batch-size", "6"]
PAIR = ["check", "--torch", "ownshop:Theirs", "--jax", "ownshop:Ours", "--data", "ownshop:batch"]


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch):
    """The current folder holds ownshop.py, and nothing imported from it is kept."""
    (tmp_path / "ownshop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("ownshop", "halves", "absent"):
        sys.modules.pop(name, None)


def test_a_pair_that_agrees_is_reported_like_the_main_job(shop, capsys):
    options = ["--weights", "ownshop:TABLE", "--optimizer", "ownshop:ADAM", "--mode", "eval"]
    levels = ["--levels", "inputs", "logits", "step"]
    assert main([*PAIR, *QUICK, *options, "--loss", "ownshop:SUMS", *levels]) == 0
    out = capsys.readouterr().out
    assert "AGREE" in out and "ownshop:batch (12 examples)" in out and "assumed" not in out
    report = json.loads((shop / "report/report.json").read_text())
    (pair,) = report["pairs"]
    assert pair["pair"] == "ownshop:Ours = ownshop:Theirs" and report["ok"]
    assert {level["level"] for level in pair["levels"]} == {"inputs", "logits", "step"}
    # A plain SGD would keep no moments: the optimiser that was named has stepped.
    compared = [c["name"] for level in pair["levels"] for c in level["comparisons"]]
    assert any("optimizer.mu" in name for name in compared)
    assert (shop / "report/index.html").exists() and str(shop) not in sys.path


def test_a_pair_that_differs_gives_1_and_a_page_with_both_graphs(shop, capsys):
    names = ["--jax", "ownshop:wrong", "--weights", "ownshop:moved", "--levels", "logits"]
    assert main([*PAIR, *QUICK, *names]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "DIFFER: first at ownshop:wrong = ownshop:Theirs logits float64" in out
    page = (shop / "report/index.html").read_text()
    assert "they part here" in page and "ownshop.py:" in page


@pytest.mark.slow
def test_all_levels_of_a_pair_are_climbed_from_the_command_line(shop):
    assert main([*PAIR, *QUICK, "--weights", "guess"]) == 0
    folder = shop / "report"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"curves-ownshop-Ours-ownshop-Theirs.png", "index.html", "ladder.png"}


REFUSED = {
    "check --torch absent:x": "--torch absent:x: there is no module 'absent' in ",
    "check --torch ownshop": "--torch ownshop: is not of the form module:name; expected a torch.nn",
    "check --torch ./src/ownshop.py:X": "names a file; expected its module, src.ownshop:X",
    "check --torch ownshop:Their": "ownshop has no 'Their'; it has Theirs; expected a torch.nn.Mod",
    "check --torch ownshop:needs": "it needs width, depth, expected no argument; name a function",
    "check --torch ownshop:fails": "failed: ZeroDivisionError: division by zero, at ownshop.py:",
    "check --torch ownshop:TABLE": "--torch ownshop:TABLE: is a dict; expected a torch.nn.Module",
    "check --torch halves:x": "importing it failed: ModuleNotFoundError: No module named 'gone', "
    "at halves.py:2",
    "check --jax ownshop:Theirs": "--jax ownshop:Theirs: a ownshop.Theirs, expected a flax.nnx.Mod",
    "check --data ownshop:TABLE": "--data ownshop:TABLE: is a dict; expected (inputs, targets)",
    "check --data ownshop:SUMS": "--data ownshop:SUMS: inputs is object (), expected float32",
    "check --weights ownshop:ADAM": "--weights ownshop:ADAM: is a tuple; expected",
    "check --optimizer ownshop:TABLE": "--optimizer ownshop:TABLE: is a dict; expected a pair",
    "check --optimizer adam": "--optimizer adam: is not of the form module:name; expected a pair",
    "check --loss mae": "loss: 'mae', expected one of cross_entropy",
    "check --levels logit": "--levels: no ['logit']; there are ['inputs'",
    "init --torch ownshop:needs": "it needs width, depth, expected no argument; name a function",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_asked_is_named_with_what_was_expected(line, shop, capsys):
    (shop / "halves.py").write_text("\nimport gone\n")
    command, *given = line.split()
    pair = PAIR[1:] if command == "check" else PAIR[1:5]
    assert main([command, *pair, *given]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err and said.out == ""
    assert REFUSED[line] in " ".join(said.err.split())


@pytest.mark.parametrize(
    "line, said",
    [
        ("--torch a:b", "expected both or neither"),
        ("--torch a:b --jax a:b --hiddens 5 --sigma 1", "--hiddens, --sigma: of the book's models"),
        ("--loss mse --mode eval", "--loss, --mode: of models of your own"),
        ("--data a:b", "for models of your own"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(line, said, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(["check", *line.split()])
    assert caught.value.code == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_folder_with_a_colon_in_its_name_is_a_folder(shop):
    assert is_import("a:b") and not is_import("sample") and not is_import(None)
    (shop / "a:b").mkdir()
    assert not is_import("a:b")


def test_a_model_that_fails_to_import_for_its_own_reasons_is_not_called_absent(shop):
    (shop / "halves.py").write_text("import gone.deep\n")
    with imported.importable(), pytest.raises(Refused, match="No module named 'gone'"):
        imported.torch_model("halves:x", 0)


INIT = ["init", "--torch", "ownshop:Theirs", "--jax", "ownshop:Ours"]


def test_init_writes_a_test_that_passes_as_it_is(shop, pytester, capsys, monkeypatch):
    monkeypatch.chdir(shop)
    assert main([*INIT, "--out", "test_shop.py"]) == 0
    assert "python -m pytest test_shop.py" in capsys.readouterr().out
    text = (shop / "test_shop.py").read_text()
    assert '"hidden.kernel": "hidden.weight",' in text and "def test_ours_is_theirs(parity)" in text
    sys.modules.pop("ownshop")
    plugins = "-p", "no:parity", "-p", "parity.pytest_plugin", "-p", "no:cacheprovider"
    quick = text.replace("epochs=1,", 'epochs=1, levels=["inputs", "logits", "step"],')
    pytester.makepyfile(ownshop=SHOP, test_shop=quick)
    monkeypatch.chdir(pytester.path)
    result = pytester.runpytest(*plugins, "test_shop.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 pair in *: 1 agree"])


@pytest.mark.slow
def test_the_workflow_of_the_docs_runs_on_the_layout_of_the_docs(shop, monkeypatch):
    docs = Path(parity.__file__).parents[1] / "docs/pytest.md"
    runs = re.findall(r"^ +- run: (.+)$", docs.read_text(), re.MULTILINE)
    install, command = map(shlex.split, runs)
    assert install[:4] == ["python", "-m", "pip", "install"]
    (shop / "tests").mkdir()
    assert main([*INIT, "--out", "tests/test_parity.py"]) == 0
    monkeypatch.setenv("PYTHONPATH", str(docs.parents[1]))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:parity -p parity.pytest_plugin")  # as if installed
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0 and "1 pair in " in done.stdout, done.stdout + done.stderr
    assert "AGREE: JAX and Torch" in (shop / "parity-report/index.html").read_text()


def test_init_overwrites_nothing(shop, capsys):
    (shop / "test_parity.py").write_text("mine")
    assert main(INIT) == 2
    assert "test_parity.py: exists, and is not overwritten" in capsys.readouterr().err
    assert (shop / "test_parity.py").read_text() == "mine"


WRITTEN = {
    ("words", "words_in_jax"): [
        'X = rng.integers(0, 7, (96, 8)).astype("int32")',
        'y = rng.normal(size=(96, 1)).astype("float32")',
        'loss="mse",',
        '"E": "0.weight",',
        "        words_in_jax(),",
    ],
    ("Dropping", "Ours"): ['mode="eval",', "Ours(rngs=nnx.Rngs(0)),", "from flax import nnx"],
}


@pytest.mark.parametrize("names", WRITTEN)
def test_init_finds_inputs_a_loss_and_a_mode_that_the_models_take(names, shop):
    theirs, ours = (f"ownshop:{name}" for name in names)
    assert main(["init", "--torch", theirs, "--jax", ours]) == 0
    text = (shop / "test_parity.py").read_text()
    compile(text, "test_parity.py", "exec")
    assert all(line in text for line in WRITTEN[names]), text


def test_init_takes_data_by_name(shop):
    assert main([*INIT, "--data", "ownshop:batch"]) == 0
    text = (shop / "test_parity.py").read_text()
    assert "from ownshop import Ours, Theirs, batch" in text and "        batch()," in text
    assert "numpy" not in text and 'loss="cross_entropy",' in text


def test_init_says_which_inputs_it_tried(shop, capsys):
    assert main(["init", "--torch", "ownshop:Theirs", "--jax", "ownshop:words_in_jax"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "(96, 3), (96, 6, 3)" in said and "name data with --data module:name" in said
    with contextlib.suppress(FileNotFoundError):
        (shop / "test_parity.py").unlink()
        pytest.fail("a file was written")
