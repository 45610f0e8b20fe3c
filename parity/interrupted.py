"""Ctrl-C in the middle of long work, which keeps what has been found."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt that carries what was found before it: `found`, of the type that the
    interrupted call returns."""

    def __init__(self, found: Any) -> None:
        super().__init__("interrupted")
        self.found = found


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Ctrl-C comes again, a moment later, where the first one fell into a finalizer or a callback
    of the garbage collector, as JAX has one: Python prints such errors, and goes on."""
    before = sys.unraisablehook

    def again(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
