import contextlib
import dataclasses
import hashlib
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlp_core
from mlp_core import fetch, pinned
from mlp_core.fashion_mnist import (
    CLASSES,
    DEFAULT,
    STEPS,
    DataError,
    LabelError,
    check_in_memory,
    check_labels,
    describe,
    load,
    search,
)
from mlp_core.idx import encode
from mlp_core.pinned import FULL, LAYOUT, NAMES, SAMPLE

pytestmark = pytest.mark.usefixtures("alone")
HOUSE = Path(mlp_core.__file__).parents[1]
# What is found, and where


@pytest.mark.parametrize("how", ["gz", "flat", "layout"])
def test_a_named_folder_is_read_in_each_form(tmp_path, sources, how, tiny):
    folder = tiny.write(tmp_path / "mine", how)
    dataset = load(folder, sources=sources)
    tiny.check(dataset)
    assert dataset.source == str(folder)
    assert [(dataset.root / LAYOUT / name).read_bytes() for name in NAMES] == list(
        tiny.files.values()
    )


def test_files_in_torchvisions_layout_are_used_in_place(tmp_path, sources, tiny, cached):
    folder = tiny.write(tmp_path / "mine", "layout")
    for named in (folder, folder / LAYOUT):
        assert load(named, sources=sources).root == folder
    assert not cached()


def test_torchvision_reads_the_same_arrays_from_root():
    datasets = pytest.importorskip("torchvision.datasets")
    dataset = load("sample")
    for train, split in ((True, dataset.train), (False, dataset.val)):
        theirs = datasets.FashionMNIST(str(dataset.root), train=train, download=False)
        assert np.array_equal(theirs.data.numpy(), split.images)
        assert np.array_equal(theirs.targets.numpy(), split.labels)


def test_arrays_cannot_be_changed_nor_does_a_file_that_changes_later_change_them(
    tmp_path, sources, tiny
):
    folder = tiny.write(tmp_path / "mine", "layout")
    dataset = load(folder, sources=sources)
    for array in dataset.arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    for name in NAMES:
        (folder / LAYOUT / name).write_bytes(bytes(len(tiny.files[name])))
    tiny.check(dataset)
    check_in_memory(dataset)


def test_a_process_holds_one_copy_however_often_it_loads(tmp_path, sources, tiny):
    folder = tiny.write(tmp_path / "mine", "layout")
    one, other = load(folder, sources=sources), load(folder, sources=sources)
    assert all(a is b for a, b in zip(one.arrays, other.arrays, strict=True))


def test_arrays_that_changed_in_memory_are_told_by_their_file(tmp_path, sources, tiny):
    dataset = load(tiny.write(tmp_path / "mine"), sources=sources)
    labels = dataset.val.labels.copy()
    labels[3] ^= 64
    changed = dataclasses.replace(dataset, val=dataclasses.replace(dataset.val, labels=labels))
    with pytest.raises(DataError, match=f"{NAMES[3]} in memory: expected SHA-256"):
        check_in_memory(changed)


def test_places_are_tried_in_the_documented_order(
    tmp_path, sources, monkeypatch, http_folder, tiny
):
    tiny.write(tmp_path / "web")
    package = tmp_path / "package"
    tiny.write(package / sources.system.relative_to("/"))
    monkeypatch.setattr(fetch, "unpacked", lambda name: contextlib.nullcontext(package))
    sources = dataclasses.replace(sources, mirrors=(http_folder(tmp_path / "web"),))
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tiny.write(tmp_path / "environment")))
    load(tiny.write(tmp_path / "argument"), sources=sources)  # fills the cache
    tiny.write(tmp_path / "system")

    def found(data=None):
        *missed, (place, dataset) = search(data, sources)
        assert all(isinstance(reason, str) for _, reason in missed)
        assert [name for name, _ in STEPS][: len(missed) + 1] == [n for n, _ in missed] + [place]
        return place, dataset.source

    def empty_the_cache():
        shutil.rmtree(tmp_path / "cache")

    assert found(tmp_path / "argument") == ("data argument", str(tmp_path / "argument"))
    assert found() == ("$FASHION_MNIST_DIR", str(tmp_path / "environment"))
    monkeypatch.setenv("FASHION_MNIST_DIR", "")
    assert found() == ("cache", f"cache {tmp_path / 'cache' / 'tiny'}")
    empty_the_cache()
    assert found() == ("system folder", str(tmp_path / "system"))
    empty_the_cache()
    shutil.rmtree(tmp_path / "system")
    assert found() == ("download", sources.mirrors[0].rstrip("/"))
    empty_the_cache()
    sources = dataclasses.replace(sources, mirrors=())
    assert found()[0] == "Debian package"
    empty_the_cache()
    shutil.rmtree(package)
    assert found()[0] == "embedded sample" == STEPS[-1][0]


