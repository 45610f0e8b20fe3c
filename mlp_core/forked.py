"""Forked children: threads don't survive a fork, and what waits for them waits for ever."""

import contextlib
import os
import threading
from dataclasses import dataclass


class Forked(RuntimeError):
    """A training in a process that was forked from one whose threads it would wait for."""


@dataclass
class _Process:
    """native: threads that aren't Python's, of OpenBLAS for one, when this was imported. lost:
    whether this process was forked when there were more: Torch's or XLA's, which compute."""

    native: int
    lost: bool = False


def _native() -> int:
    with contextlib.suppress(OSError):  # Linux alone tells
        return len(os.listdir("/proc/self/task")) - threading.active_count()
    return 0


_process = _Process(_native())
_at_fork = _native()


def _before() -> None:
    global _at_fork
    _at_fork = _native()


def _in_child() -> None:
    _process.lost |= _at_fork > _process.native
    _process.native = _native()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_in_child)


def refuse(where: str) -> None:
    """Raises Forked where a computation would hang."""
    if _process.lost:
        raise Forked(
            f"{where}: this process was forked from one that had computed, and would wait for "
            "threads that it hasn't got; start it anew: "
            "multiprocessing.get_context('spawn'), or a command of its own"
        )
