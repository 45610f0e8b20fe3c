"""Compiling ahead of time: what a program's text says, targets, and the command."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from parity.cli import main
from parity.config.compile import CompileConfig
from parity.exits import Refused
from parity.studies.ahead.program import Around, Program
from parity.studies.ahead.targets import CHIPS, Target

TPU = """
%fused (a: bf16[8,4], b: f32[4,2]) -> f32[8,2] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = f32[4,2]{1,0} parameter(1)
  ROOT %c = f32[8,2]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}

%body (t: (s32[], f32[4,2], u8[100])) -> (s32[], f32[4,2], u8[100]) {
  %t = (s32[]{:T(128)}, f32[4,2]{1,0:T(8,128)S(1)}, u8[100]{0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %w = f32[4,2]{1,0:T(8,128)S(1)} get-tuple-element(%t), index=1
  %next = s32[]{:T(128)} add(%i, %i)
  %y = f32[8,2]{1,0} fusion(%w, %w), kind=kOutput, calls=%fused
  %sum = f32[8,2]{1,0} all-reduce-start(%y), to_apply=%plus
  %done = f32[8,2]{1,0} all-reduce-done(%sum)
  ROOT %out = (s32[], f32[4,2], u8[100]) tuple(%next, %w, %w)
}

ENTRY %main (p: f32[4,2]) -> f32[4,2] {
  %p = f32[4,2]{1,0} parameter(0)
  %loop = (s32[], f32[4,2], u8[100]) while(%p), condition=%c, body=%body
  ROOT %r = f32[4,2]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_a_step_of_a_tpu_program_is_read_from_its_text():
    step = Program(TPU, "tpu").step()
    assert step.products == {"bfloat16": 1} and step.collectives == {"all-reduce": 1}
    assert (step.held, step.near) == (4 + 32 + 100, 32)
    assert step.launches == 3  # the fusion, and both ends of the sum; no scalar, no name


def test_bytes_are_those_of_operands_and_results_that_main_memory_holds():
    read = Program(TPU, "tpu")
    # A step's fusion has its operands near; its result is written, read and summed to another.
    assert (read.step().moved, read.step().count) == (64 + 128, 1)
    assert read.around() == Around(0, 0) and read.moved() == 192
    counted = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    assert Program(TPU.replace("body=%body", counted), "tpu").moved() == 5 * 192
    # Of an array with an entry for each of eight steps, each takes one.
    assert Program(TPU, "tpu", steps=8).step().moved == 192 // 8


def test_what_is_once_an_epoch_is_counted_apart():
    text = TPU.replace("ROOT %r", "%a = f32[4,2]{1,0} copy(%p)\n  ROOT %r")
    assert Program(text, "tpu").around() == Around(1, 64)


@pytest.mark.parametrize(
    "precision, taken", [("highest", "float32"), ("high", "TF32 in three passes"), (None, "TF32")]
)
def test_products_are_told_by_the_precision_that_was_asked_for(precision, taken):
    asked = f", operand_precision={{{precision},{precision}}}" if precision else ""
    text = TPU.replace("bf16", "f32").replace("->bf", f"->bf{asked}")
    assert Program(text, "cuda").step().products == {taken: 1}
    assert Program(text.replace("f32", "s8"), "cuda").step().products == {"int8": 1}


def test_the_loop_of_a_real_program_is_found():
    def trained(w):
        return lax.scan(lambda w, x: (w - jnp.outer(x, x @ w), x.sum()), w, jnp.ones((5, 40)))

    text = jax.jit(trained).lower(jnp.ones((40, 30))).compile().as_text()
    step = Program(text, "cuda").step()
    assert step is not None and step.launches >= 1 and step.held >= 4 * 40 * 30
    flat = jax.jit(lambda w: w + 1).lower(jnp.ones(3)).compile().as_text()
    assert Program(flat, "cuda").step() is None


@pytest.mark.parametrize("text", ["", "foo", "h100", "h100:", "h100:0", "tpu-v5e:2x", "h100:٣",
                                  "tpu-v5e:2x2x", "h100:-1", "h100:99999", "H100:1"])  # fmt: skip
def test_what_is_no_target_is_refused_with_the_chips_that_there_are(text):
    with pytest.raises(Refused, match="expected a chip and its arrangement.*tpu-v5p.*h100"):
        Target.parsed(text)


def test_a_target_whose_compiler_is_missing_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["compile", "--target", "tpu-v5e:2x2", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert "compiled: no: needs libtpu: pip install 'mlp-parity[tpu]'" in said
    assert "not run on any" in (tmp_path / "compile.md").read_text()
    assert json.loads((tmp_path / "compile.json").read_text())["targets"][0]["why"]


@pytest.mark.parametrize("name", ["tpu-v5e:2x2", "h100:1x1x1"])
def test_the_epoch_is_compiled_for_a_device_that_is_not_here(name, tmp_path, capsys):
    if missing := Target.parsed(name).missing():
        pytest.skip(missing)
    asked = ["--hiddens", "8", "--data", "sample", "--precision", "highest"]
    assert main(["compile", "--target", name, *asked, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "compile.json").read_text())["targets"][0]
    assert found["step"]["products"].keys() == {"float32"} and found["step"]["launches"] > 5
    assert 0 < found["memory"] < CHIPS[Target.parsed(name).chip].memory


@pytest.mark.parametrize("name, launches", [("tpu-v5e:2x2", None), ("h100:1x1x1", 3)])
def test_fused_kernels_are_compiled_for_a_device_that_is_not_here(name, launches, tmp_path):
    """A TPU's epoch has no loop but within its kernel; a GPU's step has three kernels."""
    if missing := Target.parsed(name).missing():
        pytest.skip(missing)
    asked = ["--hiddens", "8", "--data", "sample", "--kernel", "fused"]
    assert main(["compile", "--target", name, *asked, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "compile.json").read_text())["targets"][0]
    assert (found["step"] and found["step"]["launches"]) == launches and found["moved"] > 0


def test_all_devices_of_a_target_may_be_asked_for():
    assert CompileConfig(devices=0).devices == 0
    with pytest.raises(ValueError, match="devices = -1, expected at least 0"):
        CompileConfig(devices=-1)


def test_more_devices_than_a_target_has_are_refused():
    if missing := Target.parsed("tpu-v5e:2x2").missing():
        pytest.skip(missing)
    assert main(["compile", "--target", "tpu-v5e:2x2", "--devices", "5", "--data", "sample"]) == 2