@pytest.mark.parametrize("by", ["argument", "environment"])
@pytest.mark.parametrize("fault", ["nowhere", "empty", "incomplete", "corrupt"])
def test_what_the_user_names_is_never_passed_over(tmp_path, sources, monkeypatch, by, fault, tiny):
    tiny.write(tmp_path / "system")
    load(sources=sources)  # cached, and in the system's folder: yet not what was asked for
    folder = tmp_path / "mine"
    if fault != "nowhere":
        folder.mkdir()
    if fault in ("incomplete", "corrupt"):
        tiny.write(folder)
        last = folder / f"{NAMES[3]}.gz"
        last.unlink()
    if fault == "corrupt":
        last.write_bytes(b"corrupt")
    if by == "environment":
        monkeypatch.setenv("FASHION_MNIST_DIR", str(folder))
    with pytest.raises(DataError, match=str(folder)):
        load(folder if by == "argument" else None, sources=sources)


def test_an_empty_name_is_refused_rather_than_taken_for_this_folder(
    tmp_path, sources, monkeypatch, tiny
):
    monkeypatch.chdir(tiny.write(tmp_path / "mine"))
    with pytest.raises(DataError, match="data '': expected a folder"):
        load("", sources=sources)
    tiny.check(load(".", sources=sources))


def test_a_mirror_with_other_content_is_passed_over(tmp_path, sources, http_folder, tiny, cached):
    tiny.write(tmp_path / "bad", **{NAMES[2]: tiny.files[NAMES[2]][:-1] + b"?"})
    tiny.write(tmp_path / "good")
    mirrors = (http_folder(tmp_path / "bad"), http_folder(tmp_path / "good"))
    dataset = load(sources=dataclasses.replace(sources, mirrors=mirrors))
    tiny.check(dataset)
    assert dataset.source == ", ".join(mirror.rstrip("/") for mirror in mirrors)
    assert cached() == sorted(NAMES)  # no partial download is left


# The embedded sample


def test_the_sample_has_six_and_one_thousand_images_of_all_classes_in_like_numbers():
    dataset = load("sample")
    assert dataset.is_sample
    assert dataset.source == "embedded sample (6,000 + 1,000 images)"
    for split, count in ((dataset.train, 6000), (dataset.val, 1000)):
        share = np.bincount(split.labels, minlength=10) / count
        assert len(split.images) == count
        assert share.min() > 0.085 and share.max() < 0.12


def test_the_sample_fits_in_four_megabytes_and_carries_no_date():
    paths = list((HOUSE / "mlp_core" / "sample").iterdir())
    names = ["LICENSE", *(f"{name}.gz" for name in NAMES)]
    assert sorted(path.name for path in paths) == sorted(names)
    assert sum(path.stat().st_size for path in paths) < 4_000_000
    assert all(path.read_bytes()[3:8] == bytes(5) for path in paths if path.suffix == ".gz")


def test_falling_through_to_the_sample_cannot_be_missed(sources, capsys):
    assert load(sources=sources).is_sample
    said = capsys.readouterr().err
    assert "NOT ALL OF FASHION-MNIST" in said and "6,000 + 1,000 images" in said
    assert all(f"{place}: " in said for place, _ in STEPS[:-1])


def test_asking_for_the_sample_is_quiet(capsys):
    load("sample")
    assert capsys.readouterr().err == ""


def test_a_damaged_sample_is_an_error(sources, tiny):
    other = dataclasses.replace(sources, sample=tiny.manifest)
    with pytest.raises(DataError, match="sample"):
        load(sources=other)


def test_the_sample_loads_from_a_zipped_package(tmp_path, fresh):
    package = tmp_path / "house.zip"
    with zipfile.ZipFile(package, "w") as archive:
        for path in (HOUSE / "mlp_core").rglob("*"):
            if path.suffix in (".py", ".gz"):
                archive.write(path, path.relative_to(HOUSE))
    code = "import mlp_core.fashion_mnist as f; print(f.__file__, len(f.load('sample').val.labels))"
    out = fresh(code, PYTHONPATH=str(package))
    assert out.startswith(str(package)) and out.endswith(" 1000\n")


# Labels, words, imports


def test_labels_that_name_no_class_are_refused_when_data_enters(tmp_path, sources, tiny):
    labels = encode(np.where(np.arange(20) > 17, 10, tiny.arrays[1]).astype(np.uint8))
    manifest = tiny.pin(tiny.files | {NAMES[1]: labels})
    sources = dataclasses.replace(sources, manifest=manifest)
    folder = tiny.write(tmp_path / "mine", "layout", **{NAMES[1]: labels})
    with pytest.raises(LabelError) as error:
        load(folder, sources=sources)
    assert str(tmp_path / "mine" / LAYOUT / NAMES[1]) in str(error.value)
    assert "got 10 at index 18 (the first of 2 such labels)" in str(error.value)


