"""Compiled programs outlive the process: a first start compiles for 2 to 3 s, a second reads."""

import contextlib
import functools
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend import core

from jax_mlp.device import GPU
from mlp_core import cache

FOLDER = "jax_compilation_cache_dir"
# JAX keeps by default only what took over a second.
SECONDS = "jax_persistent_cache_min_compile_time_secs"

# Equations, above which XLA's fusion on the CPU takes longer than all the rest of a compilation: an
# encoder of 1, 3, 5, 10 layers (550 to 4,600) compiles in 0.8, 2.1, 4.1, 17 s, without it in 1.7,
# 1.9, 1.9, 2.5 s.
LARGE = 1200
UNFUSED = {"xla_disable_hlo_passes": "fusion"}

# The loop of an epoch as one graph of a GPU: by default the host starts each step.
COMMAND_BUFFER = "xla_gpu_enable_command_buffer"
GRAPH = {
    COMMAND_BUFFER: "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE",
    "xla_gpu_graph_min_graph_size": 1,
}
LOOPS = 12_090  # CUDA 12.9; before it loops of a known length were reported to crash in graphs

MAPS = 16_000  # of the 65,530 that Linux allows a process; a program takes a dozen

_lock, _users = threading.Lock(), 0
_before: dict[str, Any] = {}  # the settings that the last user of them brings back


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While it lasts, in the user's cache if it can be written, unless JAX has a folder already."""
    global _users, _before
    with _lock:
        _users += 1
        if _users == 1 and getattr(jax.config, FOLDER) is None and (folder := cache.programs()):
            _before = {name: getattr(jax.config, name) for name in (FOLDER, SECONDS)}
            _set({FOLDER: str(folder), SECONDS: 0})
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users and _before:
                _set(_before)
                _before = {}
        if not _users:
            spare_maps()


def of_a_loop(device: Any) -> dict[str, Any] | None:
    """What XLA is told for an epoch's program on one device, unless XLA_FLAGS say so themselves."""
    chosen = COMMAND_BUFFER in os.environ.get("XLA_FLAGS", "")
    return GRAPH if device.platform in GPU and not chosen and _has_loops(device) else None


def _has_loops(device: Any) -> bool:
    """Whether its CUDA is known to have loops in graphs. What is only described names no version,
    and gets what the newest has."""
    version = getattr(getattr(device, "client", None), "platform_version", "")
    found = re.search(r"cuda (\d+)", version)
    return "rocm" not in version and (found is None or int(found[1]) >= LOOPS)


def spare_maps(most: int = MAPS) -> bool:
    """Have Python collect what nobody uses any more, if this process has more memory maps.

    JAX's own caches let a program go with its jaxpr, which is in a circle with the function that it
    is of; the collector counts objects, of which a program is few, and comes late. Returns whether.
    """
    try:
        with open("/proc/self/maps", "rb") as maps:
            many = maps.read().count(b"\n") > most
    except OSError:  # not on Linux, which alone has the limit
        return False
    if many:
        gc.collect()
    return many


class Quick:
    """A function, compiled once for each kind of arguments, for a few runs: a large one unfused."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._jitted = jax.jit(function)
        self._programs: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        kind = self._kind(args)
        program = self._programs.get(kind)
        if program is None or isinstance(program, Future):
            program = program.result() if program else self.compiled(*args)
            self._programs[kind] = program
        return program(*args)

    def prepare(self, *args: Any) -> None:
        """Compile for such arguments beside what this thread does next."""
        kind = self._kind(args)
        if kind not in self._programs:
            lowered, options = self._lowered(*args)
            self._programs[kind] = _beside().submit(lowered.compile, options)

    def forget(self) -> None:
        """Let go of the programs; the next call compiles again."""
        self._programs.clear()

    def compiled(self, *args: Any) -> Any:
        """The program for such arguments."""
        lowered, options = self._lowered(*args)
        return lowered.compile(options)

    def _lowered(self, *args: Any) -> tuple[Any, dict[str, Any] | None]:
        unfused = self.large(*args) and jax.default_backend() == "cpu"
        return self._jitted.trace(*args).lower(), UNFUSED if unfused else None

    @staticmethod
    def _kind(args: tuple[Any, ...]) -> Any:
        leaves, structure = jax.tree.flatten(args)
        return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)

    def large(self, *args: Any) -> bool:
        """Whether the program for such arguments has more equations than LARGE; JAX keeps what
        it has traced."""
        return equations(self._jitted.trace(*args).jaxpr.jaxpr) > LARGE


@functools.cache
def _beside() -> ThreadPoolExecutor:
    """One thread: XLA compiles without Python's lock, and uses all cores."""
    return ThreadPoolExecutor(1, "compiling")


def equations(jaxpr: core.Jaxpr) -> int:
    """How many a jaxpr holds, those of inner ones among them."""
    inner = (core.jaxprs_in_params(eqn.params) for eqn in jaxpr.eqns)
    return len(jaxpr.eqns) + sum(equations(j) for each in inner for j in each)


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # JAX asks once whether there is a folder
