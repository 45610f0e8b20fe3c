"""Data that lie in a GPU's memory, so that a step copies nothing to it.

    X_step = to_float(images[order[step]])

The arrays go there once a fit, images as bytes; an epoch's order once an epoch.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
    default_convert,
)

from torch_mlp.data import Images, ScheduleSampler, Shuffled, to_float

Convert = Callable[..., Any]  # (rows of each array) -> what the data set's batch holds


class Resident:
    """The batches of a loader, in its order and to its bits, out of a device's memory.

    Torch's generators give an epoch's order as they give it to the loader: the same numbers, drawn
    at the same moment. What the data set holds later than now isn't seen.
    """

    def __init__(self, loader: Any, device: torch.device) -> None:
        """Raises NotResident with the reason why the loader's data are better read by it."""
        held, self.convert = arrays_of(loader)
        self.loader, self.device = loader, device
        size = sum(array.nbytes for array in held)
        free = free_bytes(device)
        if free is not None and size > free / 2:  # the rest is for what the training itself needs
            raise NoRoom(
                f"the data are {size / 1e6:,.0f} MB, more than half of the {free / 1e6:,.0f} MB "
                "that are free on the GPU"
            )
        self.arrays = [array.to(device) for array in held]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        order = [np.asarray(rows) for rows in _indices(self.loader)]
        if order:
            lies = torch.from_numpy(np.concatenate(order)).to(self.device)
            for rows in lies.split([*map(len, order)]):
                yield self.convert(*(array.index_select(0, rows) for array in self.arrays))


class NotResident(Exception):
    """Why a loader's data do not lie on the device."""


class NoRoom(NotResident):
    """The device has too little memory."""


def put_there(
    loaders: Mapping[str, Any], device: torch.device, why_not: str = ""
) -> tuple[list[Resident], dict[str, str]]:
    """Those that can be, as Resident; and of each where its data lie, and why not there.

    why_not: a reason for all of them. Warns of data that do not fit.
    """
    found, said = [], {}
    for name, loader in loaders.items():
        if loader is None:
            continue
        said[name] = "on the GPU"
        try:
            if why_not:
                raise NotResident(why_not)
            found.append(Resident(loader, device))
        except NotResident as reason:
            said[name] = f"on the host: {reason}"
            if isinstance(reason, NoRoom):
                warnings.warn(f"Trainer: {name}: {said[name]}", stacklevel=4)
    return found, said


def arrays_of(loader: Any) -> tuple[list[Tensor], Convert]:
    """What a loader's batches are rows of, and how rows become a batch.

    Raises NotResident for a loader that may do anything else than that: one of another class, with
    worker processes, with a sampler, a data set or a collation of the user's own.
    """
    if type(loader) is not DataLoader:
        raise NotResident(f"a {type(loader).__name__} makes its batches itself")
    if loader.num_workers:
        raise NotResident(f"the loader has {loader.num_workers} workers, which make its batches")
    sampler: Any = loader.sampler
    collate: Callable[[Any], Any] = default_convert
    if loader.batch_sampler is not None:
        sampler, collate = getattr(loader.batch_sampler, "sampler", None), default_collate
        if type(loader.batch_sampler) is not BatchSampler:
            raise NotResident(f"batches are drawn by a {type(loader.batch_sampler).__name__}")
    # One that draws as it goes, or from a generator that others draw from, draws no epoch at once.
    whole = type(sampler) is RandomSampler and not (sampler.replacement or sampler.generator)
    if not whole and type(sampler) not in (Shuffled, ScheduleSampler, SequentialSampler):
        raise NotResident(f"examples are drawn by a {type(sampler).__name__} of its own")
    if loader.collate_fn is not collate:
        raise NotResident("batches are put together by a collate_fn of its own")
    data = loader.dataset
    if type(data) is TensorDataset:
        return [*data.tensors], lambda *rows: rows
    if type(data) is Images and data.whole_batches:
        return [data.data, data.targets], lambda images, labels: (to_float(images), labels)
    raise NotResident(f"its data set, {type(data).__name__}, makes each example itself")


def free_bytes(device: torch.device) -> int | None:
    """What may still be allocated there; None where nobody says."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


class _Itself:
    """A data set whose examples are their numbers, one or many."""

    def __getitem__(self, index: Any) -> Any:
        return index

    def __getitems__(self, indices: Any) -> Any:
        return indices


def _indices(loader: DataLoader) -> Iterator[Any]:
    """Of each batch, its indices: by a loader that draws from Torch's generators what this does."""
    how: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if loader.batch_sampler is None:
        how = {"batch_size": None, "sampler": loader.sampler}
    numbers: Any = _Itself()
    yield from DataLoader(numbers, collate_fn=_as_it_is, generator=loader.generator, **how)


def _as_it_is(indices: Any) -> Any:
    return indices
