"""DataModule and FashionMNIST: arrays that lie on the device, and the order to visit them in."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jax_mlp.keys import next_seed
from mlp_core import fashion_mnist
from mlp_core.schedule import Schedule
from mlp_core.shell import HyperParameters, progress_bar, show_images

Batch = tuple[Array, ...]

# 1/255 in two float32 parts. The first has 16 bits, so its product with a byte is exact; the second
# is exact to 2^-49. Their sum is rounded once, fused or not, and k/255 (whose binary digits repeat
# every 8 places) is never near a tie: all 256 values get the bits of a true division. XLA's own
# division by 255 is a multiplication and misses 126 of them by one ulp.
_HIGH = np.float32(round(2**23 / 255) / 2**23)
_LOW = np.float32(1 / 255 - float(_HIGH))


def to_float(images: UInt8[Array, "..."]) -> Float[Array, "..."]:
    """Bytes to [0, 1]: exactly the float32 nearest to k / 255, on every device."""
    k = images.astype(jnp.float32)
    return k * _HIGH + k * _LOW


class ArrayLoader:
    """Batches out of arrays of equal length, following a Schedule; each pass is the next epoch.

    The Trainer hands `arrays` and `next_order` to one compiled call. Iterating gives the same
    batches one at a time: transform(rows of each array).

        >>> loader = ArrayLoader([np.arange(5.0)], Schedule(5, batch_size=2, shuffle=False))
        >>> [rows.tolist() for rows, in loader]
        [[0.0, 1.0], [2.0, 3.0], [4.0]]
    """

    def __init__(
        self,
        arrays: Sequence[Any],
        schedule: Schedule,
        transform: Callable[..., Batch] = lambda *rows: rows,
    ) -> None:
        lengths = {len(array) for array in arrays}
        if lengths != {schedule.num_examples}:
            raise ValueError(
                f"ArrayLoader: arrays of lengths {sorted(lengths)}, "
                f"expected {schedule.num_examples} each, as in the schedule"
            )
        self.host_arrays = tuple(arrays)
        self.schedule = schedule
        self.transform = transform
        self.next_epoch = 0

    def __len__(self) -> int:
        return len(self.schedule)

    @cached_property
    def arrays(self) -> Batch:
        """The arrays on the device, put there once."""
        return tuple(jnp.asarray(array) for array in self.host_arrays)

    def next_order(self) -> Int[np.ndarray, "examples"]:
        """The order of examples in the next epoch."""
        epoch, self.next_epoch = self.next_epoch, self.next_epoch + 1
        return self.schedule.epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Which order it follows, and where it is in it: what a checkpoint keeps."""
        return {"seed": self.schedule.seed, "next_epoch": self.next_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another loader was."""
        self.schedule = replace(self.schedule, seed=int(state["seed"]))
        self.next_epoch = int(state["next_epoch"])

    def batch_like(self) -> Any:
        """Shapes and types of a batch of one example."""
        return jax.eval_shape(self.transform, *(array[:1] for array in self.host_arrays))

    def __iter__(self) -> Iterator[Batch]:
        order, size = self.next_order(), self.schedule.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield self.transform(*(jnp.asarray(array[rows]) for array in self.host_arrays))


class DataModule(HyperParameters):
    """The base class of data: one loader for training, one for validation.

    A loader is an ArrayLoader, whose epochs run as one compiled call, or any sized iterable of
    batches (*inputs, labels), which are run one compiled step at a time.

        >>> import jax_mlp as d2l
        >>> class Rows(d2l.DataModule):
        ...     def __init__(self, batch_size=4):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...     def get_dataloader(self, train):
        ...         rows = np.float32(np.arange(24).reshape(6, 4)), np.arange(6) % 3
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
        self, tensors: Sequence[Any], train: bool, indices: slice = slice(0, None)
    ) -> ArrayLoader:
        """Batches of `self.batch_size` rows out of arrays that lie in memory."""
        rows = [tensor[indices] for tensor in tensors]
        seed = next_seed() if train else 0
        return ArrayLoader(rows, Schedule(len(rows[0]), self.batch_size, seed, shuffle=train))


class Examples(NamedTuple):
    images: UInt8[np.ndarray, "n height width"]
    labels: UInt8[np.ndarray, " n"]


class FashionMNIST(DataModule):
    """Fashion-MNIST in batches (X [batch, 1, height, width] in [0, 1], labels [batch] int32).

    >>> import jax_mlp as d2l
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
        """data: where to look, see mlp_core.fashion_mnist.load. seed: of the shuffles; None draws
        one from the stream that jax_mlp.manual_seed starts.
        """
        super().__init__()
        self.save_hyperparameters()
        self.dataset = fashion_mnist.load(data)
        self.root = self.dataset.root
        self.train = self._resized(self.dataset.train)
        self.val = self._resized(self.dataset.val)

    def text_labels(self, indices: Any) -> list[str]:
        """Names of label numbers."""
        return [fashion_mnist.CLASSES[int(i)] for i in indices]

    def get_dataloader(self, train: bool) -> ArrayLoader:
        split = self.train if train else self.val
        seed = 0
        if train:
            seed = next_seed() if self.seed is None else self.seed
        schedule = Schedule(len(split.labels), self.batch_size, seed, shuffle=train)
        # Images as rows: with [n, height, width] XLA divides by the width for every byte that it
        # moves, 60 us of a step's 1,250.
        rows = split.images.reshape(len(split.images), -1)
        shape = split.images.shape[1:]
        return ArrayLoader((rows, split.labels), schedule, partial(images_and_labels, shape))

    def visualize(
        self, batch: Any, nrows: int = 1, ncols: int = 8, labels: Sequence[str] = ()
    ) -> None:
        """Draw the images of a batch with their names."""
        X, y = batch
        show_images(np.asarray(X).squeeze(1), nrows, ncols, titles=labels or self.text_labels(y))

    def _resized(self, split: fashion_mnist.Split) -> Examples:
        size = tuple(self.resize)
        if size == split.images.shape[1:]:
            return Examples(split.images, split.labels)
        from PIL import Image  # resamples as torchvision's Resize does: it calls the same function

        images = np.empty((len(split.images), *size), np.uint8)
        with progress_bar(len(images), "image", "resizing") as bar:
            for image, out in zip(split.images, images, strict=True):
                out[:] = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
                bar.update()
        return Examples(images, split.labels)


def images_and_labels(
    shape: tuple[int, int], rows: UInt8[Array, "batch pixels"], labels: UInt8[Array, "batch"]
) -> tuple[Float[Array, "batch 1 height width"], Int[Array, "batch"]]:
    """Bytes as they lie on the device to a batch as models take it."""
    return to_float(rows).reshape((-1, 1, *shape)), labels.astype(jnp.int32)
