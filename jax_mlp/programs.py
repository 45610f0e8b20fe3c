"""Compiled programs outlive the process: a first start compiles for 2 to 3 s, a second reads."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from mlp_core import cache

FOLDER = "jax_compilation_cache_dir"
# JAX keeps by default only what took over a second.
SECONDS = "jax_persistent_cache_min_compile_time_secs"

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


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # JAX asks once whether there is a folder
