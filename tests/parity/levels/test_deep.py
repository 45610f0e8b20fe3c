"""A model so deep that its rounding bound says nothing is judged all the same."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

from parity import check

DEPTH, WIDTH = 16, 4
SOURCE = Path(__file__).read_text().splitlines()
rng = np.random.default_rng(0)
X = rng.normal(size=(12, WIDTH)).astype(np.float32)
y = rng.integers(0, WIDTH, 12).astype(np.int32)


class Deep(nn.Module):
    """Layer norm after layer norm: each may amplify rounding by 1 / sqrt(epsilon) at worst."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))

    def forward(self, X):
        for layer in self.layers:
            X = nn.functional.layer_norm(X + layer(X), (WIDTH,))
        return X


def port(epsilon=1e-5, b2=0.999):
    """The JAX function, its parameters, and the pair of optimisers."""

    def apply(p, X):
        for i in range(DEPTH):
            X = X + X @ p[f"W{i}"] + p[f"b{i}"]
            var = X.var(-1, keepdims=True)
            X = (X - X.mean(-1, keepdims=True)) / jnp.sqrt(var + (epsilon if i == 7 else 1e-5))
        return X

    params = {f"W{i}": np.zeros((WIDTH, WIDTH), np.float32) for i in range(DEPTH)}
    params |= {f"b{i}": np.zeros(WIDTH, np.float32) for i in range(DEPTH)}
    return (apply, params), (lambda p: torch.optim.Adam(p, 1e-3), optax.adam(1e-3, b2=b2))


def climbed(levels, batch=12, **wrong):
    other, optimizer = port(**wrong)
    names = {f"W{i}": f"layers.{i}.weight" for i in range(DEPTH)}
    names |= {f"b{i}": f"layers.{i}.bias" for i in range(DEPTH)}
    options = {"weights": names, "batch_size": batch, "epochs": 1, "optimizer": optimizer}
    return check(Deep(), other, (X, y), levels=levels, **options)


def test_an_honest_pair_agrees_and_says_by_what_it_was_judged():
    verdict = climbed(("logits", "gradients", "step", "every step"), batch=3)
    assert verdict.ok, verdict
    notes = {(r.level.name, r.precision): r.note for r in verdict.results}
    assert notes["logits", "float32"].startswith(
        "judged by effective bits, for the bound says nothing"
    )
    assert notes["step", "float32"].startswith("judged from each side's own gradients")
    never = "the rounding bound is infinite at each of the first 2 steps"
    assert verdict.results[-1].skipped.startswith(never)


@pytest.mark.parametrize(
    ("wrong", "level"),
    [
        ({"epsilon": 1.1e-5}, "logits"),
        ({"b2": 0.99}, "step"),
    ],
)
@pytest.mark.slow
def test_a_fault_is_found(wrong, level):
    verdict = climbed((level,), **wrong)
    assert [r.level.name for r in verdict.results if r.failed] != [], verdict
    if level == "logits":  # behind seven layers the bound is far wider than what differs
        line = next(i for i, text in enumerate(SOURCE, 1) if "else 1e-5" in text)
        assert f":{line} " in verdict.parting.jax[0].line, verdict


class Table(Deep):
    """With a table in front, half of whose rows are in no batch."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, WIDTH)

    def forward(self, ids):
        return super().forward(self.table(ids))


@pytest.mark.slow
@pytest.mark.parametrize("taught", [1.0, 0.999])
def test_a_table_with_rows_that_are_not_used_is_judged_in_its_used_ones(taught):
    (body, params), _ = port()

    def apply(p, ids):
        rows = p["table"][ids]
        return body(p, taught * rows + (1 - taught) * jax.lax.stop_gradient(rows))

    names = {f"W{i}": f"layers.{i}.weight" for i in range(DEPTH)}
    names |= {f"b{i}": f"layers.{i}.bias" for i in range(DEPTH)} | {"table": "table.weight"}
    params["table"] = np.zeros((8, WIDTH), np.float32)
    ids = np.arange(12, dtype=np.int32) % 4
    options = {"weights": names, "levels": "gradients", "batch_size": 12}
    verdict = check(Table(), (apply, params), (ids, y), **options)
    assert not any(r.unjudged for r in verdict.results), verdict
    assert ("table" in str([r.failed for r in verdict.results])) == (taught != 1), verdict
