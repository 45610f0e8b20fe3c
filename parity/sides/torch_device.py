"""Where a Torch side computes."""

from typing import Any

import torch

from parity.device import DeviceMissing, driver


def torch_device(name: str | None, model: torch.nn.Module | None = None) -> torch.device:
    """The device of that name, the CPU for a TPU, which Torch lacks; None: where the model lies.

    Raises DeviceMissing, and ValueError for a model on several devices, or on one of another kind.
    """
    if name == "cuda":
        if not torch.cuda.is_available():
            raise DeviceMissing(
                f"device: 'cuda', but Torch {torch.__version__} finds none here: a build for CUDA, "
                "a driver and a GPU are needed"
            )
        return torch.device("cuda", torch.cuda.current_device())
    if name is not None:
        return torch.device("cpu")
    lies: dict[Any, str] = {}
    named = (*model.named_parameters(), *model.named_buffers()) if model is not None else ()
    for what, value in named:
        lies.setdefault(value.device, what)
    if len(lies) > 1:
        shown = ", ".join(f"'{what}' on {where}" for where, what in lies.items())
        raise ValueError(f"torch: the model lies on several devices, {shown}; model.cpu()")
    found = next(iter(lies), torch.device("cpu"))
    if found.type not in ("cpu", "cuda"):
        raise ValueError(
            f"torch: '{lies[found]}' is on {found}, expected the CPU or CUDA: model.cpu()"
        )
    return found


def about_device(device: torch.device) -> dict[str, str]:
    """Its name; of a GPU also the driver, and the CUDA that Torch was built with."""
    if device.type != "cuda":
        return {"device": "cpu"}
    name = torch.cuda.get_device_name(device)
    return {"device": name, "driver": driver(), "runtime": f"cuda {torch.version.cuda}"}
