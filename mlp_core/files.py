"""Files that appear whole or not at all: bytes, JSON, pictures."""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlp_core.drawing import can_draw

MANIFEST = "run.json"


def write_atomically(path: Path, content: bytes, durable: bool = False) -> Path:
    """Write `content` to a temporary neighbour and rename it: an interrupt leaves no half file.

    Missing folders are made. durable: content and name are on the disk when it returns, so that a
    power failure leaves no half file either. Returns the path. Raises OSError, which names it.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        if durable:
            fsync(temporary)
        os.replace(temporary, path)
        if durable:
            fsync(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"can't be written: {error.strerror}", str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def read_json(path: Path) -> Any:
    """What a JSON file holds; None for one that isn't there, or holds something else.

    For files of our own, which are made anew: whatever became of them, it ends no run.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError, MemoryError):  # brackets in brackets recurse
        return None


def fsync(path: Path) -> None:
    """Bring a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> Path:
    """Write `plain(value)` as strict JSON. Returns the path. Raises TypeError for other types."""
    text = json.dumps(plain(value), indent=1, allow_nan=False)
    return write_atomically(path, f"{text}\n".encode())


@contextlib.contextmanager
def taking_their_place(folder: Path, names: Collection[str] = ()) -> Iterator[Path]:
    """A folder to write a run's files into: when it is left, they take the place of the last run's.

    names: what a run may write. Files of two runs never lie side by side: first those of the last
    run go, its manifest before the others, then the new ones come, and last of all run.json,
    {"files": {name: SHA-256}}. Where there is one, the run is all there. An error or a kill while
    they are written leaves the last run as it was.
    """
    for left_over in folder.glob(".new-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        yield new
        written = sorted(path.name for path in new.iterdir())
        digests = {name: hashlib.sha256((new / name).read_bytes()).hexdigest() for name in written}
        write_json(new / MANIFEST, {"files": digests})
        for old in (MANIFEST, *sorted({*names, *written})):
            (folder / old).unlink(missing_ok=True)
        for name in (*written, MANIFEST):
            os.replace(new / name, folder / name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def plain(value: Any, other: Callable[[Any], Any] = lambda value: value) -> Any:
    """The value in JSON's types: arrays and tuples as lists, paths and keys as text.

    JSON has no NaN and no infinity, and a run that diverged must still be written: such numbers
    become the text "nan", "inf", "-inf", which `float` reads. other: what to make of another type.
    """
    if isinstance(value, dict):
        return {str(key): plain(v, other) for key, v in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v, other) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value if isinstance(value, (str, int, float, type(None))) else other(value)


def write_pictures(folder: Path, found: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
    """The pictures {file name: bytes} that `found` draws; none, and one line, where it can't.

    `found` imports what draws: nothing else of a report needs it.
    """
    if can_draw():
        for name, picture in found():
            write_atomically(folder / name, picture)


def drawn(figure: Any, kind: str = "png") -> bytes:
    """A matplotlib Figure as the bytes of a picture."""
    image = io.BytesIO()
    figure.savefig(image, format=kind, dpi=120)
    return image.getvalue()
