"""A piece of work in a process of its own: what it tells on the way, its result, its end.

Processes, and not threads: JAX and Torch have settings that hold for the whole of one, and Ctrl-C
can be raised in no other thread than the main one.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from tqdm import tqdm

Tell = Callable[[str, Any], None]


class ChildDied(RuntimeError):
    """A process that ended without a result; says how. signal: the one that ended it, or 0."""

    def __init__(self, code: int) -> None:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"a process {how} and left no result; was memory short?")
        self.signal = max(0, -code)


class Child:
    """`module:function` with a `tell` and the arguments, in a process that starts at once.

    on_told: called with what the work tells, (what, value), in a thread that only reads. Arguments,
    values and result must be picklable. As a context manager it leaves no process behind.
    listens: whether the work makes something of Ctrl-C. A compiler doesn't: it is in no Python that
    could hear of it, for minutes, so that Ctrl-C here is raised here.
    """

    def __init__(self, work: str, *args: Any, on_told: Tell, listens: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(writer, work, args), daemon=True)
        self._on_told, self._ended, self._listens = on_told, threading.Event(), listens
        self._result: Any = None
        self._error: BaseException | None = None
        resource_tracker.ensure_running()  # starting it would unblock signals
        try:
            with _deaf():
                self._process.start()
            writer.close()  # so that its end is seen when the process has ended
            threading.Thread(target=self._read, daemon=True).start()
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        """By SIGKILL at once where nobody listens: libtpu makes a report of a crash of SIGTERM."""
        if self._process.pid is None:
            return
        try:
            if self._listens and not self._ended.is_set():
                self._process.terminate()
            if self._listens or self._ended.is_set():
                self._process.join(GRACE)
        finally:  # a second Ctrl-C too
            self._process.kill()
            self._process.join()

    def check(self) -> None:
        """Raise what ended the work before its time, if anything has."""
        if self._error is not None:
            raise self._error

    def interrupt(self) -> None:
        """Ctrl-C, once, however often this is called: what the work makes of it is its result."""
        if not self._ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid or 0, signal.SIGINT)

    def result(self, interrupted: bool = False) -> Any:
        """What the work returned, or raised. Ctrl-C while waiting is passed on, as `interrupted`
        is, to work that listens; a second one is raised."""
        while not self._ended.is_set():
            if interrupted:  # again and again: it may not have been listening yet
                self.interrupt()
            try:
                self._ended.wait(0.2)
            except KeyboardInterrupt:
                if interrupted or not self._listens:
                    raise
                interrupted = True
        self.check()
        return self._result

    def _read(self) -> None:
        try:
            while True:
                what, value = self._reader.recv()
                if what == "result":
                    self._result = value
                    break
                if what == "error":
                    error, text = value
                    self._error = error or RuntimeError(text.strip().splitlines()[-1])
                    self._error.__cause__ = RuntimeError(f"in another process:\n{text}")
                    break
                self._on_told(*value)
        except EOFError:
            self._process.join()
            self._error = ChildDied(self._process.exitcode or 0)
        finally:
            self._ended.set()


def _work(writer: Connection, work: str, args: tuple[Any, ...]) -> None:
    """The process: in a session of its own, where Ctrl-C comes from its parent alone."""
    os.setsid()
    signal.signal(signal.SIGINT, _seldom)
    sys.unraisablehook = _lost

    def tell(what: str, value: Any) -> None:
        writer.send(("told", (what, value)))

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # One for threads alone: one for processes would be left behind by a process that is ended.
        tqdm.set_lock(threading.RLock())
        module, name = work.split(":")
        found = "result", getattr(importlib.import_module(module), name)(tell, *args)
    except BaseException as error:  # Ctrl-C too, where the work makes nothing of it
        text = traceback.format_exc()
        found = "error", (error, text)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the parent has gone
        try:
            writer.send(found)
        except (TypeError, AttributeError, ValueError, ImportError) as error:  # can't be pickled
            if found[0] == "result":
                text = f"{traceback.format_exc()}\n{work}: its result can't be pickled: {error}"
            writer.send(("error", (None, text)))


def _seldom(number: int, frame: Any) -> None:
    """One Ctrl-C, and no other while it is dealt with: unless it went astray, as one does that
    falls into a callback whose errors nobody sees."""
    global _last
    now = time.monotonic()
    if now - _last > PATIENCE:
        _last = now
        raise KeyboardInterrupt


def _lost(lost: Any) -> None:
    """A Ctrl-C that fell into such a callback, as the garbage collector has one of JAX's: the next
    one, which the parent sends at once, is heard."""
    global _last
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _last = -PATIENCE
    else:
        sys.__unraisablehook__(lost)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C waits; a process that starts meanwhile doesn't hear it either, until it says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


GRACE = 2.0  # seconds from SIGTERM to SIGKILL
PATIENCE = 5.0  # seconds
_last = -PATIENCE
