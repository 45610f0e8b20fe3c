"""Compiling ahead of time: what a program's text says, targets, and the command."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import jax_mlp
from jax_mlp.ahead import epoch
from mlp_core.limits import NotFused
from parity.cli import main
from parity.config import memory
from parity.config.compile import CompileConfig
from parity.exits import Refused
from parity.studies.ahead import run as ahead
from parity.studies.ahead.program import Around, Program
from parity.studies.ahead.run import Compiled
from parity.studies.ahead.targets import CHIPS, Target
from parity.studies.child import ChildDied

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


def test_no_target_is_a_usage_error(capsys):
    assert main(["compile", "--target"]) == 2
    assert "--target: expected at least one" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, why",
    [
        ("h100:8", r"expected 3 numbers \(slices x hosts x GPUs of a host\), got 1"),
        ("h100:2x2x2x2", "got 4"),
        ("h100:1x1x16", "at most 8 in a host, got 16"),
        ("tpu-v5e:2x2x2", r"expected 2 numbers \(AxB\), got 3"),
        ("tpu-v6e:32x32", "at most 16 in a direction, got 32"),
        ("tpu-v5p:2x2", "expected 3 numbers"),
        ("tpu-v5p:16x24x28", "at most 8,960 chips, got 10,752"),
        ("tpu-7x:24x24x24", "at most 9,216 chips"),
    ],
)
def test_an_arrangement_beyond_what_is_published_is_impossible(name, why):
    assert re.search(why, Target.parsed(name).impossible())


@pytest.mark.parametrize("name", [*CompileConfig().target, "tpu-v5p:16x20x28", "tpu-v6e:16x16",
                                  "tpu-7x:16x16x36", "h100:1x1x8", "h200:1x32x8"])  # fmt: skip
def test_an_arrangement_that_there_is_is_possible(name):
    assert Target.parsed(name).impossible() == ""


def outcome(target, **other):
    return Compiled(str(target), "kind", 1, 256, 10**6, 10**10, "scan", None, Around(1, 1), 1, 1.0,
                    {}, **other)  # fmt: skip


def test_how_many_of_the_devices_it_was_compiled_for_is_said():
    assert outcome("tpu-v6e:16x16").row[1] == "1 of 256"


@pytest.fixture
def compilers(monkeypatch):
    """As if all were installed, and compiled at once."""
    monkeypatch.setattr(Target, "missing", lambda target: "")
    monkeypatch.setattr(ahead, "_in_a_child", lambda config, target: outcome(target, text="HLO"))


def test_a_target_that_cannot_be_is_one_outcome_among_the_others(compilers, tmp_path, capsys):
    targets = ["tpu-v5e:2x2", "tpu-v5e:32x32", "tpu-v6e:2x2"]
    assert main(["compile", "--target", *targets, "--out", str(tmp_path)]) == 2
    found = json.loads((tmp_path / "compile.json").read_text())["targets"]
    assert [one["target"] for one in found] == targets
    assert ["why" in one for one in found] == [False, True, False]
    assert "32x32\n  compiled: no: there is no such arrangement" in capsys.readouterr().out


def test_what_is_compiled_is_written_before_the_next_begins(compilers, tmp_path, monkeypatch):
    def interrupted(config, target):
        if target.chip == "tpu-v6e":
            raise KeyboardInterrupt
        return outcome(target, text="HLO")

    monkeypatch.setattr(ahead, "_in_a_child", interrupted)
    targets = ["--target", "tpu-v5e:2x2", "tpu-v6e:2x2"]
    assert main(["compile", *targets, "--out", str(tmp_path)]) == 130
    found = json.loads((tmp_path / "compile.json").read_text())["targets"]
    assert [one["target"] for one in found] == ["tpu-v5e:2x2"]
    assert (tmp_path / "tpu-v5e-2x2.txt").read_text() == "HLO"
    assert "tpu-v5e:2x2" in (tmp_path / "compile.md").read_text()


def test_weights_that_outgrow_the_chip_are_not_compiled(compilers, monkeypatch, capsys):
    monkeypatch.setattr(memory, "machine", lambda: 10**12)
    wide = ["--hiddens", "8000000"]
    assert main(["compile", "--target", "tpu-v5e:2x2", "h100:1x1x1", *wide]) == 2
    said = capsys.readouterr().out
    assert "no: the weights alone take 25.44 GB on each device, which has 16 GB" in said
    assert "80 GB" not in said.split("h100:1x1x1")[0]


def test_compiling_that_outgrows_this_machine_is_refused_beforehand(compilers, monkeypatch, capsys):
    monkeypatch.setattr(memory, "machine", lambda: 24 * 10**9)
    assert main(["compile", "--target", "h100:1x1x1", "--hiddens", "2100000"]) == 2
    assert "this machine has 24 GB of memory" in capsys.readouterr().err


@pytest.mark.parametrize("signal, said", [(9, "memory of this machine"), (6, "by signal 6")])
def test_a_compiler_that_dies_says_of_what(signal, said, monkeypatch):
    def died(*args, **options):
        raise ChildDied(-signal)

    monkeypatch.setattr(ahead, "Child", died)
    target = Target.parsed("h100:1x1x1")
    found = ahead._in_a_child(CompileConfig(), target)
    assert said in found.why and not found.fits


def test_fused_kernels_are_refused_for_several_devices_as_fit_refuses_them():
    """They train on one: figures of one would stand for all."""
    trainer = jax_mlp.Trainer(1, kernel="fused")
    with pytest.raises(NotFused, match="expected one device, got 8"):
        epoch(trainer, jax_mlp.MLPScratch(784, 10, (8,), 0.1), None, jax.devices() * 8)


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


@pytest.mark.parametrize(
    "name, asked, why",
    [
        ("tpu-v5e:2x2", ("--devices", "5"), "--devices 5, but it has 4"),
        ("tpu-v5e:3x3", (), "there is no such arrangement"),
        ("tpu-v5e:2x4", ("--devices", "0", "--kernel", "fused"), "expected one device, got 8"),
        ("h100:1x1x8", ("--devices", "8", "--kernel", "fused"), "expected one device, got 8"),
    ],
)
def test_what_the_compiler_finds_impossible_is_said_in_one_line(name, asked, why, capsys):
    if missing := Target.parsed(name).missing():
        pytest.skip(missing)
    assert main(["compile", "--target", name, *asked, "--data", "sample"]) == 2
    assert why in capsys.readouterr().out.splitlines()[1]
