"""mlp-parity bits: the published hashes, any number of devices, one framework alone, --locate."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

import torch_mlp.reproducible
from jax_mlp import exact
from mlp_core import fashion_mnist
from mlp_core.weights import Weights
from parity.cli import main
from parity.exits import Refused
from parity.studies import bits

ROOT = Path(bits.__file__).parents[2]
SMALL = ["--data", "sample", "--epochs", "1", "--hiddens", "8", "--batch-size", "2000"]

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from parity.cli import main
for arguments in {runs}:
    assert main(["bits", *arguments]) == 0
"""


@pytest.fixture(autouse=True)
def one_torch_thread():
    threads = torch.get_num_threads()
    yield torch.set_num_threads(1)
    torch.set_num_threads(threads)


def hashes(text):
    """{(side, what): every hash that was printed}"""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] and words[0] in bits.SIDES and words[1] in ("weights", "losses"):
            found.setdefault(tuple(words[:2]), []).append(words[2])
    return found


def alone(runs, *blocked):
    code = BLOCKED.format(blocked=set(blocked), runs=runs)
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def small():
    """The hashes of both sides on a small problem, in one process."""
    config = bits.BitsConfig(data="sample", epochs=1, hiddens=(8,), batch_size=2000)
    return [bits.train(side, config).hashes for side in bits.SIDES]


def test_the_default_run_on_the_sample_has_the_published_hashes(capsys):
    assert main(["bits", "--data", "sample"]) == 0
    out = capsys.readouterr().out
    weights, losses = bits.PUBLISHED["sample"]
    expected = {
        (side, what): [value]
        for side in bits.SIDES
        for what, value in (("weights", weights), ("losses", losses))
    }
    assert hashes(out) == expected
    assert "SAME: jax and torch gave the published bits." in out


def test_the_readme_publishes_these_hashes():
    text = (ROOT / "README.md").read_text()
    assert [h for pair in bits.PUBLISHED.values() for h in pair if h not in text] == []


@pytest.mark.slow
@pytest.mark.full_data
def test_one_side_of_one_epoch_on_the_full_data_agrees_with_the_other(full_data, capsys):
    assert main(["bits", "--data", str(full_data), "--epochs", "1", "--hiddens", "16"]) == 0
    assert "SAME" in capsys.readouterr().out


@pytest.mark.slow
def test_without_float64_the_default_run_has_the_published_hashes():
    """What a TPU would compute: JAX's products by int8, all else by integers."""
    run = bits.train("jax", bits.BitsConfig(data="sample", integers=True))
    assert run.hashes == bits.PUBLISHED["sample"]


@pytest.mark.parametrize("asked", [True, False])
def test_integers_are_taken_where_they_are_asked_for_and_by_jax_alone(monkeypatch, asked):
    seen = {}

    def trainer(side, config, options):
        seen[side] = exact.has_float64()
        raise NotImplementedError("enough")

    monkeypatch.setattr(bits, "_trainer", trainer)
    for side in bits.SIDES:
        with pytest.raises(Refused, match="enough"):
            bits.train(side, bits.BitsConfig(data="sample", integers=asked))
    assert seen == {"jax": not asked, "torch": True} and exact.has_float64()


def test_torch_alone_has_no_integers(capsys):
    assert main(["bits", "--integers", "--side", "torch", "--data", "sample"]) == 2
    assert "Torch needs float64" in capsys.readouterr().err


@pytest.mark.slow
def test_jax_without_torch_has_the_same_hash_on_1_2_4_8_devices(small):
    runs = [["--side", "jax", *SMALL, "--devices", str(k)] for k in (8, 4, 2)]
    runs += [["--side", "jax", "--model", "mlp", *SMALL]]
    found = hashes(alone(runs, "torch", "torchvision", "torch_mlp"))
    assert found == {("jax", "weights"): [small[0][0]] * 4, ("jax", "losses"): [small[0][1]] * 4}


def test_torch_without_jax_has_the_same_hash(small):
    runs = [["--side", "torch", "--model", model, *SMALL] for model in ("scratch", "mlp")]
    found = hashes(alone(runs, "jax", "jaxlib", "flax", "optax", "jax_mlp"))
    assert found == {
        ("torch", "weights"): [small[0][0]] * 2,
        ("torch", "losses"): [small[0][1]] * 2,
    }


def test_each_setting_changes_the_hash(small):
    assert small[0] == small[1]
    base = {"data": "sample", "epochs": 1, "hiddens": (8,), "batch_size": 2000}
    changes = ({"seed": 1}, {"lr": 0.05}, {"hiddens": (9,)}, {"batch_size": 1999})
    found = {bits.train("torch", bits.BitsConfig(**base | change)).hashes for change in changes}
    assert len(found | set(small)) == 5


