import gzip
import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlp_core.fashion_mnist import DataError, load
from mlp_core.idx import encode, header
from mlp_core.pinned import LAYOUT, NAMES, Manifest, verify

pytestmark = pytest.mark.usefixtures("alone")

IMAGES, LABELS = NAMES[0], NAMES[1]
CONTENT_FAULTS = {
    "empty": (IMAGES, lambda f: b"", "got an empty file"),
    "cut in the header": (IMAGES, lambda f: f[IMAGES][:9], "a header of 16 bytes, got 9 bytes"),
    "truncated": (IMAGES, lambda f: f[IMAGES][:-1], "15,696 bytes of IDX, got 15,695 bytes"),
    "trailing garbage": (IMAGES, lambda f: f[IMAGES] + b"\n", "15,696 bytes of IDX, got more"),
    "wrong magic": (IMAGES, lambda f: b"\0\0\x09\x03" + f[IMAGES][4:], "got 00 00 09 03"),
    "other size": (
        IMAGES,
        lambda f: header((20, 28, 27)) + f[IMAGES][16:],
        "expected uint8 (20, 28, 28), got uint8 (20, 28, 27)",
    ),
    "labels as images": (IMAGES, lambda f: f[LABELS], f"is this {LABELS} under another name?"),
    "other part": (LABELS, lambda f: f[NAMES[3]], f"is this {NAMES[3]} under another name?"),
    "one wrong label": (LABELS, lambda f: f[LABELS][:-1] + b"\x0b", "expected SHA-256"),
    "one wrong pixel": (IMAGES, lambda f: f[IMAGES][:-1] + b"\x0b", "corrupt; fetch it again"),
}
GZIP_FAULTS = {
    "no gzip": (gzip.decompress, "expected a whole gzip file"),
    "cut gzip": (lambda z: z[:-9], "expected a whole gzip file"),
    "empty gzip": (lambda z: b"", "got an empty file"),
    "wrong gzip checksum": (lambda z: z[:-8] + b"1234" + z[-4:], "CRC check failed"),
    "garbage after gzip": (lambda z: z + b"garbage", "expected a whole gzip file"),
    "second member": (lambda z: z + z, "got more"),
}


@pytest.fixture
def refused(sources, cached):
    """refused(folder, path, words): `path` in `folder` is, with these words, and not cached."""

    def check(folder, path, words):
        with pytest.raises(DataError) as error:
            load(folder, sources=sources)
        assert str(error.value).startswith(f"{path}: expected ")
        assert words in str(error.value)
        assert path.name.removesuffix(".gz") not in "".join(cached())

    return check


@pytest.mark.parametrize("how", ["gz", "flat", "layout"])
@pytest.mark.parametrize("fault", CONTENT_FAULTS)
def test_wrong_content_is_refused_by_name_and_not_cached(tmp_path, tiny, refused, how, fault):
    name, content, words = CONTENT_FAULTS[fault]
    folder = tiny.write(tmp_path / "mine", how, **{name: content(tiny.files)})
    path = {"gz": folder / f"{name}.gz", "flat": folder / name, "layout": folder / LAYOUT / name}
    refused(folder, path[how], words)


@pytest.mark.parametrize("fault", GZIP_FAULTS)
def test_a_damaged_gzip_file_is_refused_by_name_and_not_cached(tmp_path, tiny, refused, fault):
    damage, words = GZIP_FAULTS[fault]
    folder = tiny.write(tmp_path / "mine")
    path = folder / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, path, words)


def test_two_files_of_one_shape_that_changed_names_are_told_apart(tmp_path, tiny):
    arrays = [*tiny.arrays[:2], tiny.arrays[0][::-1], tiny.arrays[1][::-1]]
    files = dict(zip(NAMES, map(encode, arrays), strict=True))
    digests = tuple(hashlib.sha256(content).hexdigest() for content in files.values())
    manifest = Manifest.of("twins", 20, 20, digests)
    path = tmp_path / IMAGES
    path.write_bytes(files[NAMES[2]])
    with pytest.raises(DataError, match=f"this is {NAMES[2]} under another name"):
        verify(path, manifest.files[0], manifest)


def test_a_gzip_bomb_is_inflated_by_one_byte_too_many_at_most(tmp_path, tiny):
    bomb, file, inflated = tmp_path / "bomb.gz", tiny.manifest.files[0], []
    bomb.write_bytes(gzip.compress(tiny.files[IMAGES] + bytes(50_000_000)))
    with pytest.raises(DataError, match="got more"):
        verify(bomb, file, tiny.manifest, lambda chunk: inflated.append(len(chunk)))
    assert sum(inflated) == file.size + 1


def damaged(content, draw):
    """`content` cut short, or with one byte changed, added or left out."""
    at = draw(st.integers(0, len(content) - 1))
    byte = bytes([draw(st.integers(0, 255))])
    tails = [b"", byte + content[at + 1 :], byte + content[at:], content[at + 1 :]]
    return content[:at] + draw(st.sampled_from(tails))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(NAMES), how=st.sampled_from(["gz", "flat", "layout"]))
def test_damaged_files_raise_a_data_error_or_still_hold_the_right_content(
    sources, monkeypatch, data, name, how, tiny
):
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("MLP_PARITY_CACHE", folder + "/cache")
        mine = tiny.write(Path(folder, "mine"), how)
        (path,) = mine.rglob(name + "*")
        before = path.read_bytes()
        path.write_bytes(damaged(before, data.draw))
        try:
            dataset = load(mine, sources=sources)
        except DataError as error:
            assert str(error).startswith(str(path))
        else:  # only gzip has bytes without a meaning, as its date
            assert how == "gz" or path.read_bytes() == before
            tiny.check(dataset)
