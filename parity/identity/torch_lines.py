"""The user's line of a Torch operation, forward and backward, while it runs."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch

_OURS = tuple(
    str(home) for home in (Path(torch.__file__).parent, Path(__file__).resolve().parents[1])
)
_STANDARD = str(Path(contextlib.__file__).parent)
_LAYERS = ("torch/nn/functional", "torch/nn/modules", "torch/optim", "torch_losses")
_KINDS: dict[str, str] = {}


class TorchLines:
    """Remembers the line of each forward operation for its backward pass."""

    def __init__(self) -> None:
        self._forward: dict[int, str] = {}

    def line(self) -> str:
        """file:line (function) of the operation that has just run."""
        node: Any = torch._C._current_autograd_node()
        if node is not None:
            return self._forward.get(node._sequence_nr(), "")
        found = _line()
        last = torch.autograd._get_sequence_nr() - 1  # of the node that autograd just made
        self._forward.setdefault(last, found)
        return found


def _line() -> str:
    """Of the innermost frame that is the user's, within our own call; else of Torch's layers."""
    frame: Any = sys._getframe(2)
    fallback = ""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "evaluated" and code.co_filename.endswith("identity/contest.py"):
            break
        kind = _KINDS.setdefault(code.co_filename, _kind(code.co_filename))
        if kind == "user":
            return f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
        if kind and not fallback:
            fallback = f"{code.co_filename}:{frame.f_lineno} ({code.co_name})"
        frame = frame.f_back
    return fallback


def _kind(file: str) -> str:
    wrapper = "/jaxtyping/" in file or "/beartype/" in file
    standard = wrapper or (file.startswith(_STANDARD) and "site-packages" not in file)
    if not file.startswith(_OURS) and not standard and Path(file).is_absolute():
        return "user"
    return "layer" if any(part in file for part in _LAYERS) and "module.py" not in file else ""
