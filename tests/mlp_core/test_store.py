"""Compiled programs that were cut short or altered are deleted, and whole ones are not read."""

import json
import zlib

import pytest

from mlp_core import store
from mlp_core.files import read_json


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "xla"
    made.mkdir()
    for name in ("a", "b", "c"):
        (made / f"{name}-cache").write_bytes(zlib.compress(name.encode() * 1000))
    (made / "a-atime").write_bytes(bytes(8))
    return made


def names(folder):
    return sorted(path.name for path in folder.glob("*-cache"))


def test_what_a_killed_process_left_is_deleted_if_it_is_cut_short(folder):
    (folder / "b-cache").write_bytes((folder / "b-cache").read_bytes()[:-3])
    (folder / "c-cache").write_bytes(b"")
    (folder / "d-cache").write_bytes(b"\x28\xb5\x2f\xfd no checksum in it")
    assert sorted(store.heal(folder)) == ["b-cache", "c-cache", "d-cache"]
    assert names(folder) == ["a-cache"] and store.heal(folder) == []


def test_what_was_altered_since_it_was_listed_is_deleted_though_it_inflates(folder):
    store.seal(folder)
    assert store.heal(folder) == []
    (folder / "b-cache").write_bytes(zlib.compress(b"B" * 1000))
    assert store.heal(folder) == ["b-cache"]


def test_a_folder_that_is_as_it_was_listed_is_not_read(folder, monkeypatch):
    store.seal(folder)
    monkeypatch.setattr(store.hashlib, "sha256", lambda content: pytest.fail("it was read"))
    assert store.heal(folder) == []
    store.seal(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "", "[]", '{"a-cache": 3}', '{"a-cache": [1, 2, 3]}', "\xff"]
)
def test_a_damaged_list_ends_nothing_and_is_written_anew(folder, text):
    (folder.parent / "xla.json").write_text(text, "latin-1")
    assert store.heal(folder) == []
    store.seal(folder)
    assert sorted(json.loads((folder.parent / "xla.json").read_text())) == names(folder)


def test_links_are_left_alone(folder, tmp_path):
    (tmp_path / "mine").write_bytes(b"precious")
    (folder / "z-cache").symlink_to(tmp_path / "mine")
    assert store.heal(folder) == [] and (tmp_path / "mine").read_bytes() == b"precious"


def test_no_folder_has_no_programs(tmp_path):
    assert store.heal(tmp_path / "none") == []
    store.seal(tmp_path / "none")


def test_json_that_cannot_be_read_is_none(tmp_path):
    (tmp_path / "deep").write_text("[" * 100_000)
    assert read_json(tmp_path / "deep") is None and read_json(tmp_path / "absent") is None
