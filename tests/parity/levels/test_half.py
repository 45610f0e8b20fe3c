"""Models whose parameters, and perhaps inputs, are of 16 bits, judged at that precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity import check
from parity.rounding.bound import bound

KINDS = {"float16": (torch.float16, jnp.float16), "bfloat16": (torch.bfloat16, jnp.bfloat16)}
LEVELS = ("probes", "logits", "masks", "loss", "gradients", "step")


class Theirs(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.one, self.two = (torch.nn.Linear(*size, dtype=kind) for size in ((6, 8), (8, 3)))

    def forward(self, X):
        return self.two(torch.relu(self.one(X.to(self.kind))))


class Ours(nnx.Module):
    def __init__(self, kind, scale):
        made = {"dtype": kind, "param_dtype": kind, "rngs": nnx.Rngs(0)}
        self.one, self.two, self.scale = nnx.Linear(6, 8, **made), nnx.Linear(8, 3, **made), scale

    def __call__(self, X):
        return self.two(jax.nn.relu(self.one(X)) * self.scale)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("float16", "float16"),
        pytest.param("float16", "float32", marks=pytest.mark.slow),
        pytest.param("bfloat16", "float32", marks=pytest.mark.slow),
        pytest.param("bfloat16", "float16", marks=pytest.mark.slow),
    ],
)
def test_models_of_16_bits_agree_and_a_factor_shows(kind, data):
    theirs, ours = KINDS[kind]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 6)).astype(data), rng.integers(0, 3, 24)
    options = {"weights": "guess", "epochs": 1, "batch_size": 10, "levels": LEVELS}
    honest = check(Theirs(theirs), Ours(ours, 1.0), (X, y), **options)
    assert honest.ok, honest
    skipped = {(r.level.name, r.precision): r.skipped for r in honest.results if r.skipped}
    assert f"jax in {kind}" in skipped["probes", "float32"]
    assert "torch can't compute in float64" in skipped["masks", "float64"]
    wrong = check(Theirs(theirs), Ours(ours, 1.1), (X, y), **options)
    first = next(r for r in wrong.results if r.failed)
    assert (first.level.name, first.precision) == ("logits", "float32")


def test_float16_is_bounded_by_its_own_unit_its_subnormals_and_its_range():
    x = np.float16([1, 1e-3, 3e-5, 300])
    found = bound(lambda x: x * x, x)
    with np.errstate(over="ignore"):
        computed, exact = (x * x).astype(float), x.astype(float) ** 2
    assert np.allclose(found.value, exact)
    error = np.abs(computed - exact)
    assert np.all(error[:3] <= found.bound[:3]) and np.isinf(found.bound[3])
    # Half a spacing is lost where the square is subnormal, far more than 2^-11 of it.
    assert error[2] > 2.0**-11 * exact[2]
    assert 2.0**-11 <= found.bound[0] < 2.0**-10
