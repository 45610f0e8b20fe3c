"""Where a JAX side computes."""

import jax

from jax_mlp.device import GPU, default_device
from parity.device import DeviceMissing, driver


def jax_device(name: str | None, dtype: str = "float32") -> jax.Device:
    """JAX's device of that name; None: its default. For float64, which a TPU has not, the CPU
    instead of one.

    Raises DeviceMissing.
    """
    try:
        found = jax.devices(name)[0] if name else default_device()
    except RuntimeError:
        there = ", ".join(sorted({device.platform for device in jax.devices()} | {"cpu"}))
        raise DeviceMissing(
            f"device: '{name}', but JAX {jax.__version__} finds none here, only {there}; "
            "pip install 'mlp-parity[cuda13]' or 'mlp-parity[tpu]' adds others"
        ) from None
    return jax.devices("cpu")[0] if found.platform == "tpu" and dtype == "float64" else found


def about_device(device: jax.Device) -> dict[str, str]:
    """Its name; of a GPU also the driver, and the CUDA that JAX runs with."""
    about = {"device": device.device_kind}
    if device.platform in GPU:
        version = device.client.platform_version.splitlines()
        about |= {"driver": driver(), "runtime": version[-1] if version else "unknown"}
    return about
