"""Several pieces of work at once, in threads, and Ctrl-C for all of them."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def side_by_side(work: Callable[[K], T], items: Sequence[K]) -> list[T]:
    """[work(item) for item in items], each in a thread of its own; a single one in this thread.

    Ctrl-C is raised in all of them, as if each ran alone: what work makes of it is the result. If
    one fails, the others are interrupted, and its error is raised here when they have ended.
    """
    if len(items) == 1:
        return [work(items[0])]
    running: set[int] = set()
    failed: list[BaseException] = []

    def interrupt() -> None:
        for ident in running - {threading.get_ident()}:
            error = ctypes.py_object(KeyboardInterrupt)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), error)

    def run(item: K) -> T:
        running.add(threading.get_ident())
        try:
            return work(item)
        except BaseException as error:
            failed.append(error)
            interrupt()
            raise
        finally:
            running.discard(threading.get_ident())

    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(run, item) for item in items]
        waiting = True
        while waiting:
            try:  # by turns: a signal that another thread caught doesn't end the waiting
                waiting = bool(wait(futures, 0.5).not_done)
            except KeyboardInterrupt:
                interrupt()
    if failed:
        raise failed[0]
    return [future.result() for future in futures]
