"""Work in a process of its own: what it tells, its result, Ctrl-C, errors, a death."""

import multiprocessing.context
import os
import signal
import time
from pathlib import Path

import pytest

from mlp_core.idx import DataError
from parity.studies.child import Child, ChildDied

# The work: functions that the other process finds by name.


def count(tell, to):
    for i in range(to):
        tell("number", i)
    return os.getpid(), "done"


def wait(tell):
    try:
        tell("waiting", os.getsid(0))  # within: Ctrl-C may come as soon as it's told
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(0.5)  # in which more of them come
        return "what was found"


def stubborn(tell):
    tell("waiting", os.getpid())
    time.sleep(60)


def deaf(tell):
    """As a library that catches SIGTERM and stays in its own code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell("waiting", os.getpid())
    time.sleep(60)


class Collected:
    """As JAX's callback of the garbage collector: what is raised in it is printed, and lost."""

    def __init__(self, tell):
        self.tell = tell

    def __del__(self):
        self.tell("waiting", "in a callback")
        time.sleep(60)


def lose(tell):
    try:
        Collected(tell)
        tell("lost", None)
        time.sleep(60)
    except KeyboardInterrupt:
        return "what was found"


def break_off(tell):
    raise DataError("file", "this", "that")


def unsendable(tell):
    return lambda: None


def die(tell, number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def findable(monkeypatch):
    # What a new process looks up lies beside this file.
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def child(name, *args, told=None, **options):
    told = [] if told is None else told
    return Child(f"test_child:{name}", *args, on_told=lambda *what: told.append(what), **options)


def ctrl_c_in(seconds):
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def until(told):
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    return told[0][1]


def test_what_is_told_comes_in_order_and_then_the_result():
    told = []
    with child("count", 100, told=told) as work:
        pid, word = work.result()
    assert told == [("number", i) for i in range(100)]
    assert pid != os.getpid() and word == "done"


def test_ctrl_c_is_passed_on_once_and_what_the_work_makes_of_it_is_the_result():
    told = []
    with child("wait", told=told) as work:
        assert until(told) != os.getsid(0)  # the terminal's Ctrl-C doesn't reach it
        assert work.result(interrupted=True) == "what was found"


def test_ctrl_c_while_waiting_for_the_result_is_passed_on():
    told = []
    with child("wait", told=told) as work:
        until(told)
        ctrl_c_in(0.3)
        assert work.result() == "what was found"


def test_a_ctrl_c_that_falls_into_a_callback_comes_again_at_once(capfd):
    told = []
    with child("lose", told=told) as work:
        until(told)
        start = time.monotonic()
        assert work.result(interrupted=True) == "what was found"
    assert time.monotonic() - start < 4 and ("lost", None) in told
    assert "ignored" not in capfd.readouterr().err


def test_ctrl_c_ends_work_that_does_not_listen_though_it_would_not_end_itself():
    told = []
    with pytest.raises(KeyboardInterrupt), child("deaf", told=told, listens=False) as running:
        pid = until(told)
        start = time.monotonic()
        ctrl_c_in(0.1)
        running.result()
    assert time.monotonic() - start < 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_ctrl_c_while_a_process_starts_leaves_none_behind(capfd, monkeypatch):
    started = []
    begin = multiprocessing.context.SpawnProcess.start

    def start(process):
        begin(process)
        started.append(process.pid)
        for pid in (process.pid, os.getpid()):  # as a terminal does
            os.kill(pid, signal.SIGINT)

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start)
    with pytest.raises(KeyboardInterrupt):
        child("wait")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
    assert "Traceback" not in capfd.readouterr().err


def test_an_error_is_raised_here_with_its_type_and_its_traceback():
    with child("break_off") as work:
        with pytest.raises(DataError, match="expected this, got that") as error:
            work.result()
        with pytest.raises(DataError):
            work.check()
    assert "in break_off" in str(error.value.__cause__)


def test_a_result_that_cannot_be_sent_is_an_error():
    with child("unsendable") as work, pytest.raises(RuntimeError, match="pickle"):
        work.result()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_is_reported_with_the_signal(number):
    with child("die", int(number)) as work, pytest.raises(ChildDied, match=f"signal {number:d}"):
        work.result()


@pytest.mark.parametrize("work, grace", [("stubborn", 2.0), ("deaf", 0.2)])
def test_no_process_is_left_when_its_parent_gives_up(work, grace, monkeypatch):
    """deaf: one that doesn't end when it is told to."""
    monkeypatch.setattr(Child.__module__ + ".GRACE", grace)
    told = []
    with pytest.raises(ZeroDivisionError), child(work, told=told):
        pid = until(told)
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
