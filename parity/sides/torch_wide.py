"""float32 asked for by name, in a float64 run."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Wide(TorchFunctionMode):
    """While it lasts, float32 asked for by name is float64.

    Decoders convert to float32 before a norm or a softmax, for the sake of inputs in half
    precision. Of float32 numbers that is no conversion; in float64 it would be one to less.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args, kwargs = torch.utils._pytree.tree_map_only(
            torch.dtype, lambda t: torch.float64 if t == torch.float32 else t, (args, kwargs or {})
        )
        return func(*args, **kwargs)
