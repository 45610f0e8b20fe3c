"""Data and starting points of the families of ports: small, and the same each time."""

from collections.abc import Callable

import numpy as np
import torch

CLASSES = 3
COUNT = 20  # batches of 8, 8 and 4
BATCH = {"batch_size": 8}


def classified(*shape: int, seed: int = 0) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A maker of normal inputs of this shape, and labels."""

    def draw() -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((COUNT, *shape)).astype(np.float32)
        return X, rng.integers(0, CLASSES, COUNT).astype(np.int32)

    return draw


def unlabelled(*shape: int, seed: int = 0) -> Callable[[], tuple[np.ndarray, None]]:
    """The same inputs, for inference."""
    return lambda: (classified(*shape, seed=seed)()[0], None)


def seeded(make: Callable[[], torch.nn.Module], seed: int = 0) -> Callable[[], torch.nn.Module]:
    """A maker of one Torch model, none of whose numbers is 0 or 1: a bias of 0 or a scale of 1 that
    a port leaves out or swaps would not be missed."""

    def made() -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            model = make()
            for numbers in (*model.parameters(), *model.buffers()):
                if numbers.is_floating_point():
                    numbers.add_(torch.rand(numbers.shape) - 0.5)
        return model

    return made
