"""The IDX format of the MNIST family: a header, then the values, row-major.

    0  0  <type>  <dims>   dims big-endian uint32 sizes   values

Only unsigned bytes (type 0x08) occur in this family, so the values need no byte order and a file
is the array as it lies on disk. Source: LeCun, Cortes, Burges, *The MNIST database*.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from jaxtyping import UInt8

UINT8 = 0x08
MOST_DIMS = 64


class DataError(Exception):
    """Data that can't be used: where, what was expected, what was got, what to do."""

    def __init__(self, where: object, expected: str, got: str, remedy: str = "") -> None:
        # All four stay in args: an exception that crosses processes is rebuilt from them.
        super().__init__(where, expected, got, remedy)

    def __str__(self) -> str:
        where, expected, got, remedy = self.args
        return f"{where}: expected {expected}, got {got}" + (f"; {remedy}" if remedy else "")


def header(shape: tuple[int, ...]) -> bytes:
    """The header of a uint8 array: 4 + 4 * len(shape) bytes."""
    return struct.pack(f">4B{len(shape)}I", 0, 0, UINT8, len(shape), *shape)


def parse_header(head: bytes, where: object = "IDX header") -> tuple[int, ...]:
    """The shape that a file's first bytes announce; bytes after the header are ignored.

    Raises DataError for a magic number of another kind, or a header cut short.
    """
    if len(head) < 4 or head[:3] != bytes([0, 0, UINT8]) or head[3] == 0:
        remedy = "it looks gzipped: name it *.gz" if head[:2] == b"\x1f\x8b" else ""
        expected = "an IDX magic number 00 00 08 <dims>"
        raise DataError(where, expected, head[:4].hex(" ") or "an empty file", remedy)
    dims = head[3]
    if dims > MOST_DIMS:
        raise DataError(where, f"{MOST_DIMS} dimensions at most, as NumPy's arrays", f"{dims}")
    if len(head) < 4 + 4 * dims:
        raise DataError(where, f"a header of {4 + 4 * dims} bytes", f"{len(head)} bytes")
    return struct.unpack_from(f">{dims}I", head, 4)


def decode(content: bytes, where: object = "IDX file") -> UInt8[np.ndarray, "..."]:
    """The array of a whole file, read-only, without a copy.

    Raises DataError as parse_header does, and for another number of values than announced.
    """
    shape = parse_header(content, where)
    start, size = len(header(shape)), math.prod(shape)
    if not size:
        raise DataError(where, "an array that isn't empty", f"shape {shape}")
    if len(content) - start != size:
        expected = f"{size:,} values for the shape {shape}"
        raise DataError(where, expected, f"{len(content) - start:,}", "fetch the file again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def encode(array: UInt8[np.ndarray, "..."]) -> bytes:
    """The IDX file of an array."""
    return header(array.shape) + array.tobytes()
