"""The parent's end: a process for each row, called in turn, one computing at a time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from parity.device import Device
from parity.studies.bench.timing import Row, Size

# Right behind scikit-learn the next row took a fifth to a third longer, after a rest it doesn't.
REST = 0.3  # seconds


class Missing(Exception):
    """A row that can't be run here, and why."""


class Worker:
    """One row at one size, in a process of its own: it loads, warms up, then runs its rounds."""

    def __init__(
        self, name: str, size: Size, *, data: str | None, precision: str, device: Device | None
    ) -> None:
        self.name, self.size = name, size
        self.seconds: list[float] = []
        given = {
            "name": name,
            "room": "torch" if name.startswith("torch") else "jax",
            "size": asdict(size),
            "data": data,
            "precision": precision,
            "device": device,
        }
        # Compiling is measured, so nothing compiled before may help.
        env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false", "KERAS_BACKEND": "jax"}
        env |= {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        if device:
            env["JAX_PLATFORMS"] = device
        if device == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        command = [sys.executable, "-m", "parity.studies.bench.worker", json.dumps(given)]
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, **pipes)
        self._ready: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.communicate()

    def load(self) -> None:
        """Wait until it has imported what it needs. Raises Missing with the reason if it can't."""
        self._answer()

    def warm_up(self) -> None:
        """Let it compile and run two epochs. Raises Missing with the reason if it can't."""
        self._ready = self._go()

    def round(self) -> float:
        """Seconds of one more epoch."""
        self._last = self._go()
        self.seconds.append(self._last["seconds"])
        return self.seconds[-1]

    @property
    def device(self) -> str:
        return self._ready["device"]

    def row(self) -> Row:
        return Row(
            self.name, self.size, tuple(self.seconds), **self._ready,
            host_bytes=self._last["host_bytes"], device_bytes=self._last["device_bytes"],
        )  # fmt: skip

    def _go(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Missing(f"its process ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "missing" in answer:
            raise Missing(f"{answer['missing']} is not installed")
        if "error" in answer:
            raise Missing(answer["error"])
        return answer


def measure(
    names: Sequence[str],
    size: Size,
    rounds: int,
    *,
    on_start: Callable[[str], None],
    on_round: Callable[[], None],
    interleaved: bool = True,
    **options: Any,
) -> Iterator[Row | tuple[str, str]]:
    """The rows after `rounds` interleaved rounds, A B C A B C; (name, reason) for what can't run.

    interleaved: False ends each row's process before the next begins, A A B B C C. Ctrl-C ends
    the rounds: what has been measured at least once is given.
    """
    if not interleaved:
        ways: dict[str, Any] = {"on_start": on_start, "on_round": on_round} | options
        for name in names:
            yield from measure([name], size, rounds, **ways)
        return
    with ExitStack() as stack:
        # Imports may overlap, what is measured may not: the first warms up when all have loaded.
        workers = [stack.enter_context(Worker(name, size, **options)) for name in names]
        for doing, do in (("loading", Worker.load), ("warming up", Worker.warm_up)):
            for worker in list(workers):
                on_start(f"{worker.name}: {doing}")
                try:
                    do(worker)
                except Missing as reason:
                    workers.remove(worker)
                    yield worker.name, str(reason)
        try:
            for _ in range(rounds):
                for worker in workers:
                    time.sleep(REST)
                    worker.round()
                    on_round()
        except KeyboardInterrupt:
            yield from (w.row() for w in workers if w.seconds)
            raise
        yield from (w.row() for w in workers)
