"""A side's own Trainer, on the device that the user names."""

import contextlib
from collections.abc import Iterator
from typing import Any

from parity.device import Device, DeviceMissing


@contextlib.contextmanager
def on(device: Device | None, side: str, beside_jax: bool = False) -> Iterator[dict[str, Any]]:
    """While it lasts "jax" or "torch" computes there; gives what its Trainer takes besides.

    None: where it computes by itself, which for Torch is the CPU. beside_jax: which computes on
    the device, too; then Torch takes the CPU in place of a TPU. Raises DeviceMissing.
    """
    if side == "torch":
        from parity.sides.torch_device import torch_device

        if device == "tpu" and not beside_jax:
            raise DeviceMissing(
                "device: 'tpu', but Torch has none: --device cpu or cuda, or JAX's side"
            )
        yield {"num_gpus": 1} if device and torch_device(device).type == "cuda" else {}
    else:
        import jax

        from parity.sides.jax_device import jax_device

        with jax.default_device(jax_device(device)) if device else contextlib.nullcontext():
            yield {}
