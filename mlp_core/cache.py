"""The user's cache: decompressed, verified files in torchvision's layout.

Filling is atomic file by file and one process at a time; what an interrupted run left is kept.
Nothing in it is trusted: `pinned.read` verifies the bytes of each file whenever it is read.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import platformdirs

from mlp_core import pinned, store
from mlp_core.fetch import say
from mlp_core.files import read_json, write_json
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

    Once a process, broken ones are deleted, and those that were not read for longest if there are
    more than 256 MB.
    """
    path = folder() / "xla"
    with contextlib.suppress(OSError):
        path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        return None
    _tended(path)
    return path


@functools.cache
def _tended(path: Path) -> None:
    store.heal(path)
    _prune(path)
    atexit.register(store.seal, path)


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
    """Bring copies of the four files into the cache, in the place of those missing or damaged.

    Where there is no room for them, into a temporary folder.
    """
    try:
        return _filled(paths, manifest)
    except pinned.NoRoom as error:
        if folder() in _instead.values():
            raise
        _use_temporary(manifest, error.args[2])
        return _filled(paths, manifest)


def _filled(paths: Sequence[Path], manifest: Manifest) -> Path:
    with filling(manifest) as (root, todo):
        for path, file in zip(paths, manifest.files, strict=True):
            if file in todo:
                _remember(pinned.install(path, root / LAYOUT / file.name, file, manifest), file)
    return root


def verify_sources(paths: Sequence[Path], manifest: Manifest) -> None:
    """Verify the four files that the cache's were made from. Raises DataError.

    A gzipped file that was inflated and verified before is known by the SHA-256 of its own bytes:
    to inflate them all again takes a second.
    """
    for path, file in zip(paths, manifest.files, strict=True):
        known = _inflated() if path.suffix == ".gz" else {}
        if file.sha256 not in known.values() or known.get(pinned.digest(path)) != file.sha256:
            _remember(pinned.verify(path, file, manifest), file)


def _inflated() -> dict[str, object]:
    """{SHA-256 of a gzipped file: of its content}."""
    found = read_json(folder() / "inflated.json")
    return found if isinstance(found, dict) else {}


def _remember(lying: str, file: File) -> None:
    if lying != file.sha256:
        with contextlib.suppress(OSError):  # then the next start inflates again
            write_json(folder() / "inflated.json", _inflated() | {lying: file.sha256})


@contextlib.contextmanager
def filling(manifest: Manifest) -> Iterator[tuple[Path, list[File]]]:
    """The data set's folder in the cache, to this process alone, and which files it lacks."""
    from filelock import FileLock, Timeout

    root = _writable(manifest)
    todo = []
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
            path = root / LAYOUT / file.name
            try:
                pinned.verify(path, file, manifest)
            except DataError as error:
                todo.append(file)
                if os.path.lexists(path):
                    say(f"damaged, to be replaced: {error}")
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
        return _use_temporary(manifest, error.strerror or str(error))


def _use_temporary(manifest: Manifest, why: str) -> Path:
    """In the place of the cache, until this process ends."""
    temporary = Path(tempfile.mkdtemp(prefix="mlp-parity-"))
    say(
        f"the cache {folder()} can't be written ({why}); using {temporary} until this process "
        "ends. $MLP_PARITY_CACHE can name another folder."
    )
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    _instead[folder()] = temporary
    (temporary / manifest.name / LAYOUT).mkdir(parents=True)
    return temporary / manifest.name
