"""Compiled programs outlive the process: a check compiles some fifty, for most of its time."""

import contextlib
import os
from collections.abc import Iterator

from mlp_core import cache

# JAX keeps by default only what took over a second.
SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0}


def folder() -> str:
    """Where they are kept: in the user's cache."""
    return str(cache.folder() / "xla")


def keep_by_environment() -> None:
    """In this process and its children, unless they were told otherwise; before JAX is there."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", folder())
    for name, value in SETTINGS.items():
        os.environ.setdefault(name.upper(), str(value))


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While it lasts, unless JAX has a folder for them already."""
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        yield
        return
    settings = {"jax_compilation_cache_dir": folder(), **SETTINGS}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        reset_cache()  # JAX asks once whether there is one
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
