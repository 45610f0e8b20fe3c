"""The types in which a Torch model computes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.side import Narrowest

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution"}


class Types(TorchDispatchMode):
    """While it lasts, keeps the type of every floating result narrower than float64, with its
    operation. given: what isn't constant; what depends on it joins."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()
        self.found = [Narrowest()]
        self.products: set[str] = set()  # the types of all products
        self._given = {id(tensor): tensor for tensor in given}  # kept, so that no id comes twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        depends = any(id(x) in self._given for x in given if isinstance(x, torch.Tensor))
        for one in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(one, torch.Tensor):
                self._given |= {id(one): one} if depends else {}
                if func.overloadpacket.__name__ in PRODUCTS:
                    self.products.add(str(one.dtype).removeprefix("torch."))
                if one.is_floating_point() and one.dtype != torch.float64:
                    kind = str(one.dtype).removeprefix("torch.")
                    self.found.append(Narrowest(kind, str(func.overloadpacket), not depends))
        return out


class Touched(TorchDispatchMode):
    """While it lasts, collects the names of those given tensors that an operation takes."""

    def __init__(self, named: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.names: set[str] = set()
        self._at = {tensor.untyped_storage().data_ptr(): name for name, tensor in named.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        at = {x.untyped_storage().data_ptr() for x in given if isinstance(x, torch.Tensor)}
        self.names |= {self._at[one] for one in at & self._at.keys()}
        return func(*args, **(kwargs or {}))
