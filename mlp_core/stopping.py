"""Ctrl-C and SIGTERM between two steps: what is under way is finished, and saved, first."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from mlp_core.fetch import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, where Ctrl-C would be a KeyboardInterrupt: whoever keeps results at one, keeps them
    at the other."""


class Stop:
    """Whether the process was asked to stop. asked: the signal."""

    asked: int | None = None

    def raised(self) -> None:
        """Raise what was asked for, if anything was."""
        if self.asked is not None:
            raise Terminated("terminated") if self.asked == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def awaited(what: str) -> Iterator[Stop]:
    """While it lasts, the first signal is noted in the Stop that this gives; a second one works as
    before. what: is told to go on until then.

    Python hears signals in its main thread alone: in another this does nothing.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # Of a handler that isn't Python's own nothing can be restored: it is left alone.
    before = {s: h for s in SIGNALS if (h := signal.getsignal(s)) not in (None, signal.SIG_IGN)}

    def note(number: int, frame: Any) -> None:
        if stop.asked is None:
            stop.asked = number
            say(f"stopping after {what}; once more stops at once")
            return
        signal.signal(number, before[signal.Signals(number)])
        os.kill(os.getpid(), number)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
