"""A folder to one process at a time, by a lock that the system takes back when the process dies."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path, refused: type[Exception], remedy: str) -> Iterator[Path]:
    """Make a folder and have it alone while it lasts.

    refused: raised if it can't be made or written, or if another process has it. remedy: what to do
    then. The lock is the kernel's (flock) on a file that stays and means nothing by itself.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise refused(f"{folder}: another run is writing there now: wait, or {remedy}") from None
    except OSError as error:
        got = "a file" if folder.is_file() else error.strerror or str(error)
        raise refused(f"{folder}: expected a folder to write to, got: {got}; {remedy}") from None
    try:
        yield folder
    finally:
        lock.release()
