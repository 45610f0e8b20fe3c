"""Where JAX computes what names no device."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

DEFAULT = "jax_default_device"
GPU = ("gpu", "cuda")  # as devices call it, and as programs do
_COMPILED_FOR: ContextVar[str] = ContextVar("_COMPILED_FOR")


def default_device() -> jax.Device:
    """The user's default, by jax.default_device or jax_default_device; else the first there is."""
    chosen = getattr(jax.config, DEFAULT)
    return chosen if isinstance(chosen, jax.Device) else jax.devices(chosen)[0]


def platform() -> str:
    """Of the device that a program is traced for: the default one, or see compiling_for."""
    return _COMPILED_FOR.get("") or default_device().platform


@contextlib.contextmanager
def compiling_for(name: str) -> Iterator[None]:
    """What is traced meanwhile is compiled for such a platform, which needn't be there."""
    token = _COMPILED_FOR.set(name)
    try:
        yield
    finally:
        _COMPILED_FOR.reset(token)