@pytest.mark.parametrize(
    "labels, words",
    [
        ([3, -1, 0], "expected integers in [0, 10), got -1 at index 1;"),
        (np.array([0, 9, 10], np.int64), "got 10 at index 2"),
        (np.array([-100]), "got -100 at index 0"),
        (np.array([255], np.uint8), "got 255 at index 0"),
        (np.array([1.0, 2.0]), "got dtype float64"),
        (np.array([np.nan]), "got dtype float64"),
    ],
)
def test_labels_outside_the_classes_are_named(labels, words):
    with pytest.raises(LabelError) as error:
        check_labels(labels, where="my labels")
    assert str(error.value).startswith("my labels: ") and words in str(error.value)
    assert isinstance(error.value, ValueError) and isinstance(error.value, DataError)


@given(st.lists(st.integers(-300, 300), min_size=1), st.integers(1, 256))
def test_labels_pass_exactly_if_all_lie_in_range(labels, num_classes):
    if all(0 <= label < num_classes for label in labels):
        check_labels(labels, num_classes)
    else:
        with pytest.raises(LabelError):
            check_labels(labels, num_classes)


def test_the_description_lists_files_sizes_checksums_and_classes(tmp_path, sources, tiny):
    dataset = load(tiny.write(tmp_path / "mine"), sources=sources)
    text = describe(dataset)
    assert str(tmp_path / "mine") in text and str(dataset.root / LAYOUT) in text
    for file in tiny.manifest.files:
        assert file.name in text and f"{file.size:,} bytes" in text and file.sha256 in text
    rows = [line.split() for line in text.splitlines()]
    counts = np.bincount(tiny.arrays[1], minlength=10)
    for name, count in zip(CLASSES, counts, strict=True):
        assert [*name.split(), str(count), "1"] in rows
    assert ["all", "20", "10"] in rows


def test_importing_and_a_cached_load_bring_no_framework_and_no_network_library(fresh):
    load("sample")
    code = (
        "import sys; from mlp_core.fashion_mnist import load; load('sample');"
        "heavy = 'torch torchvision jax flax requests tqdm pooch filelock matplotlib'.split();"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert fresh(code) == "[]\n"


# The real thing


REAL = os.environ.get("FASHION_MNIST_DIR")  # before `alone` hides it


@pytest.fixture
def full(alone):
    """Fashion-MNIST itself, from $FASHION_MNIST_DIR or Debian's folder, and now in the cache."""
    return load(REAL or DEFAULT.system)


@pytest.mark.full_data
def test_the_whole_has_as_many_images_of_each_class(full):
    assert not full.is_sample
    assert np.array_equal(np.bincount(full.train.labels), [6000] * 10)
    assert np.array_equal(np.bincount(full.val.labels), [1000] * 10)


@pytest.mark.full_data
def test_the_sample_is_the_head_of_the_whole(full):
    sample = load("sample")
    for part, whole in ((sample.train, full.train), (sample.val, full.val)):
        assert np.array_equal(part.images, whole.images[: len(part.images)])
        assert np.array_equal(part.labels, whole.labels[: len(part.labels)])
    assert [f.name for f in SAMPLE.files] == [f.name for f in FULL.files]


@pytest.mark.full_data
def test_the_second_start_verifies_every_byte_in_well_under_a_second(full):
    start = time.perf_counter()
    again = load(REAL or DEFAULT.system)
    assert time.perf_counter() - start < 0.5
    assert not again.is_sample


@pytest.mark.full_data
def test_debians_files_are_upstreams_but_for_the_gzip_header():
    # The table of torchvision.datasets.FashionMNIST, and the dates that upstream's files carry;
    # Debian strips name and date from the header.
    upstream = {
        "train-images-idx3-ubyte": (1504176606, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        "train-labels-idx1-ubyte": (1504176606, "25c81989df183df01b3e8a0aad5dffbe"),
        "t10k-images-idx3-ubyte": (1504176627, "bef4ecab320f06d8554ea6380940ec79"),
        "t10k-labels-idx1-ubyte": (1504176627, "bb300cfdad3c16e7a12a480ee83cd310"),
    }
    if not DEFAULT.system.is_dir():
        pytest.skip(f"no {DEFAULT.system}")
    for file in FULL.files:
        date, md5 = upstream[file.name]
        stripped = (DEFAULT.system / f"{file.name}.gz").read_bytes()
        pinned.verify(DEFAULT.system / f"{file.name}.gz", file, FULL)
        head = b"\x1f\x8b\x08\x08" + date.to_bytes(4, "little") + b"\0\x03"
        restored = head + file.name.encode() + b"\0" + stripped[10:]
        assert hashlib.md5(restored, usedforsecurity=False).hexdigest() == md5
