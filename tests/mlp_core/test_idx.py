import gzip
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mlp_core.idx import DataError, decode, encode, header, parse_header


@given(arrays("uint8", array_shapes(max_dims=4, min_side=0, max_side=5)))
def test_an_encoded_array_announces_its_shape_and_holds_its_values(array):
    content = encode(array)
    assert parse_header(content) == array.shape
    assert content[len(header(array.shape)) :] == array.tobytes()


def test_the_header_is_the_one_of_the_published_files():
    assert header((60_000, 28, 28)).hex() == "000008030000ea600000001c0000001c"
    assert header((10_000,)).hex() == "0000080100002710"
    assert parse_header(header((60_000, 28, 28)) + b"pixels") == (60_000, 28, 28)


GOOD = header((3, 4))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "got an empty file"),
        (b"\x00\x00\x0d\x02" + GOOD[4:], "got 00 00 0d 02"),  # float32
        (b"\x00\x00\x08\x00", "got 00 00 08 00"),
        (b"\x89PNG\r\n", "got 89 50 4e 47"),
        (GOOD[:7], "expected a header of 12 bytes, got 7 bytes"),
        (gzip.compress(GOOD, mtime=0), "name it *.gz"),
    ],
)
def test_what_is_no_header_of_bytes_is_refused(content, words):
    with pytest.raises(DataError) as error:
        parse_header(content)
    assert words in str(error.value)


@given(st.binary(max_size=40) | st.binary(max_size=12).map(lambda tail: GOOD[:4] + tail))
def test_any_bytes_are_the_header_that_they_give_or_a_data_error(content):
    try:
        shape = parse_header(content)
    except DataError:
        return
    assert content.startswith(header(shape))


def test_a_data_error_survives_the_way_between_processes():
    error = DataError("file", "this", "that", "do so")
    assert str(error) == "file: expected this, got that; do so"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "shape", [(1,) * 65, (1,) * 255, (2**32 - 1, 2**32 - 1, 0), (2**32 - 1,) * 3, (3,), (1,), (0,)]
)
def test_a_header_that_the_values_do_not_fit_is_refused_and_nothing_allocated(shape):
    with pytest.raises(DataError, match="here: expected"):
        decode(header(shape) + bytes(2), "here")


def test_a_file_of_any_shape_is_decoded_as_it_was_encoded():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(decode(encode(array)), array)
    with pytest.raises(DataError, match="got an empty file"):
        decode(b"")
