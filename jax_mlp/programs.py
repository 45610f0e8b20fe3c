"""Compiled programs outlive the process: a first start compiles for 2 to 3 s, a second reads."""

import contextlib
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from mlp_core import cache

# JAX keeps by default only what took over a second.
SETTINGS = {"jax_persistent_cache_min_compile_time_secs": 0}


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While it lasts, in the user's cache, unless JAX has a folder for them already."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        yield
        return
    settings = {"jax_compilation_cache_dir": str(cache.programs()), **SETTINGS}
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
