import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_mlp as d2l
from torch_mlp import relu

widths = st.lists(st.integers(1, 6), min_size=1, max_size=3)


def test_relu_has_gradient_one_half_at_a_tie():
    X = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    relu(X).sum().backward()
    assert relu(X).tolist() == [0, 0, 2]
    assert X.grad.tolist() == [0, 0.5, 1]


@given(hiddens=widths, inputs=st.integers(1, 6), batch=st.integers(1, 4))
def test_any_depth_computes_the_books_formula(hiddens, inputs, batch):
    torch.manual_seed(0)
    model = d2l.MLPScratch(inputs, 3, hiddens, lr=0.1, sigma=1)
    X = torch.randn(batch, inputs)
    H = X.double().numpy()
    n = len(hiddens) + 1
    named = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    assert list(named) == [f"{kind}{i}" for i in range(1, n + 1) for kind in "Wb"]
    size = np.abs(H)  # what each sum would be without cancellation: rounding is relative to it
    for i in range(1, n + 1):
        H = H @ named[f"W{i}"] + named[f"b{i}"]
        size = size @ np.abs(named[f"W{i}"])
        H = np.maximum(H, 0) if i < n else H
    error = np.abs(model(X).detach().numpy() - H)
    assert (error <= (sum([inputs, *hiddens]) + 2 * n) * 2**-24 * size).all()


def test_one_number_and_a_sequence_of_one_are_the_same_model():
    models = []
    for hiddens in (5, [5], (5,)):
        torch.manual_seed(1)
        models.append(d2l.MLPScratch(6, 3, hiddens, lr=0.1).state_dict())
    for other in models[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in models[0].items())


def test_weights_are_normal_with_spread_sigma_and_biases_zero():
    torch.manual_seed(0)
    model = d2l.MLPScratch(784, 10, 256, lr=0.1)
    assert model.W1.shape == (784, 256) and model.W2.shape == (256, 10)
    assert not model.b1.any() and not model.b2.any()
    # Of n draws the spread is known to 1 / sqrt(2n), 0.16%: five times that.
    assert model.W1.std().item() == pytest.approx(0.01, rel=0.008)
    assert torch.equal(d2l.MLPScratch(784, 10, 256, 0.1, sigma=0).W1, torch.zeros(784, 256))


def test_images_of_any_shape_are_flattened():
    model = d2l.MLPScratch(6, 3, 4, lr=0.1)
    X = torch.rand(5, 6)
    assert torch.equal(model(X.reshape(5, 1, 2, 3)), model(X))


@pytest.mark.parametrize("hiddens", [0, [4, 0], [4, -1]])
def test_a_width_below_one_is_refused(hiddens):
    with pytest.raises(ValueError, match="at least 1"):
        d2l.MLPScratch(6, 3, hiddens, lr=0.1)
