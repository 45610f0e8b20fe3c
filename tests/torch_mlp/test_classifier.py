import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torch_mlp as d2l


def model():
    return d2l.MLPScratch(num_inputs=6, num_outputs=10, num_hiddens=4, lr=0.1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 12))
def test_loss_is_the_mean_of_softmax_cross_entropy(seed, batch, classes):
    rng = np.random.default_rng(seed)
    logits = (10 * rng.standard_normal((batch, classes))).astype(np.float32)
    labels = rng.integers(0, classes, batch)
    exact = np.log(np.exp(logits.astype(float)).sum(1)) - logits[np.arange(batch), labels]
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)
    each = d2l.Classifier().loss(*tensors, averaged=False)
    assert each.shape == (batch,)
    # Half a unit of twice the largest logit where that is subtracted, and half a unit of the loss,
    # which may be as large; exp and log a few units more.
    bound = (2 * np.abs(logits).max() + classes + 10) * 2**-23
    assert np.abs(each.numpy() - exact).max() <= bound
    assert abs(d2l.Classifier().loss(*tensors).item() - exact.mean()) <= bound + batch * 2**-22


def test_accuracy_counts_the_largest_logit_averaged_or_each():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    labels = torch.tensor([1, 0, 0, 1])
    assert model().accuracy(logits, labels).item() == 0.5
    assert model().accuracy(logits, labels, averaged=False).tolist() == [1, 1, 0, 0]


def test_leading_axes_are_examples():
    logits, labels = torch.randn(2, 3, 10), torch.randint(0, 10, (2, 3))
    flat = logits.reshape(6, 10), labels.reshape(6)
    for method in (model().loss, model().accuracy):
        assert torch.equal(method(logits, labels), method(*flat))
        assert torch.equal(method(logits, labels, averaged=False), method(*flat, averaged=False))


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("label", [-100, -1, 10])
def test_a_label_out_of_range_raises(label, averaged):
    with pytest.raises(IndexError, match=str(label)):
        model().loss(torch.zeros(2, 10), torch.tensor([3, label]), averaged=averaged)


def test_apply_init_gives_lazy_layers_their_shapes_and_applies_the_initialiser():
    lazy = d2l.MLP(num_outputs=3, num_hiddens=4, lr=0.1)

    def init(layer):
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.25)

    lazy.apply_init([torch.zeros(2, 6)], init)
    assert lazy.net[1].weight.shape == (4, 6)
    assert (lazy.net[1].weight == 0.25).all() and (lazy.net[3].weight == 0.25).all()


def test_layer_summary_prints_the_shape_behind_each_layer(capsys):
    d2l.MLP(num_outputs=3, num_hiddens=[5, 4], lr=0.1).layer_summary((2, 1, 2, 3))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [line[-1] for line in lines] == ["6])", "5])", "5])", "4])", "4])", "3])"]


def test_hyperparameters_are_kept():
    given = {
        "num_inputs": 6,
        "num_outputs": 10,
        "num_hiddens": 4,
        "lr": 0.1,
        "sigma": 0.01,
        "arithmetic": "native",
    }
    kept = model().hparams
    assert kept | given == kept and "self" not in kept


def test_a_model_without_net_or_forward_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="Classifier: .*forward.*net"):
        d2l.Classifier()(torch.zeros(1, 6))
    with pytest.raises(NotImplementedError, match=r"Module\.loss"):
        d2l.Module().loss(torch.zeros(1), torch.zeros(1))
