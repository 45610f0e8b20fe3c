"""A worker's end of the pipe: it warms up, then runs an epoch whenever it is told to.

Every contender runs in a process of its own, so that no framework's threads, memory or settings
touch another's; the parent calls them in turn, A B C A B C, and only one computes at a time.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


class Pace:
    """Answers are lines of JSON. device_bytes: reads the device's peak memory, where it has one."""

    def __init__(self, read: TextIO, write: TextIO) -> None:
        self._read, self._write = read, write
        self.device_bytes: Callable[[], int | None] = lambda: None

    def tell(self, **what: Any) -> None:
        print(json.dumps(what), file=self._write, flush=True)

    def wait(self) -> None:
        """Until the parent asks for an epoch. Ends the process when it asks for no more."""
        if not self._read.readline():
            sys.exit(0)

    def ready(self, compile_seconds: float, versions: dict[str, str], device: str) -> None:
        """After the warm-up, which is not measured."""
        self.tell(compile_seconds=compile_seconds, versions=versions, device=device)

    def report(self, seconds: float) -> None:
        self.tell(seconds=seconds, host_bytes=host_bytes(), device_bytes=self.device_bytes())

    def run(self, epoch: Callable[[], Any], versions: dict[str, str], device: str) -> None:
        """Measure `epoch`, which returns when its work is done; its first call may compile."""
        start = time.perf_counter()
        epoch()
        first = time.perf_counter() - start
        start = time.perf_counter()
        epoch()
        again = time.perf_counter() - start
        self.ready(max(0.0, first - again), versions, device)
        while True:
            self.wait()
            start = time.perf_counter()
            epoch()
            self.report(time.perf_counter() - start)

    def train(
        self, trainer_class: type, *options: Any, model: Any, data: Any, **named: Any
    ) -> None:
        """Measure the epochs of a room's own Trainer: the path that users run."""
        pace = self

        class Paced(trainer_class):
            def fit_epoch(self) -> None:
                if self.epoch > 1:  # two epochs to warm up
                    pace.wait()
                super().fit_epoch()
                about = self.history.about
                if self.epoch == 1:
                    pace.ready(self.history.compile_seconds, about["versions"], about["device"])
                elif self.epoch:
                    pace.report(self.history.epochs[-1].seconds)

        Paced(sys.maxsize, *options, **named).fit(model, data)


def host_bytes() -> int:
    """The largest resident size of this process. getrusage would count its parent's before exec."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
