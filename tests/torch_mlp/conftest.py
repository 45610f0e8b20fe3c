"""Small data for the Torch side."""

import numpy as np
import pytest
import torch

import torch_mlp as d2l


class Blobs(d2l.DataModule):
    """70 + 20 examples of 6 inputs in 3 classes that can be learnt; last batches are partial."""

    def __init__(self, batch_size=8):
        super().__init__()
        self.save_hyperparameters()
        rng = np.random.default_rng(0)
        self.y = torch.from_numpy(rng.integers(0, 3, 90))
        means = rng.standard_normal((3, 6), np.float32)
        noise = rng.standard_normal((90, 6), np.float32)
        self.X = torch.from_numpy(means)[self.y] + torch.from_numpy(noise) / 2

    def get_dataloader(self, train):
        rows = slice(0, 70) if train else slice(70, None)
        return self.get_tensorloader([self.X, self.y], train, rows)


@pytest.fixture
def blobs():
    d2l.manual_seed(0)
    return Blobs()


@pytest.fixture
def sample():
    return d2l.FashionMNIST(batch_size=256, data="sample")
