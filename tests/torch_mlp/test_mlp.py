import math

import pytest
import torch
from torch import nn

import torch_mlp as d2l
from torch_mlp import layers


def test_relu_has_gradient_zero_at_a_tie():
    model = d2l.MLP(num_outputs=3, num_hiddens=4, lr=0.1)
    model.apply_init([torch.zeros(1, 6)], lambda layer: layer.apply(zero))
    model(torch.ones(1, 6)).sum().backward()
    assert not model.net[1].bias.grad.any()  # 1/2 at ties would give 1/2 of the ones below
    assert model.net[3].bias.grad.tolist() == [1, 1, 1]


def zero(layer):
    if isinstance(layer, nn.Linear):
        nn.init.zeros_(layer.bias)
        nn.init.ones_(layer.weight) if layer.out_features == 3 else nn.init.zeros_(layer.weight)


@pytest.mark.parametrize("hiddens, widths", [(4, [4, 3]), ([5], [5, 3]), ((5, 4, 2), [5, 4, 2, 3])])
def test_layers_are_flatten_then_linear_and_relu_then_linear(hiddens, widths):
    model = d2l.MLP(num_outputs=3, num_hiddens=hiddens, lr=0.1)
    assert model(torch.rand(2, 1, 2, 3)).shape == (2, 3)
    assert [layer.out_features for layer in model.net if isinstance(layer, nn.Linear)] == widths
    kinds = [layers.Flatten, *[nn.Linear, nn.ReLU] * len(widths)][:-1]
    assert [type(layer) for layer in model.net] == kinds


def test_layers_learn_the_number_of_inputs_at_the_first_batch_and_draw_uniformly():
    torch.manual_seed(0)
    model = d2l.MLP(num_outputs=10, num_hiddens=256, lr=0.1)
    assert isinstance(model.net[1].weight, nn.UninitializedParameter)
    model(torch.rand(1, 1, 28, 28))
    for layer, fan_in in ((model.net[1], 784), (model.net[3], 256)):
        bound = 1 / math.sqrt(fan_in)
        assert layer.in_features == fan_in
        for tensor in (layer.weight, layer.bias):
            assert tensor.abs().max() <= bound
        # The relative error of the spread of n uniform draws is sqrt(0.2 / n).
        error = 5 * math.sqrt(0.2 / layer.weight.numel())
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=error)


def test_a_summary_shows_shapes_and_counts_before_and_after_lazy_layers_have_theirs(capsys):
    model = d2l.MLP(3, 4, lr=0.1)
    model.summary()
    assert "lazy" in capsys.readouterr().out
    model(torch.zeros(2, 5))
    model.summary()
    told = capsys.readouterr().out
    assert "4 x 5" in told and told.split()[-1] == str(4 * 5 + 4 + 3 * 4 + 3)
