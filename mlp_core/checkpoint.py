"""Checkpoints: the state of a training, a file each, whole or not at all, checked before use.

A file is safetensors, whose header also holds JSON and a SHA-256 over everything: names, types,
shapes and bytes of the arrays, and the text of the JSON. One file, so that there is no moment at
which parts of two checkpoints lie side by side; no pickle, so that reading one runs nothing.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlp_core.fetch import say
from mlp_core.files import write_atomically
from mlp_core.locking import locked

FORMAT, VERSION = "mlp-parity checkpoint", 1
NAME = re.compile(r"step-(\d{12})\.safetensors")
# What safetensors can't name goes in as integers of its size.
AS_INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")  # of ml_dtypes


class CheckpointError(ValueError):
    """A checkpoint that can't be written, read or gone on from; says why, and what to do."""


class Damaged(CheckpointError):
    """A file that isn't what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step` steps. arrays: by name. facts: all else, as JSON."""

    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    path: Path | None = None

    def encoded(self) -> bytes:
        """The bytes of a file."""
        from safetensors.numpy import save

        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        types = {n: a.dtype.name for n, a in arrays.items() if a.dtype.name in NARROW}
        plain = {n: a.view(AS_INTEGERS[a.itemsize]) if n in types else a for n, a in arrays.items()}
        held = {"step": self.step, "types": types, "facts": self.facts}
        text = json.dumps(held, allow_nan=False)
        about = {"format": FORMAT, "version": str(VERSION), "state": text}
        return save(plain, metadata=about | {"sha256": digest(about, plain)})


def digest(about: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over format, version, JSON, and each array by its name: type, shape, bytes."""
    total = hashlib.sha256()
    for part in (about["format"], about["version"], about["state"]):
        total.update(f"{len(part)} {part}\n".encode())
    for name in sorted(arrays):
        total.update(f"{name} ".encode())
        add(total, arrays[name])
    return total.hexdigest()


def add(total: Any, array: np.ndarray) -> None:
    """Add type, shape and bytes of an array to a hash."""
    total.update(f"{array.dtype.str} {list(array.shape)}\n".encode())
    total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file. Raises Damaged, or CheckpointError for a newer version's.

    Sizes are compared with the file's own before anything is allocated, and nothing that the file
    says is parsed before its SHA-256 is right.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            _check_format(path, about)
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        if about.get("sha256") != digest(about, arrays):
            raise Damaged(f"{path}: damaged: its SHA-256 is another than was written")
        held = json.loads(about["state"])
        step, types = int(held["step"]), dict(held["types"])
        for name, kind in types.items():
            arrays[name] = _narrow(arrays[name], kind)
        if step < 0 or not isinstance(held["facts"], dict):
            raise ValueError("step, facts")
        return Checkpoint(step, arrays, held["facts"], path)
    except OSError as error:
        raise Damaged(f"{path}: can't be read: {error.strerror or error}") from None
    except SafetensorError as error:
        raise Damaged(f"{path}: not a whole checkpoint: {str(error)[:120]}") from None
    except CheckpointError:
        raise
    # What safetensors' own reader lets through: types that NumPy lacks, negative or huge shapes.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as why:
        raise Damaged(f"{path}: not a checkpoint: {type(why).__name__} {str(why)[:80]}") from None


@contextlib.contextmanager
def told(path: Path | None) -> Iterator[None]:
    """What a whole checkpoint holds, and can't be read as this program writes it, by its file."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError,
            RecursionError, OverflowError) as error:  # fmt: skip
        why = f"{type(error).__name__} {str(error)[:120]}"
        raise CheckpointError(
            f"{path}: is whole, but not as this version writes it: {why}; start anew in another "
            "folder"
        ) from error


def _check_format(path: Path, about: Mapping[str, str]) -> None:
    version = about.get("version", "")
    if about.get("format") != FORMAT or not re.fullmatch(r"\d{1,9}", version):
        raise Damaged(f"{path}: no checkpoint, expected one that Trainer(checkpoint=...) wrote")
    if int(version) > VERSION:
        raise CheckpointError(
            f"{path}: of format {version}, and this version reads up to {VERSION}: update "
            "mlp-parity, or start anew in another folder"
        )


def _narrow(array: np.ndarray, kind: str) -> np.ndarray:
    if kind not in NARROW:
        raise ValueError(f"type {kind}")
    import ml_dtypes

    return array.view(getattr(ml_dtypes, kind))


@dataclass
class Checkpoints:
    """The checkpoints of one training in a folder: the last `keep` of them.

    folder: made if it isn't there; one process at a time. every: steps from one to the next within
    an epoch; None: one at the end of each epoch alone.
    """

    folder: Path
    every: int | None = None
    keep: int = 2
    seconds: float = field(default=0.0, init=False)  # for which a training waited
    _writing: Future[Path] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        for name, least in (("every", 1), ("keep", 1)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise ValueError(f"Checkpoints: {name} = {value!r}, expected at least {least}")

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The folder, to this process alone, without what a killed one left half written."""
        with locked(self.folder, CheckpointError, "name another folder for its checkpoints"):
            for left_over in self.folder.glob(".step-*.safetensors.*"):
                left_over.unlink(missing_ok=True)
            with ThreadPoolExecutor(1) as self._writer:
                try:
                    yield
                finally:
                    self.finish()

    def paths(self) -> list[Path]:
        """The files that there are, the newest first."""
        try:
            found = [path for path in self.folder.iterdir() if NAME.fullmatch(path.name)]
        except OSError:
            return []
        return sorted(found, reverse=True)

    def newest(self) -> Checkpoint | None:
        """The newest that is whole, or None if there is none; a damaged one is told of.

        Raises CheckpointError if all are damaged.
        """
        problems = []
        for path in self.paths():
            try:
                found = read(path)
            except Damaged as error:
                problems.append(str(error))
                continue
            for problem in problems:
                say(f"{problem}; going on from the one before it, {path.name}")
            return found
        if problems:
            remedy = "no older one is whole: start anew in another folder, or empty this one"
            raise CheckpointError("\n  ".join([*problems, remedy]))
        return None

    def start(self, checkpoint: Checkpoint) -> None:
        """`write` it while the training goes on, when the one before it has been written.

        What it holds is copied at once. Between two steps there is 1 ms of work for the book's
        model; a disk that is busy takes fifty times as long. While `opened`. Raises CheckpointError
        if the one before could not be written.
        """
        start = time.perf_counter()
        self.finish()
        self._writing = self._writer.submit(self._write, checkpoint.step, checkpoint.encoded())
        self.seconds += time.perf_counter() - start

    def finish(self) -> None:
        """Wait for what `start` began. Raises CheckpointError if it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write one, then remove those too old to be kept. Raises CheckpointError if it can't be.

        It is on the disk, and not in a buffer, before an older one goes.
        """
        return self._write(checkpoint.step, checkpoint.encoded())

    def _write(self, step: int, content: bytes) -> Path:
        path = self.folder / f"step-{step:012}.safetensors"
        try:
            write_atomically(path, content, durable=True)
        except OSError as error:
            left = self.paths()
            last = f"the last whole one is {left[0].name}" if left else "there is none yet"
            remedy = "make room or let it be written, then resume"
            raise CheckpointError(f"{path}: {error.strerror}; {last}: {remedy}") from error
        for old in self.paths()[self.keep :]:
            old.unlink(missing_ok=True)
        return path
