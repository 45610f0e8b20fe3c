import gzip
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlp_core.idx import DataError, encode, header, open_idx, parse_header

byte_arrays = arrays(np.uint8, array_shapes(max_dims=4, min_side=0, max_side=5))


def opened(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x")
        path.write_bytes(content)
        return open_idx(path)


@given(byte_arrays)
def test_an_array_round_trips(array):
    back = opened(encode(array))
    assert back.shape == array.shape and back.dtype == np.uint8
    assert np.array_equal(back, array)


def test_the_header_is_the_one_of_the_published_files():
    assert header((60_000, 28, 28)).hex() == "000008030000ea600000001c0000001c"
    assert header((10_000,)).hex() == "0000080100002710"
    assert parse_header(header((60_000, 28, 28)) + b"pixels") == (60_000, 28, 28)


def test_an_opened_array_is_mapped_and_read_only():
    array = opened(encode(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert type(array) is np.ndarray and isinstance(array.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


GOOD = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "got an empty file"),
        (b"\x00\x00\x0d\x02" + GOOD[4:], "got 00 00 0d 02"),  # float32
        (b"\x00\x00\x08\x00", "got 00 00 08 00"),
        (b"\x89PNG\r\n", "got 89 50 4e 47"),
        (GOOD[:7], "expected a header of 12 bytes, got 7 bytes"),
        (GOOD[:-1], "expected 24 bytes for uint8 (3, 4), got 23 bytes"),
        (GOOD + b"\n", "got 25 bytes"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "got 16 bytes"),  # announces 2^96 bytes
        (gzip.compress(GOOD, mtime=0), "name it *.gz"),
    ],
)
def test_a_file_that_is_not_the_announced_array_is_refused(content, words):
    with pytest.raises(DataError) as error:
        opened(content)
    assert words in str(error.value)


@given(st.binary(max_size=40) | st.binary(max_size=12).map(lambda tail: GOOD[:4] + tail))
def test_any_bytes_open_as_what_they_encode_or_raise_a_data_error(content):
    try:
        array = opened(content)
    except DataError:
        return
    assert encode(array) == content


def test_a_missing_file_and_a_folder_are_data_errors_that_name_it(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            open_idx(path)


def test_a_data_error_survives_the_way_between_processes():
    error = DataError("file", "this", "that", "do so")
    assert str(error) == "file: expected this, got that; do so"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
