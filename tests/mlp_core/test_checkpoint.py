"""Checkpoints: whole or not at all, believed when their SHA-256 is right, errors that say what to
do."""

import json
import os
import random
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from mlp_core import checkpoint, random_states
from mlp_core.checkpoint import Checkpoint, CheckpointError, Checkpoints, Damaged, read
from mlp_core.locking import locked
from mlp_core.packing import restored, stored

ARRAYS = {
    "W": np.arange(6, dtype=np.float32).reshape(2, 3),
    "nothing": np.empty((0, 3)),
    "alone": np.array(7, np.int64),
    "flags": np.array([True, False]),
    "half": np.array([1.5, -2], ml_dtypes.bfloat16),
    "broken": np.array([np.nan, np.inf]),
}
FACTS = {"epoch": 3, "board": {"dict": []}, "text": "ä"}


@pytest.fixture(scope="module")
def encoded():
    return Checkpoint(12, ARRAYS, FACTS).encoded()


def test_a_checkpoint_comes_back_in_every_bit(tmp_path):
    path = Checkpoints(tmp_path).write(Checkpoint(12, ARRAYS, FACTS))
    found = read(path)
    assert (found.step, found.facts, found.path) == (12, FACTS, path)
    for name, array in ARRAYS.items():
        got = found.arrays[name]
        assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_the_last_two_are_kept_and_the_newest_is_found(tmp_path):
    place = Checkpoints(tmp_path)
    assert place.newest() is None
    for step in (1, 20, 300):
        place.write(Checkpoint(step, ARRAYS, {}))
    assert [path.name[-15:-12] for path in place.paths()] == ["300", "020"]
    assert place.newest().step == 300


@settings(max_examples=100)
@given(st.data())
def test_no_flipped_or_missing_byte_goes_unseen(encoded, tmp_path_factory, data):
    content = bytearray(encoded)
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[place:]
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(content)
    try:
        found = read(path)
    except CheckpointError as error:
        assert "damaged.safetensors" in str(error)
        return
    # What the header may hold more of without another meaning: white space around its JSON.
    assert all(found.arrays[n].tobytes() == a.tobytes() for n, a in ARRAYS.items())
    assert found.facts == FACTS


@settings(max_examples=50)
@given(st.binary(max_size=300), st.booleans())
def test_any_other_file_is_refused_as_damaged(tmp_path_factory, content, headed):
    path = tmp_path_factory.getbasetemp() / "other.safetensors"
    path.write_bytes(len(content).to_bytes(8, "little") * headed + content)
    with pytest.raises(Damaged):
        read(path)


FORGED = {
    "deep JSON": "[" * 100_000,
    "no JSON": "x",
    "no object": "[]",
    "a negative step": json.dumps({"step": -1, "types": {}, "facts": {}}),
    "no facts": json.dumps({"step": 1, "types": {}, "facts": 3}),
    "an unknown type": json.dumps({"step": 1, "types": {"W": "object"}, "facts": {}}),
    "a type of no array": json.dumps({"step": 1, "types": {"x": "bfloat16"}, "facts": {}}),
    "a huge number": '{"step": 1e999, "types": {}, "facts": {}}',
}


@pytest.mark.parametrize("text", FORGED.values(), ids=FORGED)
def test_a_forged_state_with_a_right_sum_is_refused(tmp_path, text):
    arrays = {"W": np.zeros(3, np.float32)}
    about = {"format": checkpoint.FORMAT, "version": "1", "state": text}
    about["sha256"] = checkpoint.digest(about, arrays)
    (tmp_path / "x").write_bytes(save(arrays, metadata=about))
    with pytest.raises(Damaged, match="not a checkpoint"):
        read(tmp_path / "x")


def test_the_older_one_is_taken_where_the_newest_is_damaged_and_it_is_said(tmp_path, capsys):
    place = Checkpoints(tmp_path)
    for step in (1, 2):
        path = place.write(Checkpoint(step, ARRAYS, {}))
    path.write_bytes(path.read_bytes()[:-1])
    assert place.newest().step == 1
    said = capsys.readouterr().err
    assert "000002.safetensors: not a whole checkpoint" in said and "going on from the one" in said
    place.paths()[1].write_bytes(b"")
    with pytest.raises(CheckpointError, match="start anew in another folder, or empty this one"):
        place.newest()


def test_a_newer_format_is_no_damage_and_says_to_update(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    Checkpoints(tmp_path).write(Checkpoint(1, {}, {}))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="of format 2.*update") as caught:
        Checkpoints(tmp_path).newest()
    assert not isinstance(caught.value, Damaged)


def test_a_full_disk_leaves_the_last_one_and_says_what_to_do(tmp_path, monkeypatch):
    place = Checkpoints(tmp_path)
    place.write(Checkpoint(1, ARRAYS, {}))

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(CheckpointError, match=r"No space left.*last whole one is step-0+1\.") as e:
        place.write(Checkpoint(2, ARRAYS, {}))
    assert "make room" in str(e.value)
    assert place.newest().step == 1 and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    left = tmp_path / ".step-000000000007.safetensors.0123"
    left.write_bytes(b"half")
    with Checkpoints(tmp_path).opened():
        assert not left.exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="expected a folder"):
        with Checkpoints(tmp_path / "file").opened():
            pass


def test_two_processes_do_not_share_a_folder_and_a_dead_one_holds_none(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from mlp_core.locking import locked\n"
        f"with locked(Path({str(tmp_path)!r}), ValueError, ''): print('has it', flush=True); "
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert process.stdout.readline() == "has it\n"
        with pytest.raises(CheckpointError, match="another run is writing there now"):
            with Checkpoints(tmp_path).opened():
                pass
    finally:
        process.kill()
        process.communicate()
    with locked(tmp_path, ValueError, ""):
        pass


def test_nested_values_come_back_as_they_were_types_and_keys_too():
    arrays: dict = {}
    value = {0: {"a": np.arange(3)}, "b": [1, (2.5, float("inf"), None), True], (1, 2): np.eye(2)}
    packed = json.loads(json.dumps(stored(value, arrays, "x", lambda leaf: None)))
    back = restored(packed, arrays, lambda array: array)
    assert list(back) == list(value) and back["b"] == value["b"]
    assert np.array_equal(back[0]["a"], np.arange(3)) and np.array_equal(back[1, 2], np.eye(2))
    with pytest.raises(TypeError, match="keeps a object, which a checkpoint can't hold"):
        stored({"x": object()}, arrays, "optimizer", lambda leaf: None)
    for wrong in ({"dict": 3}, {"array": "y"}, {"list": [{"run": "rm"}]}, 1.5, {}):
        with pytest.raises((ValueError, TypeError)):
            restored(wrong, arrays, lambda array: array)


def test_generators_of_python_and_numpy_go_on_where_they_were():
    random.gauss(0, 1)  # draws two, and keeps one
    np.random.randn()
    held = random_states.held()
    drawn = random.gauss(0, 1), random.random(), np.random.randn(3).tolist()
    random.seed(0)
    np.random.seed(0)
    random_states.restore(held)
    assert (random.gauss(0, 1), random.random(), np.random.randn(3).tolist()) == drawn
