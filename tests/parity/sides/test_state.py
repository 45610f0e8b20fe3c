"""Models that hold more than parameters: batch normalisation with its running statistics."""

import copy

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import check
from parity.sides.weights import pair_names

TABLE = {
    "first.kernel": "0.weight",
    "first.bias": "0.bias",
    "norm.scale": "1.weight",
    "norm.bias": "1.bias",
    "last.kernel": "3.weight",
    "last.bias": "3.bias",
}


class Flax(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, X):
        return self.last(nnx.relu(self.norm(self.first(X))))


class FlaxsBatchNorm(nn.BatchNorm1d):
    """Torch's, but the running variance is the batch's own: divided by n, not by n - 1."""

    def forward(self, X):
        if not self.training:
            return super().forward(X)
        with torch.no_grad():
            self.running_mean.lerp_(X.mean(0), 0.1)
            self.running_var.lerp_(X.var(0, unbiased=False), 0.1)
        return nn.functional.batch_norm(X, None, None, self.weight, self.bias, True, 0, self.eps)


def pair(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), norm(5), nn.ReLU(), nn.Linear(5, 3)), Flax()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 6)).astype(np.float32)
    y = rng.integers(0, 3, 80)
    return X[:64], y[:64], X[64:], y[64:]


def climbed(models, data, levels=("gradients", "state", "every step", "curve"), **options):
    options |= dict(weights=TABLE, batch_size=16, epochs=2, levels=levels)
    return check(*models, data, **options)


def test_a_port_whose_running_statistics_follow_the_same_rule_agrees(data):
    verdict = climbed(pair(FlaxsBatchNorm), data)
    assert verdict.ok, verdict
    assert not any(r.skipped for r in verdict.results)


def test_torchs_running_variance_is_not_flaxs_and_shows_in_the_state(data):
    verdict = climbed(pair(nn.BatchNorm1d), data)
    wrong = [c.name for r in verdict.results for c in r.comparisons if not c.ok]
    assert wrong and all("norm.var" in name or "val_" in name for name in wrong), verdict
    assert next(r.level.name for r in verdict.results if not r.ok) == "state"
    assert not verdict.ok and "state.norm.var" in str(verdict)


def test_a_known_difference_is_accepted_by_name_with_its_size_and_reason(data):
    why = "Torch divides the running variance by n - 1"
    known = [("*", "norm.var", why), ("curve", "val_", f"so validation differs: {why}")]
    verdict = climbed(pair(nn.BatchNorm1d), data, known=known)
    assert verdict.ok and verdict.word.startswith("AGREE EXCEPT"), verdict
    said = str(verdict)
    assert why in said and "differs by" in said and "norm.var" in said
    again = climbed(pair(FlaxsBatchNorm), data, ("weights",), known=known)
    assert again.ok and "a known difference was not seen: * norm.var" in str(again)


def test_frozen_statistics_are_compared_as_they_are(data):
    torch_model, flax_model = pair(nn.BatchNorm1d)
    torch_model.eval(), flax_model.eval()
    torch_model[1].running_mean += 1
    models = torch_model, flax_model
    assert climbed(models, data, ["weights", "logits", "gradients"]).ok  # carried over
    assert not climbed(models, data, ["logits"], state={}).ok  # and here they aren't


def test_what_the_users_models_hold_stays(data):
    models = pair(nn.BatchNorm1d)
    before = copy.deepcopy(models[0].state_dict()), nnx.clone(models[1])
    climbed(models, data)
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, before[0][name]), name
    after = jax.tree.leaves(nnx.state(models[1]))
    assert (
        all(map(np.array_equal, after, jax.tree.leaves(nnx.state(before[1])))) and len(after) == 8
    )


def test_a_table_may_go_from_torch_to_jax():
    flax, other = {"kernel": np.zeros((2, 3))}, {"weight": np.zeros((2, 3))}
    expected = {"kernel": ("kernel", "weight")}
    assert pair_names(flax, other, {"weight": "kernel"}) == expected
    assert pair_names(flax, other, {"kernel": "weight"}) == expected
