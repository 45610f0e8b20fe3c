"""Commands of several processes: what doesn't fit together is told, with exit code 2."""

import pytest

from parity.cli import main


@pytest.mark.parametrize(
    "arguments, launched, message",
    [
        (["train", "--side", "torch"], "2", "2 processes were launched, and each would"),
        (["train", "--side", "torch", "--processes", "2"], "1", "2 processes were asked for"),
        (["bits", "--side", "jax", "--processes", "4"], "2", "4 processes were asked for, but 2"),
        (["bits", "--processes", "2"], "2", "--processes needs --side jax or --side torch"),
        (["train", "--side", "torch", "--devices", "2"], "1", "for Torch, --processes gives each"),
    ],
)  # fmt: skip
def test_processes_that_do_not_fit_together_are_refused(
    arguments, launched, message, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("WORLD_SIZE", launched)
    assert main([*arguments, "--data", "sample", "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
