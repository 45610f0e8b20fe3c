"""Programs that stand alone: written, loaded back, judged by the rounding bound."""

import importlib.util
import json

import numpy as np
import pytest

from mlp_core.weights import initial
from parity.cli import main
from parity.sides.jax_export import PLATFORMS
from parity.studies import exported

NO_ONNX = importlib.util.find_spec("onnxscript") is None
ONNX = pytest.mark.skipif(NO_ONNX, reason="needs the extra onnx: pip install 'mlp-parity[onnx]'")


@pytest.fixture
def weights(tmp_path):
    return str(initial((6, 4, 3), 0).save(tmp_path / "w.safetensors"))


def exports(weights, tmp_path, *options):
    return main(["export", weights, *options, "--out", str(tmp_path / "out")])


def test_jax_s_program_is_for_every_platform_and_loaded_back_it_agrees(weights, tmp_path, capsys):
    assert exports(weights, tmp_path, "--formats", "jax", "--model", "scratch") == 0
    from jax import export

    program = export.deserialize(bytearray((tmp_path / "out" / "model.jax-export").read_bytes()))
    assert program.platforms == PLATFORMS == ("cpu", "cuda", "rocm", "tpu")
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert [c["ok"] for c in about["comparisons"]] == [True, True]
    assert "logits of a batch of 7" in capsys.readouterr().out
    assert not (tmp_path / "out" / "model.onnx").exists()


@ONNX
@pytest.mark.slow
@pytest.mark.parametrize("model, activation", [("scratch", "relu"), ("mlp", "gelu")])
def test_onnx_agrees_whatever_the_model(weights, tmp_path, model, activation):
    assert exports(weights, tmp_path, "--model", model, "--activation", activation) == 0
    assert (tmp_path / "out" / "model.onnx").stat().st_size > 100


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_found(weights, tmp_path, monkeypatch, capsys):
    load = exported.loaded_jax
    monkeypatch.setattr(exported, "loaded_jax", lambda c: lambda X: load(c)(X) * np.float32(1.001))
    assert exports(weights, tmp_path, "--formats", "jax") == 1
    assert "OUTSIDE" in capsys.readouterr().out


def test_without_the_extra_it_says_what_to_install(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exported, "onnx_lacks", lambda: "onnxscript")
    assert exports(weights, tmp_path) == 2
    assert "pip install 'mlp-parity[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model.jax-export").exists()


def test_a_file_that_holds_no_weights_is_refused(tmp_path, capsys):
    (tmp_path / "w").write_bytes(b"nothing")
    assert exports(str(tmp_path / "w"), tmp_path) == 2
    assert "not a whole safetensors file" in capsys.readouterr().err
