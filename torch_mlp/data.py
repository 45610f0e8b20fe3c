"""DataModule and FashionMNIST; torchvision reads the files on this side (d2l 3.2, 4.2)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from mlp_core import fashion_mnist
from mlp_core.idx import DataError
from mlp_core.schedule import Schedule
from mlp_core.shell import HyperParameters, show_images

try:
    from torchvision import transforms
    from torchvision.datasets import FashionMNIST as Reader
except ImportError:
    from torch_mlp import without_torchvision as transforms
    from torch_mlp.without_torchvision import Reader


class DataModule(HyperParameters):
    """The base class of data: one loader for training, one for validation.

    >>> import torch_mlp as d2l
    >>> class Rows(d2l.DataModule):
    ...     def __init__(self, batch_size=4):
    ...         super().__init__()
    ...         self.save_hyperparameters()
    ...     def get_dataloader(self, train):
    ...         rows = torch.arange(24.0).reshape(6, 4), torch.arange(6) % 3
    ...         return self.get_tensorloader(rows, train)
    >>> [len(labels) for _, labels in Rows().train_dataloader()]
    [4, 2]
    """

    def __init__(self, root: str = "../data", num_workers: int = 4) -> None:
        self.save_hyperparameters()

    def get_dataloader(self, train: bool) -> Any:
        raise NotImplementedError(f"{type(self).__name__}.get_dataloader")

    def train_dataloader(self) -> Any:
        return self.get_dataloader(train=True)

    def val_dataloader(self) -> Any:
        return self.get_dataloader(train=False)

    def get_tensorloader(
        self, tensors: Sequence[Tensor], train: bool, indices: slice = slice(0, None)
    ) -> DataLoader:
        """Batches of `self.batch_size` rows out of tensors that lie in memory."""
        rows = TensorDataset(*(tensor[indices] for tensor in tensors))
        return DataLoader(rows, self.batch_size, shuffle=train)


class Images(Reader):
    """Torchvision's data set, which also takes many indices (list or array) and gives their batch.

    The batch has the bits that ToTensor gives each image: uint8 to float32, divided by 255.
    """

    def __init__(
        self, dataset: fashion_mnist.Dataset, train: bool, resize: tuple[int, int]
    ) -> None:
        """Raises DataError if torchvision finds something else than what was verified."""
        resized = resize != (28, 28)
        steps = [transforms.Resize(resize)] if resized else []
        super().__init__(
            dataset.root, train=train, transform=transforms.Compose([*steps, transforms.ToTensor()])
        )
        split = dataset.train if train else dataset.val
        for what, found, verified in (
            ("images", self.data, split.images),
            ("labels", self.targets, split.labels),
        ):
            if not np.array_equal(found.numpy(), verified):
                expected, got = f"the {what} that were verified", "others, read by torchvision"
                raise DataError(self.raw_folder, expected, got, "do the files change?")
        self.whole_batches = not resized

    @property
    def raw_folder(self) -> str:
        return os.path.join(self.root, "FashionMNIST", "raw")

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, (list, np.ndarray)):
            return super().__getitem__(index)
        # index_select copies rows: 10 us a batch of 256, where self.data[index] takes 200.
        rows = torch.from_numpy(np.asarray(index))
        labels = self.targets.index_select(0, rows)
        if self.whole_batches:
            return to_float(self.data.index_select(0, rows)), labels
        return torch.stack([super(Images, self).__getitem__(i)[0] for i in index]), labels


def to_float(
    images: UInt8[Tensor, "batch height width"],
) -> Float[Tensor, "batch 1 height width"]:
    """k / 255 for each byte k, rounded once: the bits that ToTensor gives, on every device.

    On CUDA, Torch multiplies by the reciprocal of a divisor that is a number of the host's, which
    rounds 126 of the 256 values otherwise; by a divisor that lies where the images lie it divides.
    """
    return images.unsqueeze(1).div(torch.full((), 255.0, device=images.device))


class Shuffled(Sampler):
    """Batches of indices, as arrays, shuffled by Torch's global generator: the book's order.

    The same numbers as BatchSampler(RandomSampler(...)), which makes Python lists of them: 26 us a
    batch of 256 where this takes 5.
    """

    def __init__(self, num_examples: int, batch_size: int) -> None:
        self.num_examples, self.batch_size = num_examples, batch_size

    def __len__(self) -> int:
        return -(-self.num_examples // self.batch_size)

    def __iter__(self) -> Iterator[Int[np.ndarray, "batch"]]:
        own = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        order = torch.randperm(self.num_examples, generator=own)
        yield from map(Tensor.numpy, order.split(self.batch_size))


class ScheduleSampler(Sampler):
    """Batches of a Schedule: the order that every side shares. Each pass is the next epoch."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.next_epoch = 0

    def __len__(self) -> int:
        return len(self.schedule)

    def state_dict(self) -> dict[str, int]:
        """Which order it follows, and where it is in it: what a checkpoint keeps."""
        return {"seed": self.schedule.seed, "next_epoch": self.next_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another sampler was."""
        self.schedule = replace(self.schedule, seed=int(state["seed"]))
        self.next_epoch = int(state["next_epoch"])

    def __iter__(self) -> Iterator[Int[np.ndarray, "batch"]]:
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        yield from self.schedule.batches(epoch)


class FashionMNIST(DataModule):
    """Fashion-MNIST in batches (X [batch, 1, height, width] in [0, 1], labels [batch] int64).

    >>> import torch_mlp as d2l
    >>> data = d2l.FashionMNIST(batch_size=256, data="sample")
    >>> len(data.train_dataloader()), data.text_labels([0, 9])
    (24, ['t-shirt', 'ankle boot'])
    """

    def __init__(
        self,
        batch_size: int = 64,
        resize: tuple[int, int] = (28, 28),
        data: str | os.PathLike | None = None,
        seed: int | None = None,
    ) -> None:
        """data: where to look, see mlp_core.fashion_mnist.load. seed: None shuffles with Torch's
        global generator, as the book does; a number, with the Schedule that both sides share.
        """
        super().__init__()
        self.save_hyperparameters()
        self.dataset = fashion_mnist.load(data)
        self.root = self.dataset.root
        size = (resize[0], resize[1])
        self.train = Images(self.dataset, train=True, resize=size)
        self.val = Images(self.dataset, train=False, resize=size)

    def text_labels(self, indices: Any) -> list[str]:
        """Names of label numbers."""
        return [fashion_mnist.CLASSES[int(i)] for i in indices]

    def get_dataloader(self, train: bool) -> DataLoader:
        # A loader that is handed whole lists of indices draws from Torch's generator what the
        # book's loader with four workers draws, and collates nothing: same numbers, 7 times faster.
        data = self.train if train else self.val
        sampler: Sampler
        if train and self.seed is None:
            sampler = Shuffled(len(data), self.batch_size)
        else:
            schedule = Schedule(len(data), self.batch_size, self.seed or 0, shuffle=train)
            sampler = ScheduleSampler(schedule)
        return DataLoader(data, batch_size=None, sampler=sampler)

    def visualize(
        self, batch: Any, nrows: int = 1, ncols: int = 8, labels: Sequence[str] = ()
    ) -> None:
        """Draw the images of a batch with their names."""
        X, y = batch
        show_images(X.squeeze(1), nrows, ncols, titles=labels or self.text_labels(y))
