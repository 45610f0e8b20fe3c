"""parity.levels.perceptrons: which parameter is which layer's, read off what a model computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity import check
from parity.levels.pair import Pair
from parity.levels.perceptrons import NoProbe, perceptron
from parity.sides.pairs import JaxSide, book_pair

rng = np.random.default_rng(0)
PARAMS = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in (
        ("z", (12, 6)), ("y", (6,)), ("x", (6, 6)), ("w", (6,)), ("v", (6, 4)), ("u", (4,)),
    )
}  # fmt: skip
LAYERS = {"W1": "z", "b1": "y", "W2": "x", "b2": "w", "W3": "v", "b3": "u"}


def plain(p, X):
    H = jnp.maximum(X.reshape(len(X), -1) @ p["z"] + p["y"], 0)
    H = jax.nn.relu(p["w"] + H @ p["x"])
    return jnp.dot(p["v"].T, H.T).T + p["u"][None]


def found(function, examples, params=PARAMS):
    side = JaxSide((function, params), examples)
    return perceptron(Pair({"float32": side}, {}, examples, 1))


def test_layers_are_found_by_what_is_multiplied_by_what(examples):
    assert found(plain, examples) == LAYERS


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.gelu, jax.nn.silu, jax.nn.softplus])
def test_any_activation_is_one(examples, activation):
    def model(p, X):
        H = activation(X.reshape(len(X), -1) @ p["z"] + p["y"])
        return activation(H @ p["x"] + p["w"]) @ p["v"] + p["u"]

    assert found(model, examples) == LAYERS


def residual(p, X):
    H = jnp.maximum(X.reshape(len(X), -1) @ p["z"] + p["y"], 0)
    H = H + jnp.maximum(H @ p["x"] + p["w"], 0)
    return H @ p["v"] + p["u"]


def no_bias(p, X):
    return plain(p | {"w": jnp.zeros(6, X.dtype)}, X)


def turned(p, X):
    return plain(p | {"x": p["x"].T}, X)


def scaled(p, X):
    return plain(p, X) * p["u"]


def tied(p, X):
    H = jnp.maximum(X.reshape(len(X), -1) @ p["z"] + p["y"], 0)
    H = jnp.maximum(H @ p["x"] + p["w"], 0)
    return jnp.maximum(H @ p["x"] + p["w"], 0) @ p["v"] + p["u"]


def early(p, X):
    plain(p, X)
    return (X.reshape(len(X), -1) @ p["z"] + p["y"])[:, :4]


def products_of_activations(p, X):
    H = jnp.maximum(X.reshape(len(X), -1) @ p["z"] + p["y"], 0)
    return plain(p, X) + (H @ H.T)[:, :4]


@pytest.mark.parametrize(
    "function, reason",
    [
        (residual, "the results of two layers"),
        (no_bias, r"layer 2 has the parameters \['x'\]"),
        (turned, "'x' isn't"),
        (scaled, "'mul' takes u"),
        (tied, "share a parameter"),
        (early, "a product isn't one layer's"),
        (products_of_activations, "a product isn't one layer's by the next"),
    ],
)
def test_what_is_no_perceptron_is_refused_with_the_reason(examples, function, reason):
    with pytest.raises(NoProbe, match=f"perceptrons; .*({reason})"):
        found(function, examples)


def test_a_port_that_forgets_a_bias_is_asked_if_its_names_are_those_of_layers(digits):
    ours, theirs = book_pair("scratch", (6,), 0.1, 0, 12, 4)
    params = {n: np.zeros(p.shape, np.float32) for n, p in theirs.named_parameters()}

    def forgetful(p, X):
        return jnp.maximum(X.reshape(len(X), -1) @ p["W1"], 0) @ p["W2"] + p["b2"]

    options = dict(batch_size=32, levels=["probes"])
    assert not check(theirs, (forgetful, params), digits, **options).ok
    assert check(theirs, ours, digits, **options).ok


def test_probes_precision_and_masks_are_asked_of_models_with_names_of_their_own(digits):
    theirs = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6),
        torch.nn.ReLU(), torch.nn.Linear(6, 4),
    )  # fmt: skip
    table = {"z": "1.weight", "y": "1.bias", "x": "3.weight", "w": "3.bias"}
    table |= {"v": "5.weight", "u": "5.bias"}

    def zero_at_ties(p, X):
        H = jax.nn.relu(X.reshape(len(X), -1) @ p["z"] + p["y"])
        return jax.nn.relu(H @ p["x"] + p["w"]) @ p["v"] + p["u"]

    options = dict(weights=table, batch_size=32, levels=["probes", "precision", "masks"])
    verdict = check(theirs, (zero_at_ties, PARAMS), digits, **options)
    assert verdict.ok and not any(r.skipped for r in verdict.results), verdict
    half_at_ties = check(theirs, (plain, PARAMS), digits, **options)
    assert {r.level.name for r in half_at_ties.results if not r.ok} == {"probes"}
