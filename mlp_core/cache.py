"""The user's cache: decompressed, verified files in torchvision's layout, and seals on them.

Filling is atomic file by file and one process at a time; what an interrupted run left is kept.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs

from mlp_core import pinned
from mlp_core.fetch import say
from mlp_core.files import write_atomically
from mlp_core.idx import DataError
from mlp_core.pinned import LAYOUT, File, Manifest

_instead: dict[Path, Path] = {}  # a cache that can't be written -> this process's temporary folder


def folder() -> Path:
    """$MLP_PARITY_CACHE, or the user's cache; it need not exist."""
    named = os.environ.get("MLP_PARITY_CACHE") or platformdirs.user_cache_dir("mlp-parity")
    path = Path(os.path.expanduser(named)).absolute()
    return _instead.get(path, path)


def programs() -> Path | None:
    """The folder where compiled programs are kept; None if it can't be written.

    Once a process, those that were not read for longest are deleted if there are more than 256 MB.
    """
    path = folder() / "xla"
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        return None
    _prune(path)
    return path


@functools.cache
def _prune(path: Path, limit: int = 1 << 28) -> None:
    with contextlib.suppress(OSError):  # another process may be at it too
        kept = [(file.stat(), file.path) for file in os.scandir(path)]
        kept.sort(key=lambda entry: entry[0].st_atime_ns)
        excess = sum(status.st_size for status, _ in kept) - limit
        for status, file in kept:
            if excess <= 0:
                break
            os.unlink(file)
            excess -= status.st_size


def fill(paths: Sequence[Path], manifest: Manifest) -> Path:
    """Bring verified copies of the four files into the cache, or verify that they are there."""
    root, seals = folder() / manifest.name, Seals()
    pairs = list(zip(paths, manifest.files, strict=True))
    if all(seals.hold(p, f) and seals.hold(root / LAYOUT / f.name, f) for p, f in pairs):
        return root
    with filling(manifest) as (root, todo):
        for path, file in pairs:
            copy = root / LAYOUT / file.name if file in todo else None
            seals.check(path, file, manifest, copy)
    return root


@contextlib.contextmanager
def filling(manifest: Manifest) -> Iterator[tuple[Path, list[File]]]:
    """The data set's folder in the cache, to this process alone, and which files it lacks."""
    from filelock import FileLock, Timeout

    root = _writable(manifest)
    seals, todo = Seals(), []
    lock = FileLock(root / ".lock")
    try:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"waiting for another process that is filling {root}")
            lock.acquire()
    except OSError as error:
        expected, got = "a lock of this user's", error.strerror or str(error)
        raise DataError(root / ".lock", expected, got, "remove it") from error
    try:
        for left_over in (root / LAYOUT).glob(".*.tmp"):  # of a process that was killed
            left_over.unlink(missing_ok=True)
        for file in manifest.files:
            try:
                seals.check(root / LAYOUT / file.name, file, manifest)
            except DataError:
                todo.append(file)
        yield root, todo
    finally:
        lock.release()


def _writable(manifest: Manifest) -> Path:
    """The data set's folder in the cache, or in a temporary folder if that can't be written."""
    root = folder() / manifest.name
    try:
        (root / LAYOUT).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root / LAYOUT), tempfile.TemporaryFile(dir=root):
            return root
    except OSError as error:
        temporary = Path(tempfile.mkdtemp(prefix="mlp-parity-"))
        say(
            f"the cache {folder()} can't be written ({error.strerror or error}); using {temporary} "
            "until this process ends. $MLP_PARITY_CACHE can name another folder."
        )
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    _instead[folder()] = temporary
    (temporary / manifest.name / LAYOUT).mkdir(parents=True)
    return temporary / manifest.name


class Seals:
    """Which files were verified, and when: a later start need not read 55 MB again.

    A seal is {path: [size, mtime in ns, inode, SHA-256]} in the cache; a file that was touched
    since no longer fits its own and is verified anew.
    """

    def __init__(self) -> None:
        self.path = folder() / "verified.json"
        self.seals = self._load()

    def hold(self, path: Path, file: File) -> bool:
        """Whether `path` still is as it was when it was verified as `file`."""
        try:
            return self.seals.get(str(path)) == [*_stamp(path), file.sha256]
        except OSError:
            return False

    def check(self, path: Path, file: File, manifest: Manifest, copy: Path | None = None) -> None:
        """Verify `path` unless its seal holds; with `copy`, verify it while copying it there.

        Raises DataError as `verify` and `install` do.
        """
        if copy is None and self.hold(path, file):
            return
        try:
            stamp = _stamp(path)
        except OSError as error:
            raise DataError(path, "a readable file", error.strerror or str(error)) from error
        if copy is None:
            pinned.verify(path, file, manifest)
        else:
            pinned.install(path, copy, file, manifest)
        # Written this moment, it could change again within one tick of the file system's clock.
        if time.time_ns() - stamp[1] > 2_000_000_000:
            kept = {name: seal for name, seal in self._load().items() if os.path.exists(name)}
            self.seals = kept | {str(path): [*stamp, file.sha256]}
            with contextlib.suppress(OSError):  # no seals: the next start verifies again
                write_atomically(self.path, json.dumps(self.seals, indent=1).encode())

    def _load(self) -> dict[str, object]:
        try:
            seals = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        return seals if isinstance(seals, dict) else {}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
