"""Files that appear whole or not at all: bytes, JSON, pictures."""

import contextlib
import io
import json
import math
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


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


def drawn(figure: Any, kind: str = "png") -> bytes:
    """A matplotlib Figure as the bytes of a picture."""
    image = io.BytesIO()
    figure.savefig(image, format=kind, dpi=120)
    return image.getvalue()
