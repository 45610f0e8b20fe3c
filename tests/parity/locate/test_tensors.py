"""Tensors of both sides' steps as data: fingerprints, modules, lines, phases."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import lax
from torch import nn

from parity.problem import Examples, Problem
from parity.sides.jax_tensors import jax_tensors
from parity.sides.pairs import sides_of
from parity.sides.tensors import Fingerprint
from parity.sides.torch_tensors import torch_tensors


def met(one, other):
    return bool(one.meets(other.low[None], other.high[None])[0])


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((4, 6))


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda x: x.T,
        lambda x: x.reshape(2, 3, 4),
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x, (5, 4, 6)),
    ],
)
def test_a_layout_has_the_same_fingerprint(x, laid_out):
    assert met(Fingerprint.of(x), Fingerprint.of(laid_out(x)))


@pytest.mark.parametrize("change", [1 + 1e-9, -1.0])
def test_one_element_changed_shows(x, change):
    y = x.copy()
    y[1, 2] *= change
    assert not met(Fingerprint.of(x), Fingerprint.of(y))


def test_an_error_within_the_bound_meets_and_one_outside_does_not(x):
    given = Fingerprint.of(x, np.full(x.shape, 1e-6))
    assert met(Fingerprint.of(x + 0.9e-6), given)
    assert not met(Fingerprint.of(x + 1.1e-6), given)


def test_infinities_are_numbers_like_others(x):
    masked = np.where(x > 1, -np.inf, x)
    assert met(Fingerprint.of(masked), Fingerprint.of(masked.T))
    assert not met(Fingerprint.of(masked), Fingerprint.of(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2, bias=False)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        H = torch.tanh(self.inner(X))
        return H.cumsum(0)


def net(params, X):
    H = jnp.tanh(X @ params["W"])
    return lax.scan(lambda c, h: (c + h, c + h), jnp.zeros(2, H.dtype), H)[1]


@pytest.fixture
def sides():
    rng = np.random.default_rng(0)
    data = rng.standard_normal((4, 3)).astype(np.float32), np.array([0, 1, 1, 0], np.int32)
    params = {"W": np.zeros((3, 2), np.float32)}
    problem = Problem(Net(), (net, params), Examples(data, 4), weights={"W": "inner.weight"})
    return sides_of(problem, "float64")


def test_torch_tensors_know_module_line_and_phase_and_leave_the_model(sides):
    _, theirs = sides
    batch = next(theirs.batches())
    before = {n: p.detach().clone() for n, p in theirs._inner.named_parameters()}
    hooks = len(nn.modules.module._global_forward_hooks)
    graph, _ = torch_tensors(theirs, [batch])
    product = next(t for t in graph.tensors if t.op == "mm" and t.phase == "forward")
    assert product.module == "inner" and "test_tensors.py" in product.line
    phases = [t.phase for t in graph.computed]
    assert phases == sorted(phases, key=("forward", "backward", "optimiser").index)
    back = next(t for t in graph.tensors if t.op == "mm" and t.phase == "backward")
    assert back.module == "inner" and back.line == product.line
    assert set(graph.results["gradients"]) == {"W"}
    assert len(nn.modules.module._global_forward_hooks) == hooks
    for name, p in theirs._inner.named_parameters():
        assert torch.equal(p, before[name]) and p.grad is None


def test_jax_tensors_unroll_scans_and_know_line_and_phase(sides):
    ours, _ = sides
    graph, value, bound = jax_tensors(ours, next(ours.batches()))
    assert (
        sum(t.op == "add" and t.shape == (2,) and t.phase == "forward" for t in graph.tensors) >= 4
    )
    tanh = next(t for t in graph.tensors if t.op == "tanh")
    assert "test_tensors.py" in tanh.line and tanh.phase == "forward"
    assert {t.phase for t in graph.computed} == {"forward", "backward", "optimiser"}
    assert np.all(bound.gradients["W"] < 1e-13 * (1 + np.abs(value.gradients["W"])))
