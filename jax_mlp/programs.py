"""Compiled programs outlive the process: a first start compiles for 2 to 3 s, a second reads."""

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.extend import core

from mlp_core import cache

FOLDER = "jax_compilation_cache_dir"
# JAX keeps by default only what took over a second.
SECONDS = "jax_persistent_cache_min_compile_time_secs"

# Equations, above which XLA's fusion on the CPU takes longer than all the rest of a compilation: an
# encoder of 1, 3, 5, 10 layers (550 to 4,600) compiles in 0.8, 2.1, 4.1, 17 s, without it in 1.7,
# 1.9, 1.9, 2.5 s.
LARGE = 1200
UNFUSED = {"xla_disable_hlo_passes": "fusion"}

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
        leaves, structure = jax.tree.flatten(args)
        kind = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if kind not in self._programs:
            self._programs[kind] = self.compiled(*args)
        return self._programs[kind](*args)

    def forget(self) -> None:
        """Let go of the programs; the next call compiles again."""
        self._programs.clear()

    def compiled(self, *args: Any) -> Any:
        """The program for such arguments."""
        unfused = self.large(*args) and jax.default_backend() == "cpu"
        return self._jitted.trace(*args).lower().compile(UNFUSED if unfused else None)

    def large(self, *args: Any) -> bool:
        """Whether the program for such arguments has more equations than LARGE; JAX keeps what
        it has traced."""
        return equations(self._jitted.trace(*args).jaxpr.jaxpr) > LARGE


def equations(jaxpr: core.Jaxpr) -> int:
    """How many a jaxpr holds, those of inner ones among them."""
    inner = (core.jaxprs_in_params(eqn.params) for eqn in jaxpr.eqns)
    return len(jaxpr.eqns) + sum(equations(j) for each in inner for j in each)


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # JAX asks once whether there is a folder
