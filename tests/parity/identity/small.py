"""A small pair in parts that can be replaced: Torch's 5-4-3, and JAX's port of it."""

import jax
import numpy as np
import torch

from parity.identity.prove import prove
from parity.problem import Examples, Problem, Training
from parity.sides.pairs import sides_of

LABELS = np.arange(24).astype(np.int32) % 3
X = np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32)
SHAPES = {"a.weight": (5, 4), "a.bias": (4,), "b.weight": (4, 3), "b.bias": (3,)}


class Net(torch.nn.Module):
    def __init__(self, activation=torch.relu):
        super().__init__()
        self.a, self.b = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)
        self.activation = activation

    def forward(self, x):
        return self.b(self.activation(self.a(x)))


def port(activation=jax.nn.relu, before=lambda x: x, after=lambda z: z):
    def call(p, x):
        H = activation(before(x) @ p["a.weight"] + p["a.bias"])
        return after(H @ p["b.weight"] + p["b.bias"])

    return call, {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def proven(jax_model, torch_model=None, loss=None, optimizer=None, weights=True, **how):
    names = {name: name for name in SHAPES} if weights else None
    training = Training(loss, optimizer)
    problem = Problem(torch_model or Net(), jax_model, Examples((X, LABELS), 8), training, names)
    return prove(*sides_of(problem, "float64"), X, LABELS, **how)
