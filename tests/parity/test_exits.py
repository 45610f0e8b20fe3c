"""A command ends with one line and its exit code, whatever a user or the machine does."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from parity import cli, exits
from parity.cli import main
from parity.config import DataConfig, memory

NOT_UTF8 = os.fsdecode(b"out\xff\xfe")
F32 = np.float32


def refused(arguments, capsys):
    """What a command says that ends with 2; nothing on stdout."""
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == "" and "Traceback" not in captured.err
    return " ".join(captured.err.replace("│", " ").split())


WITH_NUMBERS = {
    "epochs": ("check", "train", "bits", "trajectory", "sweep"),
    "lr": ("check", "train", "bits", "trajectory", "sweep"),
    "seed": ("check", "train", "bits", "trajectory", "sweep"),
    "batch-size": ("check", "train", "bits", "trajectory", "sweep"),
    "sigma": ("check", "train", "trajectory"),
    "clip": ("train",),
}
BAD = {
    "epochs": ("0", "-1", "1000000000000"),
    "lr": ("nan", "inf", "-0.1", "1e300"),
    "seed": ("-1", str(2**32), str(2**63), str(2**70)),
    "batch-size": ("0",),
    "sigma": ("nan", "inf", "1e39"),
    "clip": ("nan", "1e39"),
}


@pytest.mark.parametrize("option", BAD)
def test_a_number_out_of_range_is_named_with_the_range_by_every_command(option, capsys):
    for command in WITH_NUMBERS[option]:
        for value in BAD[option]:
            said = refused([command, f"--{option}", value], capsys)
            assert f"{option.replace('-', '_')} = " in said and ", expected " in said


def test_seeds_that_count_up_beyond_the_range_are_refused(capsys):
    last = str(2**32 - 1)
    for arguments in (["sweep", "--seeds", "2"], ["trajectory", "--seeds", "3"]):
        assert "the last one would be" in refused([*arguments, "--seed", last], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--out"], ["train", "--out"], ["bits", "--out"], ["trajectory", "--out"],
        ["sweep", "--out"], ["faults", "--out"], ["bench", "--out"], ["bench", "--json"],
        ["check", "--data"], ["train", "--data"], ["data", "--data"], ["convert", "x"],
    ],
)  # fmt: skip
def test_a_name_that_is_not_utf8_is_refused_before_the_work(arguments, capsys):
    assert "expected a name in UTF-8" in refused([*arguments, NOT_UTF8], capsys)


@pytest.mark.parametrize("command", ["check", "train", "bits", "trajectory", "sweep", "faults"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused([command, "--out", str(out)], capsys)
        assert f"{out}: expected a folder to write to" in said and "--out" in said


def test_the_file_of_the_benchmark_is_tried_before_the_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    json = ["--json", str(tmp_path / "file" / "x.json"), "--out", str(tmp_path / "out")]
    assert "name another with --json" in refused(["bench", *json], capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--hiddens"], ["train", "--hiddens"], ["bits", "--hiddens"],
        ["trajectory", "--hiddens"], ["sweep", "lr", "--hiddens"],
        ["sweep", "width", "--values"], ["bench", "--width"],
    ],
)  # fmt: skip
def test_what_cannot_fit_into_memory_is_told_before_it_is_allocated(arguments, capsys):
    said = refused([*arguments, "1000000000"], capsys)
    assert "takes " in said and " TB at least, and this machine has " in said


def test_copies_and_depth_count_in_the_memory_too(monkeypatch, capsys):
    monkeypatch.setattr(memory, "machine", lambda: 10**9)
    assert "5,000 x 784-256-10" in refused(["trajectory", "--copies", "5000"], capsys)
    said = refused(["bench", "--width", "1024", "--depth", "100"], capsys)
    assert "784-1024-1024-... (100 hidden layers)-1024-10, batch 256: takes 1.885 GB" in said


LONG = "9" * 5000
FILES = {
    "a number of 5,000 digits": {f"W{LONG}": np.ones((2, 2), F32), "b1": np.ones(2, F32)},
    "only such numbers": {f"{LONG}.weight": np.ones((2, 2), F32)},
    "one beside a layer": {f"a.{LONG}.kernel": np.ones((2, 2), F32), "W1": np.ones((2, 2), F32)},
    "nothing": {},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_other_names_is_no_crash_of_convert(kind, tmp_path, capsys):
    save_file(FILES[kind], tmp_path / "x")
    said = refused(["convert", str(tmp_path / "x"), str(tmp_path / "y")], capsys)
    assert "not usable as the weights" in said and len(said) < 2000
    assert not (tmp_path / "y").exists()


def test_a_tensors_name_cannot_steer_the_terminal(tmp_path, capsys):
    names = ("a\x1b[31m\x07", "b\nmlp-parity: agree", "net.0.weight\x1b[2J")
    save_file({name: np.zeros((2, 2), F32) for name in names}, tmp_path / "x")
    main(["convert", str(tmp_path / "x"), str(tmp_path / "y")])
    said = capsys.readouterr().err
    assert "\\x1b[31m" in said and "\x1b" not in said and "\nmlp-parity: agree" not in said


def test_names_with_a_prefix_of_many_digits_are_converted(tmp_path):
    layer = {f"{LONG}.1.weight": np.ones((3, 2), F32), f"{LONG}.1.bias": np.ones(3, F32)}
    save_file(layer, tmp_path / "x")
    assert main(["convert", str(tmp_path / "x"), str(tmp_path / "y")]) == 0


@pytest.mark.parametrize("side", [pytest.param("jax", marks=pytest.mark.slow), "torch"])
def test_a_training_that_diverges_keeps_its_history_and_says_so(side, tmp_path, capsys):
    small = ["--data", "sample", "--epochs", "1", "--hiddens", "8", "--lr", "1e38"]
    assert main(["train", "--side", side, *small, "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "has diverged" in captured.err
    written = sorted(path.name for path in tmp_path.glob("[!.]*"))
    assert written == ["curve.png", "history.csv", "history.json", "run.json"]
    if side == "jax":
        assert main(["bits", "--side", "jax", *small]) == 2
        assert "has diverged" in capsys.readouterr().err


def test_a_full_disk_is_told_with_the_file(tmp_path, capsys, monkeypatch):
    save_file({"W1": np.ones((2, 2), F32), "b1": np.ones(2, F32)}, tmp_path / "x")

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    said = refused(["convert", str(tmp_path / "x"), str(tmp_path / "y")], capsys)
    assert said == f"mlp-parity: {tmp_path / 'y'}: can't be written: No space left on device"


def crash(config):
    raise KeyError("a fault\nof ours")


def test_a_crash_has_a_code_of_its_own_and_says_what_to_report(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, DataConfig, crash)
    assert main(["data"]) == exits.CRASHED == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not yours: KeyError" in said
    path = next(word.rstrip(",") for word in said.split() if word.startswith("/"))
    with open(path) as file:
        text = file.read()
    os.unlink(path)
    assert "Traceback" in text and "in crash" in text and "numpy" in text


def test_a_crash_shows_its_traceback_where_it_is_asked_for(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, DataConfig, crash)
    monkeypatch.setenv("MLP_PARITY_DEBUG", "1")
    assert main(["data"]) == 70
    assert "in crash" in capsys.readouterr().err


def test_memory_that_runs_out_is_no_fault_of_the_program(monkeypatch, capsys):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: x")):

        def fail(config, error=error):
            raise error

        monkeypatch.setitem(cli.COMMANDS, DataConfig, fail)
        assert "not enough memory" in refused(["data"], capsys)


def shell(line, **environment):
    """(exit codes of the pipeline, output, stderr) of "mlp-parity ..." in bash."""
    script = f'mlp-parity() {{ "{sys.executable}" -m parity.cli "$@"; }}\n{line}\n'
    script += 'echo "${PIPESTATUS[@]}" >&3'
    read, write = os.pipe()
    done = subprocess.run(
        ["bash", "-c", script.replace(">&3", f">&{write}")],
        pass_fds=[write], capture_output=True, env=os.environ | environment, check=False,
    )  # fmt: skip
    os.close(write)
    with open(read) as codes:
        return codes.read().split(), done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("arguments", ["--help", "check --help", "data --data sample"])
def test_a_reader_that_stops_reading_is_no_error(arguments):
    (code, _), out, err = shell(f"mlp-parity {arguments} | head -1")
    assert code in ("0", "141") and err == "" and out.count("\n") == 1
    (code, _), _, err = shell(f"mlp-parity {arguments} 2>&1 | true")
    assert code in ("0", "141") and err == ""


def test_an_output_that_cannot_be_written_is_told():
    (code,), _, err = shell("mlp-parity data --data sample > /dev/full")
    assert code == "2" and err == "mlp-parity: output: No space left on device\n"
    (code,), _, _ = shell("mlp-parity --help >&- 2>&-")
    assert code == "0"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "C"},
    ],
)
def test_a_terminal_without_the_letters_gets_the_help_all_the_same(environment):
    (code,), out, err = shell("mlp-parity check --help", **environment)
    assert code == "0" and "Learning rate" in out and err == ""


def test_ctrl_c_that_falls_into_a_finalizer_comes_again(capsys):
    class Collected:
        def __del__(self):
            raise KeyboardInterrupt

    def command():
        Collected()
        time.sleep(60)
        return 0

    assert exits.guarded(command) == 130
    assert capsys.readouterr().err == "mlp-parity: interrupted\n"
