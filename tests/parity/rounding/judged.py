"""One operation in both frameworks, with its gradient, held against its bound."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from bounded_networks import ROUNDOFF, compute, excess

from parity.rounding.bound import bound


@dataclass(frozen=True)
class Case:
    """fn in JAX and, where there is one, in Torch, at `inputs`; floats are differentiated."""

    name: str
    fn: Callable[..., Any]
    twin: Callable[..., Any] | None
    inputs: tuple[Any, ...]
    gradient: bool = True
    relative: float = 1e-3  # the bound's median share of the largest value

    def __repr__(self) -> str:
        return self.name


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(0.1, 2, size=shape)


def judge(case: Case, kind: type = np.float32) -> None:
    """Raises AssertionError if either framework leaves the bound, or if the bound is useless."""
    inputs = jax.tree.map(lambda a: np.asarray(a).astype(kind) if _real(a) else a, case.inputs)
    places = [i for i, x in enumerate(inputs) if all(map(_real, jax.tree.leaves(x)))]
    with jax.enable_x64(kind is np.float64):
        shapes = jax.eval_shape(case.fn, *inputs)
    weights = [normal(*s.shape, seed=9).astype(kind) for s in jax.tree.leaves(shapes)]

    def both(*inputs: Any) -> Any:
        if not case.gradient:
            return case.fn(*inputs)

        def chosen(*some: Any) -> Any:
            full = list(inputs)
            for i, x in zip(places, some, strict=True):
                full[i] = x
            out = case.fn(*full)
            pairs = zip(jax.tree.leaves(out), weights, strict=True)
            return sum(jnp.sum(w * o) for o, w in pairs if _real(o)), out

        some = [inputs[i] for i in places]
        (_, out), g = jax.value_and_grad(chosen, tuple(range(len(some))), has_aux=True)(*some)
        return out, g

    found = bound(both, *inputs, roundoff=ROUNDOFF[kind])
    own = excess(compute(both, *inputs), found)
    assert own <= 1, f"JAX: {own} bounds"
    if case.twin:
        theirs = excess(_torch(case, inputs, places, weights), found)
        assert theirs <= 1, f"Torch: {theirs} bounds"
    for v, d in zip(*map(jax.tree.leaves, (found.value, found.bound)), strict=True):
        assert np.all(np.isfinite(d)), "an infinite bound"
        size = np.max(np.abs(v), initial=0)
        limit = case.relative * ROUNDOFF[kind] / ROUNDOFF[np.float32]
        assert np.median(d) <= limit * size + 1e-30, f"{np.median(d) / size} of the value"


def _real(x: Any) -> bool:
    return np.issubdtype(x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype, np.floating)


def _torch(case: Case, inputs: Any, places: list[int], weights: list[np.ndarray]) -> Any:
    tensors = [
        jax.tree.map(lambda a, i=i: torch.tensor(a, requires_grad=i in places), x)
        for i, x in enumerate(inputs)
    ]
    out = case.twin(*tensors)
    if case.gradient:
        leaves = jax.tree.leaves(out)
        total = sum(
            (torch.tensor(w) * o).sum()
            for o, w in zip(leaves, weights, strict=True)
            if o.is_floating_point()
        )
        total.backward()
    values = jax.tree.map(lambda t: t.detach().numpy(), out)
    if not case.gradient:
        return values
    return values, tuple(
        jax.tree.map(lambda t: np.zeros(t.shape) if t.grad is None else t.grad.numpy(), tensors[i])
        for i in places
    )
