"""The user's line of a Torch operation, while it runs."""

import contextlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

_OURS = tuple(
    str(home) for home in (Path(torch.__file__).parent, Path(__file__).resolve().parents[1])
)
_STANDARD = str(Path(contextlib.__file__).parent)
_LAYERS = ("torch/nn/functional", "torch/nn/modules", "torch/optim", "torch_losses")


def user_line(file: str, function: str) -> str:
    """file:line (function) of the innermost frame that is the user's, within a function of ours;
    where there is none, of the innermost of Torch's layers and optimisers, or of our losses."""
    frame: Any = sys._getframe(1)
    fallback = ""
    while frame is not None:
        code = frame.f_code
        if code.co_name == function and code.co_filename == file:
            break
        kind = _kind(code.co_filename)
        if kind == "user":
            return f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
        if kind and not fallback:
            fallback = f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
        frame = frame.f_back
    return fallback


@cache
def _kind(file: str) -> str:
    checks = "/jaxtyping/" in file or "/beartype/" in file
    standard = checks or (file.startswith(_STANDARD) and "site-packages" not in file)
    if not file.startswith(_OURS) and not standard and Path(file).is_absolute():
        return "user"
    layer = any(part in file for part in _LAYERS) and not file.endswith("module.py")
    return "layer" if layer else ""
