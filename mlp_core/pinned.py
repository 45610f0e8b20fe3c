"""The content that counts as Fashion-MNIST, byte for byte, and the checks against it.

A `Manifest` lists name, shape and SHA-256 of the four *decompressed* files, so that no gzip
variant, mirror or packager matters. Nothing that differs gets past `verify` or into a cache.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import UInt8

from mlp_core import idx
from mlp_core.idx import DataError

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
LAYOUT = Path("FashionMNIST", "raw")  # of torchvision.datasets.FashionMNIST, below its root
CHUNK = 1 << 20


@dataclass(frozen=True)
class File:
    """One decompressed IDX file: its name, the array's shape, the SHA-256 of all its bytes."""

    name: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes, header included."""
        return len(idx.header(self.shape)) + math.prod(self.shape)


@dataclass(frozen=True)
class Manifest:
    """The four files of a data set, in the order of NAMES; `name` is its folder in the cache."""

    name: str
    files: tuple[File, File, File, File]

    @classmethod
    def of(cls, name: str, train: int, val: int, digests: tuple[str, str, str, str]) -> Manifest:
        """`train` + `val` images of 28 x 28 with their labels."""
        shapes: list[tuple[int, ...]] = [(train, 28, 28), (train,), (val, 28, 28), (val,)]
        a, b, c, d = map(File, NAMES, shapes, digests)
        return cls(name, (a, b, c, d))

    def __str__(self) -> str:
        return f"{self.files[0].shape[0]:,} + {self.files[2].shape[0]:,} images"


# Of Debian's dataset-fashion-mnist. With the gzip header that Debian strips put back, its files
# have the MD5s that torchvision lists for upstream's: the tests redo that.
FULL = Manifest.of(
    "fashion-mnist",
    60_000,
    10_000,
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)
# The first images of each of FULL's two parts.
SAMPLE = Manifest.of(
    "fashion-mnist-sample",
    6_000,
    1_000,
    (
        "6dded81672539b5d148c1a85358069d1808c316dc6f6c0abfd12ba3ced5dd394",
        "d7c464914ae4b919728c5c99c3cdde5a0259febf1e99ddc6927a15768731d7dc",
        "7a6d8e07ea021ec5bc73135ebd0a5770799557ec6f8242d8749c4f32a3cf4643",
        "b40abac7ec8228f434940f579deb7cf7b6e3103b5274cb91d1545771f5ef1c8b",
    ),
)


_held: WeakValueDictionary[str, np.ndarray] = WeakValueDictionary()  # SHA-256 -> array in use


def read(path: Path, file: File, manifest: Manifest) -> UInt8[np.ndarray, "..."]:
    """The array in a file: the very bytes that were verified, whatever becomes of the file later.

    Read-only; while one is in use, other calls give the same. Raises DataError as `verify` does.
    """
    if (held := _held.get(file.sha256)) is not None:
        verify(path, file, manifest)
        return held
    content = io.BytesIO()
    verify(path, file, manifest, content.write)
    values = np.frombuffer(content.getvalue(), np.uint8, offset=len(idx.header(file.shape)))
    _held[file.sha256] = array = values.reshape(file.shape)
    return array


def verify(
    path: Path, file: File, manifest: Manifest, sink: Callable[[bytes], object] = len
) -> str:
    """Read `path` (gzipped if it is named so) and hand its bytes to `sink`, piece by piece.

    Returns the SHA-256 of `path` as it lies, which is the content's only if it isn't gzipped.
    Raises DataError unless the whole is `file`, at the first piece where that shows; a piece
    handed over before then proves nothing. Inflates at most one byte more than `file.size`.
    """
    digest, size, lying = hashlib.sha256(), 0, hashlib.sha256()
    for chunk in _read(path, file.size + 1, lying):
        if size == 0:
            _check_header(chunk, path, file, manifest)
        digest.update(chunk)
        size += len(chunk)
        sink(chunk)
    if size == 0:
        idx.parse_header(b"", path)
    if size != file.size:
        got = f"{size:,} bytes" if size < file.size else "more"
        raise DataError(path, f"{file.size:,} bytes of IDX", got, "fetch the file again")
    if digest.hexdigest() != file.sha256:
        twin = next((f.name for f in manifest.files if f.sha256 == digest.hexdigest()), None)
        remedy = f"this is {twin} under another name" if twin else "corrupt; fetch it again"
        raise DataError(path, f"SHA-256 {file.sha256}", digest.hexdigest(), remedy)
    return lying.hexdigest() if path.suffix == ".gz" else digest.hexdigest()


def digest(path: Path) -> str:
    """SHA-256 of a file as it lies. Raises DataError if it can't be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, "a readable file", error.strerror or str(error)) from error


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, stream: Any, hashed: Any) -> None:
        self.stream, self.hashed = stream, hashed

    def read(self, size: int = -1) -> bytes:
        chunk = self.stream.read(size)
        self.hashed.update(chunk)
        return chunk


def _read(path: Path, limit: int, lying: Any) -> Iterator[bytes]:
    try:
        with contextlib.ExitStack() as stack:
            stream: Any = stack.enter_context(path.open("rb"))
            if path.suffix == ".gz":
                stream = stack.enter_context(gzip.GzipFile(fileobj=_Hashed(stream, lying)))
            while limit and (chunk := stream.read(min(CHUNK, limit))):
                limit -= len(chunk)
                yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, "a whole gzip file", str(error), "fetch the file again") from error
    except OSError as error:
        raise DataError(path, "a readable file", error.strerror or str(error)) from error


def _check_header(head: bytes, path: Path, file: File, manifest: Manifest) -> None:
    if head.startswith(idx.header(file.shape)):
        return
    shape = idx.parse_header(head, path)
    twin = next((f.name for f in manifest.files if f.shape == shape), None)
    remedy = f"is this {twin} under another name?" if twin else ""
    raise DataError(path, f"uint8 {file.shape}", f"uint8 {shape}", remedy)


class NoRoom(DataError):
    """A file that can't be written, because the disk is full."""


def install(source: Path, target: Path, file: File, manifest: Manifest) -> str:
    """Put `source`, decompressed and verified, at `target`: whole, or not at all.

    Returns the SHA-256 of `source` as it lies. Raises DataError if it isn't `file`, or `target`
    can't be written: NoRoom where the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out:
            lying = verify(source, file, manifest, out.write)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, target)
        return lying
    except OSError as error:
        expected, got = f"room to write {file.size:,} bytes", error.strerror or str(error)
        remedy = "name another folder in $MLP_PARITY_CACHE"
        kind = NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT) else DataError
        raise kind(target, expected, got, remedy) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
