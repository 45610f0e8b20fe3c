"""A small MLP and its data in other forms, and its training a step at a time."""

import jax
import jax.numpy as jnp
import numpy as np

import jax_mlp as d2l
from jax_mlp import scratch
from mlp_core.schedule import Schedule

step = jax.jit(scratch.step)


def small(**options):
    given = {"num_inputs": 6, "num_outputs": 3, "num_hiddens": 5, "lr": 0.1, "sigma": 1}
    return d2l.MLPScratch(**(given | options))


def copied(params):
    return {name: np.array(array) for name, array in params.items()}


def largest_difference(params, others):
    return max(float(abs(params[name] - others[name]).max()) for name in params)


def next_loader(data):
    """The loader that the next fit will draw: the same seed of the same stream."""
    d2l.manual_seed(0)
    loader = data.train_dataloader()
    d2l.manual_seed(0)
    return loader


def steps_of(model, loader, epochs, orders=Schedule.batches):
    """Losses and parameters of scratch.step, called a batch at a time."""
    params, losses = model.params, []
    X, y = (jnp.asarray(array) for array in loader.host_arrays)
    schedule = loader.schedule
    for epoch in range(epochs):
        for rows in orders(schedule, epoch):
            params, loss = step(params, (X[rows], y[rows]), lr=model.lr)
            losses.append(float(loss))
    return losses, params


# Both run the same float32 formulas over 18 steps; compiled apart, XLA may sum in another order.
# A batch left out or in another order moves losses and weights by a thousand times as much.
ROUNDING = 1e-5


class Listed(d2l.DataModule):
    """Another data module's batches, as plain lists."""

    def __init__(self, data):
        self.train, self.val = list(data.train_dataloader()), list(data.val_dataloader())

    def get_dataloader(self, train):
        return self.train if train else self.val
