import os
import shutil
import tempfile
from pathlib import Path

import pytest

from mlp_core import cache, pinned
from mlp_core.fashion_mnist import load, search
from mlp_core.pinned import LAYOUT, NAMES

pytestmark = pytest.mark.usefixtures("alone")


def test_a_second_start_needs_no_source_and_does_not_read_the_images(
    tmp_path, sources, monkeypatch, tiny
):
    load(tiny.write(tmp_path / "mine"), sources=sources)
    shutil.rmtree(tmp_path / "mine")
    monkeypatch.setattr(pinned, "verify", None)
    dataset = load(sources=sources)
    tiny.check(dataset)
    assert dataset.source == f"cache {tmp_path / 'cache' / 'tiny'}"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["flipped", "truncated", "gone", "a folder"])
def test_a_damaged_cache_is_rebuilt_from_the_next_source(tmp_path, sources, name, fault, tiny):
    tiny.write(tmp_path / "system")
    path = load(sources=sources).root / LAYOUT / name
    content = path.read_bytes()
    path.unlink()
    if fault == "flipped":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif fault == "truncated":
        path.write_bytes(content[:-1])
    elif fault == "a folder":
        path.mkdir()
    outcomes = list(search(None, sources))
    assert outcomes[2][0] == "cache" and str(path) in outcomes[2][1]
    if fault == "a folder":  # not ours to delete
        assert outcomes[-1][0] == "embedded sample"
    else:
        assert outcomes[-1][0] == "system folder"
        assert path.read_bytes() == content


def test_a_byte_changed_in_place_is_noticed(tmp_path, sources, tiny):
    tiny.write(tmp_path / "system")
    path = load(sources=sources).root / LAYOUT / NAMES[0]
    with path.open("r+b") as file:
        file.seek(500)
        byte = file.read(1)
        file.seek(500)
        file.write(bytes([byte[0] ^ 128]))
    tiny.check(load(sources=sources))


@pytest.mark.parametrize("seals", [b"", b"[]", b"{", b"\xff", b'{"a": 1}'])
def test_damaged_seals_cost_a_check_and_nothing_else(tmp_path, sources, seals, tiny):
    load(tiny.write(tmp_path / "mine"), sources=sources)
    (tmp_path / "cache" / "verified.json").write_bytes(seals)
    tiny.check(load(sources=sources))


def test_what_a_killed_process_left_behind_is_cleared(tmp_path, sources, tiny, cached):
    left = tmp_path / "cache" / "tiny" / LAYOUT / f".{NAMES[0]}.12345.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    tiny.check(load(tiny.write(tmp_path / "mine"), sources=sources))
    assert cached() == sorted(NAMES)


def test_an_interrupt_while_copying_leaves_no_file(tmp_path, sources, monkeypatch, tiny, cached):
    def interrupted(*paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(pinned.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(tiny.write(tmp_path / "mine"), sources=sources)
    assert cached() == []


def test_a_cache_that_cannot_be_written_is_replaced_for_this_process(
    tmp_path, sources, monkeypatch, capsys, tiny
):
    (tmp_path / "file").touch()  # permissions would not stop root
    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path / "file" / "cache"))
    folder = tiny.write(tmp_path / "mine")
    first = load(folder, sources=sources)
    tiny.check(first)
    said = capsys.readouterr().err
    assert str(tmp_path / "file" / "cache") in said and "$MLP_PARITY_CACHE" in said
    assert first.root.parent.parent == Path(tempfile.gettempdir())
    assert load(sources=sources).root == first.root  # and no second notice
    assert capsys.readouterr().err == ""


def test_processes_that_fill_the_cache_at_once_all_get_the_data(fresh):
    code = "from mlp_core.fashion_mnist import load; print(load('sample').train.images.sum())"
    first = fresh(code, code, code)
    assert first == [f"{load('sample').train.images.sum()}\n"] * 3


def test_programs_that_were_not_read_for_longest_go_when_there_are_too_many(tmp_path):
    for i in range(6):
        (tmp_path / str(i)).write_bytes(bytes(100))
        os.utime(tmp_path / str(i), (10 * (i ^ 1), 1000))  # 1 was read first, then 0, 3, 2, ...
    cache._prune(tmp_path, limit=350)
    assert sorted(os.listdir(tmp_path)) == ["2", "4", "5"]
    cache._prune(tmp_path / "none", limit=350)  # deleted by another process: nothing to do
