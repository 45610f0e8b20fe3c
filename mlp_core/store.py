"""The folder of compiled programs: what is read from it is what was once written whole.

JAX writes its files in one go, warns of a broken one at every start and never replaces it, and a
program that is altered inside can crash XLA. So a list of checksums is kept beside the folder, and
a file that isn't what the list says is deleted: it's compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from pathlib import Path

from mlp_core.files import read_json, write_json

Seals = dict[str, tuple[int, int, str]]  # name -> size, time of the last change (ns), SHA-256


def heal(folder: Path) -> list[str]:
    """Delete the programs that are broken; returns their names.

    One whose size and time are as listed isn't read: no write leaves both. One that isn't listed,
    of a process that was killed, counts as whole if it inflates to its end.
    """
    listed, broken = seals(folder), []
    for name, path in _programs(folder).items():
        with contextlib.suppress(OSError):  # another process deleted it
            size, changed, digest = listed.get(name, (-1, -1, ""))
            status = path.stat()
            if (status.st_size, status.st_ctime_ns) == (size, changed):
                continue
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != digest if digest else not _whole(content):
                path.unlink()
                broken.append(name)
    return broken


def seal(folder: Path) -> None:
    """List the checksums of all that lies in the folder; what was listed isn't read again."""
    before, now = seals(folder), {}
    for name, path in _programs(folder).items():
        with contextlib.suppress(OSError):
            status = path.stat()
            size, changed, digest = before.get(name, (-1, -1, ""))
            if (size, changed) != (status.st_size, status.st_ctime_ns):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            now[name] = status.st_size, status.st_ctime_ns, digest
    if now != before:
        with contextlib.suppress(OSError):  # then the next start looks closer
            write_json(_list(folder), now)


def seals(folder: Path) -> Seals:
    """The list; what is no entry of one, whoever wrote it, is left out."""
    found = read_json(_list(folder))
    return {
        name: (entry[0], entry[1], entry[2])
        for name, entry in (found.items() if isinstance(found, dict) else ())
        if isinstance(entry, list) and [*map(type, entry)] == [int, int, str]
    }


def _list(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")


def _programs(folder: Path) -> dict[str, Path]:
    with contextlib.suppress(OSError):
        with os.scandir(folder) as entries:
            return {
                entry.name: Path(entry.path)
                for entry in entries
                if entry.name.endswith("-cache") and entry.is_file(follow_symlinks=False)
            }
    return {}


def _whole(content: bytes) -> bool:
    """Whether zlib, by which JAX compresses where there is no zstandard, reads it to its end."""
    inflating = zlib.decompressobj()
    try:
        while content and not inflating.eof:
            inflating.decompress(content, 1 << 20)
            content = inflating.unconsumed_tail
    except zlib.error:
        return False
    return inflating.eof and not inflating.unused_data
