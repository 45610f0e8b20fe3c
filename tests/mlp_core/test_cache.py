import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from mlp_core import cache, pinned
from mlp_core.fashion_mnist import load, search
from mlp_core.idx import DataError
from mlp_core.pinned import LAYOUT, NAMES

pytestmark = pytest.mark.usefixtures("alone")


def test_a_second_start_needs_no_source(tmp_path, sources, tiny):
    load(tiny.write(tmp_path / "mine"), sources=sources)
    shutil.rmtree(tmp_path / "mine")
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


def quietly_changed(path, how):
    """Other bytes in the same file: same size, inode and times."""
    status, content = path.stat(), bytearray(path.read_bytes())
    if how == "one bit":
        content[-1] ^= 1
    elif how == "two bytes that changed places":
        content[-9:] = reversed(content[-9:])
    else:
        content = bytes(len(content))
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_size) == (status.st_ino, status.st_size)
    assert after.st_mtime_ns == status.st_mtime_ns


CHANGES = ["one bit", "two bytes that changed places", "all zero"]


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("name", NAMES[::2])
def test_a_cached_file_that_changed_unseen_is_made_anew_and_this_is_told(
    tmp_path, sources, capsys, tiny, name, how
):
    folder = tiny.write(tmp_path / "mine")
    tiny.write(tmp_path / "system")
    for data in (folder, None):  # from the folder that was named, or that of the system
        path = load(data, sources=sources).root / LAYOUT / name
        quietly_changed(path, how)
        tiny.check(load(data, sources=sources))
        assert f"damaged, to be replaced: {path}" in capsys.readouterr().err
        assert path.read_bytes() == tiny.files[name]


@pytest.mark.parametrize("how", CHANGES)
def test_a_damaged_copy_of_the_sample_is_made_anew(capsys, how):
    path = load("sample").root / LAYOUT / NAMES[1]
    before = path.read_bytes()
    quietly_changed(path, how)
    load("sample")
    assert path.read_bytes() == before and str(path) in capsys.readouterr().err


@pytest.mark.parametrize("form", ["gz", "flat", "layout"])
@pytest.mark.parametrize("how", CHANGES)
def test_a_folder_that_was_named_and_changed_unseen_is_refused(tmp_path, sources, tiny, form, how):
    folder = tiny.write(tmp_path / "mine", form)
    load(folder, sources=sources)
    (path,) = folder.rglob(f"{NAMES[0]}*")
    quietly_changed(path, how)
    with pytest.raises(DataError, match=str(path)):
        load(folder, sources=sources)


def test_a_damaged_cache_that_no_source_can_mend_is_passed_over(tmp_path, sources, capsys, tiny):
    folder = tiny.write(tmp_path / "mine")
    path = load(folder, sources=sources).root / LAYOUT / NAMES[0]
    shutil.rmtree(folder)
    quietly_changed(path, "one bit")
    assert load(sources=sources).is_sample
    said = capsys.readouterr().err
    assert "NOT ALL OF FASHION-MNIST" in said and str(path) in said


@pytest.mark.parametrize("known", [b"", b"[]", b"{", b"\xff", b'{"a": [1]}', None])
def test_what_is_known_of_gzipped_files_saves_time_and_decides_nothing(
    tmp_path, sources, monkeypatch, tiny, known
):
    folder, memory = tiny.write(tmp_path / "mine"), tmp_path / "cache" / "inflated.json"
    load(folder, sources=sources)
    if known is not None:
        memory.write_bytes(known)
        load(folder, sources=sources)
    assert len(json.loads(memory.read_bytes())) >= 4
    monkeypatch.setattr(pinned.gzip, "GzipFile", None)  # nothing is inflated once more
    tiny.check(load(folder, sources=sources))


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


def test_a_cache_on_a_full_disk_is_replaced_for_this_process(
    tmp_path, sources, monkeypatch, capsys, tiny
):
    fsync = os.fsync

    def full(file):
        if str(tmp_path / "cache") in os.readlink(f"/proc/self/fd/{file}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pinned.os, "fsync", full)
    found = load(tiny.write(tmp_path / "mine"), sources=sources)
    tiny.check(found)
    assert found.root.parent.parent == Path(tempfile.gettempdir())
    assert "can't be written (No space left on device)" in capsys.readouterr().err


def test_nested_brackets_in_what_the_cache_remembers_end_nothing(
    tmp_path, sources, monkeypatch, tiny
):
    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "inflated.json").write_text("[" * 100_000)
    tiny.check(load(tiny.write(tmp_path / "mine"), sources=sources))