def one_ulp_more(tensor, row, column):
    tensor.data[row, column] = torch.nextafter(tensor.data[row, column], torch.tensor(9.0))


def test_a_planted_ulp_in_an_update_is_located_by_step_operation_and_element(monkeypatch, capsys):
    honest = torch_mlp.reproducible.sgd
    calls = []

    def off(params, grads, lr, **options):
        new, velocity = honest(params, grads, lr, **options)
        calls.append(1)
        if len(calls) % 3 == 2:  # the second of three steps
            one_ulp_more(new["0"], 5, 3)
        return new, velocity

    monkeypatch.setattr(torch_mlp.reproducible, "sgd", off)
    assert main(["bits", *SMALL, "--locate"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT: jax and torch do not have the same bits" in out
    assert "First difference: step 1, update of W1 [5, 3]: jax 0x" in out
    assert "1 of 6,272 elements differ there" in out


def test_a_planted_ulp_in_a_layer_is_located_even_where_rounding_hides_it_later(monkeypatch):
    honest = torch_mlp.reproducible._REPRODUCIBLE[0.5]
    calls = []

    def off(X, W, b):
        Y = honest.linear(X, W, b)
        calls.append(1)
        if len(calls) == 4:  # the second step's second layer
            one_ulp_more(Y, 5, 3)
        return Y

    planted = honest._replace(linear=off)
    monkeypatch.setitem(torch_mlp.reproducible._REPRODUCIBLE, 0.5, planted)
    config = bits.BitsConfig(data="sample", epochs=1, hiddens=(8,), batch_size=2000)
    difference = bits.locate(config)
    assert (difference.step, difference.operation) == (1, "layer 2 linear")
    assert (difference.index, difference.count, difference.size) == ((5, 3), 1, 20_000)

    def results():
        return {"loss": np.zeros((), "f4"), "gradient of W1": np.ones((2, 3), np.float32)}

    a, b = results(), results()
    assert bits.first_difference(0, a, b) is None
    b["gradient of W1"][1, 2] = np.nextafter(np.float32(1), np.float32(2))
    found = bits.first_difference(7, a, b)
    assert str(found).startswith("step 7, gradient of W1 [1, 2]: jax 0x3f800000 (1), torch 0x3f80")
    b["gradient of W1"] = -np.zeros((2, 3), np.float32)
    a["gradient of W1"] = np.zeros((2, 3), np.float32)
    assert bits.first_difference(0, a, b).count == 6  # the sign of a zero is a bit too


def test_where_the_bits_are_the_same_locate_finds_nothing(tmp_path, capsys):
    assert main(["bits", *SMALL, "--locate", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "bits.json").read_text())
    assert record["ok"] and record["runs"]["jax"]["losses"] == record["runs"]["torch"]["losses"]
    ours, theirs = (Weights.load(tmp_path / f"weights-{s}.safetensors") for s in bits.SIDES)
    assert bits.digest(ours) == bits.digest(theirs) == record["runs"]["jax"]["weights"]


def test_a_run_that_misses_the_published_hash_exits_with_1(monkeypatch, capsys):
    monkeypatch.setattr(bits, "published", lambda *_: ("0" * 64, "0" * 64))
    assert main(["bits", *SMALL, "--side", "torch"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT from what is published" in out and "the data are right" in out


def test_data_are_suspected_before_the_hardware(monkeypatch, capsys):
    honest = fashion_mnist.load

    def faulty_memory(data):
        dataset = honest(data)
        labels = dataset.train.labels.copy()
        labels[7] ^= 1
        train = dataclasses.replace(dataset.train, labels=labels)
        return dataclasses.replace(dataset, train=train)

    monkeypatch.setattr(fashion_mnist, "load", faulty_memory)
    monkeypatch.setattr(bits, "published", lambda *_: ("0" * 64, "0" * 64))
    assert main(["bits", *SMALL, "--side", "jax"]) == 2
    err = capsys.readouterr().err
    assert "the data are to blame" in err and "train-labels-idx1-ubyte in memory" in err


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--side", "torch", "--devices", "2"], "leaves JAX out"),
        (["--side", "jax", "--locate"], "compares two sides"),
        (["--side", "jax", "--devices", "99"], "JAX has started with"),
    ],
)
def test_what_cannot_be_done_is_refused_with_2(capsys, arguments, reason):
    jax.devices()
    assert main(["bits", *SMALL, *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_a_missing_framework_is_named(monkeypatch, capsys):
    monkeypatch.setattr(bits, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "torch")
    assert main(["bits", *SMALL, "--side", "torch"]) == 2
    assert "torch is not installed" in capsys.readouterr().err
