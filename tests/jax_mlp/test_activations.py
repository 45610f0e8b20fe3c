"""The options `activation` and `sigma`: formulas, ties, initial weights, where they are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mlp as d2l
from jax_mlp import layers, scratch
from mlp_core.activations import NAMES
from mlp_core.arithmetic import NotReproducible

KINDS = {"scratch": scratch.NATIVE, "concise": layers.NATIVE}


def build(kind, **options):
    d2l.manual_seed(3)
    if kind == "scratch":
        return d2l.MLPScratch(6, 3, [5, 4], lr=0.1, **({"sigma": 0.5} | options))
    return d2l.MLP(3, [5, 4], lr=0.1, num_inputs=6, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_is_the_formula_of_its_name_in_value_and_gradient(
    exact_activation, kind, name
):
    f, points = getattr(KINDS[kind], name), np.linspace(-9, 9, 73)
    with jax.enable_x64(True):
        X = jnp.asarray(points)
        found = f(X), jax.vmap(jax.grad(f))(X)
    value, slope = exact_activation(name, points)
    if name == "relu":
        slope[np.isnan(slope)] = {"scratch": 0.5, "concise": 0.0}[kind]
    # A dozen roundings of terms up to |x|^3 < 1000; both GELUs are 1e-4 apart.
    for computed, exact in zip(found, (value, slope), strict=True):
        np.testing.assert_allclose(computed, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_far_from_zero_an_activation_and_its_gradient_are_finite(kind, name):
    f, points = getattr(KINDS[kind], name), jnp.array([-1e4, -100.0, 100.0, 1e4])
    assert jnp.isfinite(f(points)).all() and jnp.isfinite(jax.vmap(jax.grad(f))(points)).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_hidden_layer_and_no_other_has_the_activation(name):
    model = build("scratch", activation=name)
    f, p, X = getattr(scratch.NATIVE, name), model.params, jnp.linspace(-2, 2, 12).reshape(2, 6)
    H = f(f(X @ p["W1"] + p["b1"]) @ p["W2"] + p["b2"])
    assert jnp.array_equal(model(X), H @ p["W3"] + p["b3"])
    assert jnp.array_equal(model(X), scratch.forward(p, X, activation=name))
    concise = build("concise", activation=name)
    f = getattr(layers.NATIVE, name)
    assert [layer for layer in concise.net.layers[1:] if not isinstance(layer, nnx.Linear)] == [
        f,
        f,
    ]
    hidden = concise.net.layers[3](f(concise.net.layers[1](X)))
    assert jnp.array_equal(concise(X), concise.net.layers[5](f(hidden)))


def test_loss_and_step_take_the_activation_too():
    params = build("scratch").params
    X, y = jnp.linspace(-2, 2, 12).reshape(2, 6), jnp.array([0, 2])
    new, value = scratch.step(params, (X, y), lr=0.5, activation="tanh")
    assert value == scratch.loss(params, X, y, activation="tanh") != scratch.loss(params, X, y)
    assert not jnp.array_equal(new["W1"], scratch.step(params, (X, y), lr=0.5)[0]["W1"])


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_activation_is_refused_and_the_known_ones_are_named(kind):
    with pytest.raises(ValueError, match="'swish', expected one of 'relu', 'tanh', .*'gelu_tanh'"):
        build(kind, activation="swish")


@pytest.mark.parametrize("kind, reason", [("scratch", "activation = 'gelu'"), ("concise", "gelu")])
def test_another_activation_than_relu_is_never_computed_in_reproducible_arithmetic(
    blobs, kind, reason
):
    model = build(kind, activation="gelu", arithmetic="reproducible")
    with pytest.raises(NotReproducible, match=reason):
        d2l.Trainer(1).fit(model, blobs)
    with pytest.raises(TypeError, match="gelu"):
        model(jnp.asarray(blobs.X[:2]))
    d2l.Trainer(1, arithmetic="native").fit(model, blobs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_another_activation_trains(blobs, kind):
    losses = d2l.Trainer(6).fit(build(kind, activation="tanh"), blobs).train_loss
    assert np.mean(losses[-9:]) < 0.8 * np.mean(losses[:9])


def test_sigma_draws_normal_weights_and_zero_biases_and_none_leaves_the_init():
    d2l.manual_seed(0)
    model = d2l.MLP(10, 256, lr=0.1, sigma=0.05, activation="tanh")
    for layer in (model.net.layers[1], model.net.layers[3]):
        kernel = layer.kernel[...]
        # Of n draws the spread is known to 1 / sqrt(2n): five times that.
        assert float(kernel.std()) == pytest.approx(0.05, rel=5 / np.sqrt(2 * kernel.size))
        assert jnp.abs(kernel).max() > 0.15 and not layer.bias[...].any()
    zero = build("concise", sigma=0)
    assert not any(zero.net.layers[i].kernel[...].any() for i in (1, 3, 5))
    plain, given = build("concise"), build("concise", sigma=None)
    assert jnp.array_equal(plain.net.layers[1].kernel[...], given.net.layers[1].kernel[...])
    assert jnp.abs(plain.net.layers[1].kernel[...]).max() <= 1 / np.sqrt(6)
