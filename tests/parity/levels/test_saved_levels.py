"""A check goes on at the level where it was killed, to the verdict of one that never was."""

import re
import types

import flax.nnx as nnx
import numpy as np
import optax
import pytest
import torch

import parity
from mlp_core.checkpoint import CheckpointError, Checkpoints
from parity.levels import question

LEVELS = ["inputs", "every step", "curve", "refit"]
PLACES = ["inputs bits", "every step float32", "curve float64", "curve float32", "refit float64"]


class Ours(nnx.Module):
    def __init__(self):
        self.out = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, X):
        return self.out(X)


class Theirs(torch.nn.Module):
    def __init__(self, shift=0.0):
        super().__init__()
        self.out, self.shift = torch.nn.Linear(3, 2), shift

    def forward(self, X):
        return self.out(X) * (1 + self.shift)


class Killed(Exception):
    pass


def ask(shift=0.0, rate=0.1, **more):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((12, 3), np.float32), rng.integers(0, 2, 12)
    torch.manual_seed(0)
    options = {
        "weights": {"out.kernel": "out.weight", "out.bias": "out.bias"},
        "optimizer": (lambda p: torch.optim.SGD(p, rate), optax.sgd(rate)),
        "levels": LEVELS,
        "epochs": 2,
        "batch_size": 6,
    }
    return parity.check(Ours(), Theirs(shift), data, **options | more)


def told(verdict):
    """All of it, but for times."""

    def timeless(value):
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k != "seconds"}
            return {k: timeless(v) for k, v in kept.items()}
        if isinstance(value, list):
            return [timeless(v) for v in value]
        return re.sub(r"[\d.]+ s\b", "", value) if isinstance(value, str) else value

    curves = {run: {n: c.tolist() for n, c in of.items()} for run, of in verdict.curves.items()}
    return timeless(verdict.to_json()), curves


def killed_at(place, folder, **options):
    """Everything that was begun, of a check that is killed within a level."""
    begun = []

    def on_start(what):
        begun.append(what)
        if what == place:
            raise Killed

    with pytest.raises(Killed):
        ask(on_start=on_start, checkpoint=folder, **options)
    return begun


@pytest.mark.slow
def test_killed_within_any_level_it_goes_on_at_that_level_to_the_same_verdict(tmp_path):
    shift = 1e-3  # a pair that differs: what the verdict says of it is longer
    whole = ask(shift)
    assert not whole.ok
    done = 0
    for place in PLACES[1], PLACES[3]:
        begun = killed_at(place, tmp_path, shift=shift, resume=True)
        assert begun[0] == PLACES[done] and begun[-1] == place
        done = PLACES.index(place)
    begun = []
    found = ask(shift, checkpoint=tmp_path, resume=True, on_start=begun.append)
    assert begun[0] == PLACES[done] and told(found) == told(whole)
    begun.clear()  # once more: there is nothing left to do
    assert told(ask(shift, checkpoint=tmp_path, resume=True, on_start=begun.append)) == told(whole)
    assert not begun


def test_an_altered_file_is_told_of_and_the_one_before_it_is_taken(tmp_path, capsys):
    levels = ["inputs", "weights"]
    whole = told(ask(levels=levels, checkpoint=tmp_path))
    newest, before = Checkpoints(tmp_path).paths()
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    begun = []
    found = ask(levels=levels, checkpoint=tmp_path, resume=True, on_start=begun.append)
    assert f"going on from the one before it, {before.name}" in capsys.readouterr().err
    assert begun == ["weights bits"] and told(found) == whole
    for path in Checkpoints(tmp_path).paths():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no older one is whole"):
        ask(levels=levels, checkpoint=tmp_path, resume=True)


def test_results_of_another_question_are_refused_by_what_differs(tmp_path, monkeypatch):
    other = types.ModuleType("other")
    other.__file__ = str(tmp_path / "other.py")
    (tmp_path / "other.py").write_text("rate = 1")
    monkeypatch.setitem(question.sys.modules, "other", other)
    levels = ["inputs", "step"]
    killed_at("step float64", tmp_path / "saved", levels=levels)
    for said, changed in {
        "epochs = 2, now 3": {"epochs": 3},
        "levels = ": {"levels": ["logits"]},
        "torch: program = ": {"shift": 1e-3},
        "jax: program = ": {"rate": 0.2},
        "known = ": {"known": [("logits", "", "a reason")]},
    }.items():
        with pytest.raises(CheckpointError, match=said):
            ask(**{"levels": levels} | changed, checkpoint=tmp_path / "saved", resume=True)
    with pytest.raises(CheckpointError, match="go on from it with resume"):
        ask(levels=levels, checkpoint=tmp_path / "saved")
    (tmp_path / "other.py").write_text("rate = 2")
    with pytest.raises(CheckpointError, match="code of other = "):
        ask(levels=levels, checkpoint=tmp_path / "saved", resume=True)
    with pytest.raises(CheckpointError, match="expected checkpoint=FOLDER"):
        ask(levels=levels, resume=True)


def test_a_model_that_lies_in_no_file_is_refused_with_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(Theirs, "__module__", "__main__")
    monkeypatch.setitem(question.sys.modules, "__main__", types.ModuleType("__main__"))
    with pytest.raises(CheckpointError, match="Theirs lies in no file"):
        ask(levels=["inputs"], checkpoint=tmp_path)
