"""The options `activation` and `sigma`: formulas, ties, initial weights, where they are refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import torch_mlp as d2l
from mlp_core.activations import NAMES
from mlp_core.arithmetic import NotReproducible
from torch_mlp import checkpoint, layers

KINDS = {"scratch": d2l.MLPScratch.native, "functional": layers.NATIVE, "concise": None}


def function(kind, name):
    return layers.ACTIVATIONS[name]() if kind == "concise" else getattr(KINDS[kind], name)


def build(kind, **options):
    torch.manual_seed(3)
    if kind == "scratch":
        return d2l.MLPScratch(6, 3, [5, 4], lr=0.1, **({"sigma": 0.5} | options))
    return d2l.MLP(3, [5, 4], lr=0.1, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_is_the_formula_of_its_name_in_value_and_gradient(
    exact_activation, kind, name
):
    points = np.linspace(-9, 9, 73)
    X = torch.tensor(points, requires_grad=True)
    found = function(kind, name)(X)
    found.sum().backward()
    value, slope = exact_activation(name, points)
    if name == "relu":
        slope[np.isnan(slope)] = 0.5 if kind == "scratch" else 0.0
    # A dozen roundings of terms up to |x|^3 < 1000; both GELUs are 1e-4 apart.
    for computed, exact in ((found.detach(), value), (X.grad, slope)):
        np.testing.assert_allclose(computed, exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_far_from_zero_an_activation_and_its_gradient_are_finite(kind, name):
    X = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)
    found = function(kind, name)(X)
    found.sum().backward()
    assert found.isfinite().all() and X.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_every_hidden_layer_and_no_other_has_the_activation(name):
    model, X = build("scratch", activation=name), torch.linspace(-2, 2, 12).reshape(2, 6)
    f = function("scratch", name)
    H = f(f(X @ model.W1 + model.b1) @ model.W2 + model.b2)
    assert torch.equal(model(X), H @ model.W3 + model.b3)
    concise = build("concise", activation=name)
    kinds = [type(layer) for layer in concise.net]
    own = type(layers.ACTIVATIONS[name]())
    assert kinds == [layers.Flatten, *[nn.LazyLinear, own] * 2, nn.LazyLinear]


@pytest.mark.parametrize("kind", ["scratch", "concise"])
def test_an_unknown_activation_is_refused_and_the_known_ones_are_named(kind):
    with pytest.raises(ValueError, match="'swish', expected one of 'relu', 'tanh', .*'gelu_tanh'"):
        build(kind, activation="swish")


@pytest.mark.parametrize("kind, reason", [("scratch", "activation = 'gelu'"), ("concise", "GELU")])
def test_another_activation_than_relu_is_never_computed_in_reproducible_arithmetic(
    blobs, kind, reason
):
    model = build(kind, activation="gelu", arithmetic="reproducible")
    with pytest.raises(NotReproducible, match=reason):
        d2l.Trainer(1).fit(model, blobs)
    with pytest.raises(TypeError, match="(?i)gelu"):
        model(blobs.X[:2])
    d2l.Trainer(1, arithmetic="native").fit(model, blobs)


@pytest.mark.parametrize("kind", ["scratch", "concise"])
def test_a_model_with_another_activation_trains(blobs, kind):
    losses = d2l.Trainer(6).fit(build(kind, activation="tanh"), blobs).train_loss
    assert np.mean(losses[-9:]) < 0.8 * np.mean(losses[:9])


def linears(model):
    return [layer for layer in model.net if isinstance(layer, nn.Linear)]


def test_sigma_draws_normal_weights_and_zero_biases_when_shapes_are_known():
    torch.manual_seed(0)
    model = d2l.MLP(10, 256, lr=0.1, sigma=0.05, activation="tanh")
    twin = copy.deepcopy(model)  # which draws its own weights, not those of the original
    for one in (twin, model):
        assert isinstance(one.net[1].weight, nn.UninitializedParameter)
        one(torch.rand(1, 1, 28, 28))
        for layer in linears(one):
            # Of n draws the spread is known to 1 / sqrt(2n): five times that.
            error = 5 / np.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(0.05, rel=error)
            assert layer.weight.abs().max() > 0.15 and not layer.bias.any()
    before = model.net[1].weight.clone()
    model(torch.rand(1, 784))
    assert torch.equal(model.net[1].weight, before)
    assert not torch.equal(twin.net[1].weight, before)


def test_without_sigma_the_book_draws_to_the_bit():
    models = build("concise"), build("concise", sigma=None)
    torch.manual_seed(5)
    book = nn.Sequential(*(nn.Linear(a, b) for a, b in ((6, 5), (5, 4), (4, 3))))
    for model in models:
        torch.manual_seed(5)
        model(torch.zeros(1, 6))
        for layer, other in zip(linears(model), book, strict=True):
            assert torch.equal(layer.weight, other.weight) and torch.equal(layer.bias, other.bias)


def test_loaded_weights_take_the_place_of_those_that_sigma_would_draw():
    source = build("concise", sigma=1)
    source(torch.zeros(1, 6))
    weights = checkpoint.get_weights(source)
    for used in (False, True):
        model = build("concise", sigma=9)
        if used:
            model(torch.zeros(1, 6))
        checkpoint.set_weights(model, weights)
        X = torch.rand(4, 6)
        assert torch.equal(model(X), source(X))
        for name, array in checkpoint.get_weights(model).items():
            assert np.array_equal(array, weights[name])
