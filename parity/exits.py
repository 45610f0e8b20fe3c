"""How a command ends: its exit code, whatever happens, and one line that says why.

    0 agree, or done   1 differ   2 usage, missing or bad data, no room, a loss that isn't finite
    70 a fault of this program
    130 interrupted    141 nobody reads the output any more    143 terminated, and saved before

A traceback never is the answer: Python's own code for one is 1, which here means "differ".
"""

import contextlib
import os
import select
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from mlp_core.locking import locked
from mlp_core.stopping import Terminated
from parity.device import DeviceMissing
from parity.interrupted import heard

USAGE, CRASHED, INTERRUPTED, NOT_READ, TERMINATED = 2, 70, 130, 141, 143
NO_MEMORY = ("can't allocate memory", "not enough memory", "RESOURCE_EXHAUSTED", "Out of memory")


class Refused(Exception):
    """What a command can't do here, or not so; the message says why, and what to do."""


class Folders(contextlib.ExitStack):
    """Those that a command writes to."""

    def add(self, path: Path, remedy: str) -> Path:
        held: set[str] = vars(self).setdefault("held", set())
        if (real := os.path.realpath(path)) not in held:
            self.enter_context(locked(path, Refused, remedy))
            held.add(real)
            self.callback(held.discard, real)
        return path


def guarded(command: Callable[[], int]) -> int:
    """The exit code of a command, which raises what it likes."""
    from mlp_core.checkpoint import CheckpointError
    from mlp_core.extras import advice
    from mlp_core.idx import DataError
    from mlp_core.limits import NotBytes, NotFused
    from mlp_core.processes import DevicesError, ProcessesError
    from mlp_core.weights import WeightsError

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))
        with contextlib.suppress(AttributeError):  # a terminal without the letters gets a "?"
            getattr(sys, name).reconfigure(errors="replace")
    try:
        try:
            with heard():
                return command()
        finally:
            _folders.close()
            sys.stdout.flush()  # what can't be written shows here, and not after the exit code
    except KeyboardInterrupt as stop:
        code = code_of(stop)
        return _say("interrupted" if code == INTERRUPTED else "terminated", code)
    except (
        DataError,
        WeightsError,
        CheckpointError,
        DeviceMissing,
        DevicesError,
        NotBytes,
        NotFused,
        ProcessesError,
        Refused,
    ) as error:
        return _say(str(error), USAGE)
    except OSError as error:
        if _not_read():
            return NOT_READ
        return _say(f"{error.filename or 'output'}: {error.strerror or error}", USAGE)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (line := advice(error.name, "this command")):
            return _say(line, USAGE)
        if isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY):
            return _say(f"not enough memory: {_first_line(error)}", USAGE)
        return _crashed(error)


def code_of(stop: KeyboardInterrupt) -> int:
    """Of a command that was stopped and kept its results."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


_folders = Folders()


def folder(path: Path, option: str = "--out") -> Path:
    """Make a folder for the results, before the work and not after it, and have it alone until the
    command ends. Raises Refused, also if another run writes there."""
    return _folders.add(path, f"name another with {option}")


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # nobody may be there to read it
        print(f"mlp-parity: {text}", file=sys.stderr)
    return code


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _not_read() -> bool:
    """Whether the reader of an output has gone, as `head` does; then nothing more is written."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or not a real file
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                gone = True
                with open(os.devnull, "w") as nothing:
                    os.dup2(nothing.fileno(), stream.fileno())
    return gone


def _crashed(error: Exception) -> int:
    """Tell whose fault it is, and where the traceback is; with $MLP_PARITY_DEBUG, the traceback."""
    from parity.environment import environment

    text = "".join(traceback.format_exception(error))
    where = "what is above"
    try:
        if os.environ.get("MLP_PARITY_DEBUG"):
            raise OSError
        handle, name = tempfile.mkstemp(prefix="mlp-parity-crash-", suffix=".txt")
        with open(handle, "w", errors="replace") as file:
            file.write(f"{shlex.join(sys.argv)}\n{environment()}\n\n{text}")
        where = f"{name}, which holds the traceback"
    except OSError:
        print(text, end="", file=sys.stderr)
    what = f"{type(error).__name__}: {_first_line(error)}"
    remedy = f"please report it, with the command and {where}"
    return _say(f"this is a fault of the program, not yours: {what}; {remedy}", CRASHED)
