"""What FashionMNIST needs of torchvision, for machines that have Torch alone; no other size."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mlp_core.idx import decode

NEEDED = "resize: needs torchvision, which is not installed; (28, 28) does without"


class Reader(Dataset):
    """As torchvision.datasets.FashionMNIST: `data` [n, 28, 28] of uint8, `targets` [n] of int64."""

    def __init__(self, root: str, train: bool, transform: Callable[[Any], Tensor]) -> None:
        self.root, self.transform = root, transform
        part = Path(self.raw_folder) / ("train" if train else "t10k")
        self.data = torch.from_numpy(_read(Path(f"{part}-images-idx3-ubyte")))
        self.targets = torch.from_numpy(_read(Path(f"{part}-labels-idx1-ubyte"))).long()

    @property
    def raw_folder(self) -> str:
        return str(Path(self.root) / "FashionMNIST" / "raw")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> tuple[Tensor, int]:
        return self.transform(self.data[index]), int(self.targets[index])


class ToTensor:
    """[28, 28] of uint8 -> [1, 28, 28] of float32 in [0, 1]."""

    def __call__(self, image: Tensor) -> Tensor:
        return image[None].div(255)


class Compose:
    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self.steps = steps

    def __call__(self, image: Any) -> Any:
        for step in self.steps:
            image = step(image)
        return image


class Resize:
    """Raises ImportError."""

    def __init__(self, size: tuple[int, int]) -> None:
        raise ImportError(NEEDED)


def _read(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), path).copy()
