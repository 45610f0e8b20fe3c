"""Figures that a GPU has computed or will have: read many at once, and not each in its step."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

Take = Callable[[float], Any]

# To read a figure is to wait for all that the GPU was given before it; a step that isn't waited for
# is given while the one before it runs. A board that is a tenth of a second late looks the same.
SECONDS = 0.1


class Unread:
    """Figures in the order in which they came, each with what takes it as a number.

    >>> losses = []
    >>> figures = Unread()
    >>> figures.put(torch.tensor(0.5), losses.append)
    >>> losses
    []
    >>> figures.read()
    >>> losses
    [0.5]
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[torch.Tensor | float, Take]] = deque()
        self._last = time.perf_counter()

    def put(self, value: torch.Tensor | float | int, take: Take) -> None:
        """Keep a copy: float64 holds every float of 32 bits or fewer, and in place of the tensor
        another may lie at the next step."""
        if isinstance(value, torch.Tensor):
            value = value.detach().reshape(()).to(torch.float64, copy=True)
        self._waiting.append((value, take))

    def read_now_and_then(self) -> None:
        if time.perf_counter() - self._last > SECONDS:
            self.read()

    def read(self) -> None:
        """Hand over all figures, after one copy from the device."""
        there = [value for value, _ in self._waiting if isinstance(value, torch.Tensor)]
        numbers = iter(torch.stack(there).tolist() if there else ())
        for _ in range(len(self._waiting)):
            value, take = self._waiting[0]
            take(next(numbers) if isinstance(value, torch.Tensor) else float(value))
            self._waiting.popleft()
        self._last = time.perf_counter()
