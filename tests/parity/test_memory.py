"""A process of many checks, or of many epochs, takes no more memory than one of few."""

import gc
import sys

import flax.nnx as nnx
import numpy as np
import pytest
import torch

import jax_mlp
import parity
import torch_mlp
from parity.sides.jax_side import JaxSide
from parity.sides.reference import Reference

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells its memory maps")


class Ours(nnx.Module):
    def __init__(self):
        self.out = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, X):
        return self.out(X)


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(3, 2)

    def forward(self, X):
        return self.out(X)


def checked(levels):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((8, 3), np.float32), rng.integers(0, 2, 8)
    table = {"out.kernel": "out.weight", "out.bias": "out.bias"}
    found = parity.check(Ours(), Theirs(), data, weights=table, levels=levels, epochs=1)
    assert found.ok


def alive():
    gc.collect()
    return sum(type(thing) in (JaxSide, Reference) for thing in gc.get_objects())


def maps():
    with open("/proc/self/maps", "rb") as lines:
        return lines.read().count(b"\n")


def megabytes():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4096 / 1e6


@LINUX
@pytest.mark.slow
def test_nothing_of_a_check_outlives_it():
    levels = parity.LEVELS
    checked(levels)
    kept, before = alive(), maps()
    for _ in range(3):
        checked(levels)
    assert alive() == kept and maps() <= before + 50


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("side", [jax_mlp, torch_mlp], ids=["jax", "torch"])
def test_many_epochs_take_the_memory_of_few(side):
    data = side.FashionMNIST(1000, data="sample", seed=0)
    seen = []

    class Measured(side.Trainer):
        def fit_epoch(self):
            super().fit_epoch()
            seen.append((maps(), megabytes()))

    Measured(20).fit(side.MLPScratch(784, 10, 4, 0.1), data)
    (some, much), (more, most) = seen[5], seen[-1]
    assert more <= some + 20 and most <= much + 20
