"""Bounds of optimisers' steps: finite where gradients vanish, and kept by both frameworks."""

from functools import partial

import jax
import numpy as np
import optax
import pytest
import torch
from bounded_networks import compute, excess

from parity.rounding.bound import bound


def moved(solver, params, state, g):
    updates, state = solver.update(g, state, params)
    return optax.apply_updates(params, updates), state


def gradients(rng, n=400):
    """Any size from 1e-45 to 10, a quarter of them exactly zero, as blank pixels have."""
    g = rng.normal(size=n) * 10 ** rng.uniform(-45, 1, n)
    g[: n // 4] = 0
    return g.astype(np.float32)


def walked(solver, steps, seed):
    """Weights, state and gradient after some steps, in each of which other gradients are zero."""
    rng = np.random.default_rng(seed)
    params = rng.normal(size=400).astype(np.float32)
    state = solver.init(params)
    for _ in range(steps):
        params, state = compute(partial(moved, solver), params, state, gradients(rng))
    return params, state, rng.permutation(gradients(rng))


TWINS = {
    "adam": (optax.adam(1e-3), partial(torch.optim.Adam, lr=1e-3)),
    "adamw": (
        optax.adamw(1e-2, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
    ),
    "amsgrad": (optax.amsgrad(1e-3), None),
    "rmsprop": (
        optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False),
        partial(torch.optim.RMSprop, lr=1e-2),
    ),
    "rmsprop, centred": (optax.rmsprop(1e-2, centered=True), None),
    "adagrad": (optax.adagrad(1e-2), None),
    "momentum": (
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    ),
    "nadam": (optax.nadam(1e-3), None),
    "lion": (optax.lion(1e-3), None),
    "lamb": (optax.lamb(1e-3), None),
    "adabelief": (optax.adabelief(1e-3), None),
    "adadelta": (optax.adadelta(1e-2), None),
}  # fmt: skip


MEMORY = {"count": "step", "mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}


def torch_moved(make, params, state, g):
    """The same step by Torch, from the same state; in the shape of `moved`."""
    w = torch.tensor(params, requires_grad=True)
    w.grad = torch.tensor(g)
    solver = make([w])
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    names = [MEMORY[jax.tree_util.keystr(path).rsplit(".")[-1]] for path, _ in leaves]
    if isinstance(solver, torch.optim.RMSprop):
        names = ["square_avg"]
    memory = {k: torch.tensor(v) for k, (_, v) in zip(names, leaves, strict=True)}
    solver.state[w] = memory | {"step": memory.get("step", torch.tensor(0)).float()}
    solver.step()
    state = [solver.state[w][k].numpy() for k in names]
    return w.detach().numpy(), jax.tree.unflatten(structure, state)


@pytest.mark.parametrize("name", TWINS)
def test_a_step_has_a_finite_bound_that_both_frameworks_keep(name):
    solver, make = TWINS[name]
    fn = partial(moved, solver)
    for steps, seed in ((0, 0), (1, 1), (3, 2), (30, 3)):
        args = walked(solver, steps, seed)
        found = bound(fn, *args)
        assert excess(compute(fn, *args), found) <= 1
        assert all(np.isfinite(d).all() for d in jax.tree.leaves(found.bound))
        assert make is None or excess(torch_moved(make, *args), found) <= 1


def test_a_weight_that_never_had_a_gradient_stays_as_it_is_to_the_bit():
    solver = optax.adam(1e-3)
    args = walked(solver, 0, 4)
    found, idle = bound(partial(moved, solver), *args), args[2] == 0
    assert not found.bound[0][idle].any() and (found.value[0] == args[0])[idle].all()
    # Adam's first step is the sign of the gradient: as large as the learning rate, and certain.
    clear = np.abs(args[2]) > 1e-5
    assert (found.bound[0][clear] < 1e-3 * 1e-3 + 2.0**-23 * np.abs(args[0][clear])).all()


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_an_uncertain_gradient_moves_a_weight_by_a_few_learning_rates_only(name):
    solver, rate = TWINS[name][0], 1e-3 if name == "adam" else 1e-2
    rng = np.random.default_rng(8)
    params, state, g = walked(solver, 3, 8)
    near = (1e-6 * rng.normal(size=g.shape)).astype(np.float32)
    errors = jax.tree.map(np.zeros_like, (params, state)) + (np.full(g.shape, 1e-5),)
    fn = partial(moved, solver)
    zero = jax.tree.map(lambda s: s if s.shape == () else 0 * s, state)
    found = bound(lambda g: fn(params, zero, g), near, input_bounds=errors[2:])
    for _ in range(20):
        g = (near + rng.uniform(-1e-5, 1e-5, g.shape)).astype(np.float32)
        assert excess(compute(fn, params, zero, g), found) <= 1
    assert found.bound[0].max() < 20 * rate


SCHEDULES = {
    "cosine": optax.warmup_cosine_decay_schedule(0.0, 1e-2, 3, 20),
    "piecewise": optax.piecewise_constant_schedule(1e-2, {2: 0.1, 9: 0.5}),
    "exponential": optax.exponential_decay(1e-2, 5, 0.9),
    "polynomial": optax.polynomial_schedule(1e-2, 1e-4, 2, 10),
}
CHAINS = {
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(1e-3)),
    "clipped by value": optax.chain(optax.clip(1e-3), optax.adam(1e-3)),
    "if finite": optax.apply_if_finite(optax.adam(1e-3), 3),
    "accumulated": optax.MultiSteps(optax.adam(1e-3), 3),
} | {name: optax.adam(rate) for name, rate in SCHEDULES.items()}


@pytest.mark.parametrize("name", CHAINS)
def test_what_is_chained_around_an_optimiser_keeps_its_bound_finite(name):
    fn = partial(moved, CHAINS[name])
    for steps, seed in ((0, 5), (2, 6), (7, 7)):
        args = walked(CHAINS[name], steps, seed)
        found = bound(fn, *args)
        assert excess(compute(fn, *args), found) <= 1
        assert all(np.isfinite(d).all() for d in jax.tree.leaves(found.bound))
