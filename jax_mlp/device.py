"""Where JAX computes what names no device."""

import jax

DEFAULT = "jax_default_device"


def default_device() -> jax.Device:
    """The user's default, by jax.default_device or jax_default_device; else the first there is."""
    chosen = getattr(jax.config, DEFAULT)
    return chosen if isinstance(chosen, jax.Device) else jax.devices(chosen)[0]
