"""The examples of a problem as Torch's Trainer takes them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

import torch_mlp
import torch_mlp.data
from parity.problem import Examples
from parity.sides.side import Batch
from parity.trees import Tree, filled, leaves, mapped


class TorchData(torch_mlp.DataModule):
    """The examples; flat: batches are (*inputs, targets), else (inputs, targets)."""

    def __init__(self, examples: Examples, flat: bool = True) -> None:
        self.examples, self.flat = examples, flat

    def get_dataloader(self, train: bool) -> Any:
        e = self.examples
        if not train and not e.validated:
            return None
        rows: Any
        if e.arrays is None:
            data = torch_mlp.FashionMNIST(e.batch_size, data=e.source, seed=e.seed)
            if e.limit is None:
                return data.get_dataloader(train)
            rows = data.train if train else data.val
        elif part := e.part(train):
            rows = _Rows(part, self)
        else:
            return None
        sampler = torch_mlp.data.ScheduleSampler(e.schedule(len(rows), train))
        return torch.utils.data.DataLoader(rows, batch_size=None, sampler=sampler)

    def joined(self, inputs: Tree, targets: Tree) -> Any:
        """A batch as the model's training_step takes it."""
        if not self.flat:
            return inputs, targets
        return (*inputs, targets) if isinstance(inputs, tuple) else (inputs, targets)

    def cut(self, batch: Any) -> Batch:
        """(inputs, targets) of a batch, as NumPy's arrays."""
        *inputs, targets = batch
        return mapped(_own, inputs[0] if len(inputs) == 1 else tuple(inputs)), mapped(_own, targets)


class _Rows(torch.utils.data.Dataset):
    """Batches by a list of indices, out of trees of arrays."""

    def __init__(self, part: Batch, data: TorchData) -> None:
        self.part, self.data = part, data
        self.leaves = [tensor(np.array(leaf)) for leaf in leaves(part).values()]

    def __len__(self) -> int:
        return len(self.leaves[0])

    def __getitem__(self, rows: Any) -> Any:
        taken = iter([leaf[rows] for leaf in self.leaves])
        return self.data.joined(*filled(self.part, taken))


def tensor(array: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of its own; integers as int64, which Torch's indices are. dtype: of floats."""
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        made = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    else:
        made = torch.from_numpy(np.require(array, requirements=["W", "C"]))
    if made.is_floating_point():
        wide = dtype is not None and torch.float64 in (dtype, made.dtype)
        return made.to(dtype) if wide else made
    return made if made.dtype == torch.bool else made.long()


def view(tensor: torch.Tensor) -> np.ndarray:
    """In NumPy, without a copy if it has the type."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _own(tensor: torch.Tensor) -> np.ndarray:
    """As `numpy`, but bfloat16 as the type that JAX has for it."""
    array = numpy(tensor)
    return array.astype(jnp.bfloat16) if tensor.dtype == torch.bfloat16 else array


def numpy(tensor: Any) -> np.ndarray:
    """A copy in NumPy; integers as int32, as JAX has them, and what NumPy lacks as float32."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array = tensor.cpu().numpy().copy()
    return array.astype(np.int32) if array.dtype == np.int64 else array
