import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torch_mlp as d2l
from mlp_core.weights import LAYOUTS, Weights, WeightsError
from torch_mlp import checkpoint

hiddens = st.lists(st.integers(1, 5), max_size=3)


def models(hiddens, inputs=6, outputs=3):
    """A model of each kind, of these widths, with values of its own."""
    concise = d2l.MLP(outputs, hiddens, lr=0.1)
    concise.apply_init([torch.zeros(1, inputs)])
    return d2l.MLPScratch(inputs, outputs, hiddens, lr=0.1, sigma=1), concise


def bits(weights):
    return {name: (array.shape, array.tobytes()) for name, array in weights.items()}


@given(hiddens)
def test_weights_go_from_model_to_model_with_all_their_bits(hiddens):
    scratch, concise = models(hiddens)
    weights = checkpoint.get_weights(concise)
    checkpoint.set_weights(scratch, weights)
    assert bits(checkpoint.get_weights(scratch)) == bits(weights)
    X = torch.rand(4, 6)
    assert torch.equal(scratch.W1, concise.net[1].weight.T)
    assert torch.allclose(scratch(X), concise(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_any_layout_is_read_with_all_its_bits(tmp_path, layout):
    for model in models([5, 4]):
        weights = checkpoint.get_weights(model)
        weights.save(tmp_path / "w.safetensors", layout)
        for other in models([5, 4]):
            checkpoint.load(other, tmp_path / "w.safetensors")
            assert bits(checkpoint.get_weights(other)) == bits(weights)


def test_saved_files_are_state_dicts_that_torch_loads(tmp_path):
    from safetensors.torch import load_file

    _, model = models([5])
    _, other = models([5])
    other.load_state_dict(load_file(checkpoint.save(model, tmp_path / "w.safetensors")))
    assert bits(checkpoint.get_weights(other)) == bits(checkpoint.get_weights(model))


def test_a_model_loads_weights_before_its_first_forward_pass(blobs):
    _, model = models([5])
    lazy = d2l.MLP(num_outputs=3, num_hiddens=[5], lr=0.1)
    weights = checkpoint.get_weights(model)
    checkpoint.set_weights(lazy, weights)
    X = torch.rand(4, 6)
    assert torch.equal(lazy(X), model(X))
    assert bits(checkpoint.get_weights(lazy)) == bits(weights)
    d2l.Trainer(max_epochs=1).fit(lazy, blobs)
    assert bits(checkpoint.get_weights(lazy)) != bits(weights)


def test_what_is_got_is_a_copy():
    scratch, _ = models([5])
    weights = checkpoint.get_weights(scratch)
    before = bits(weights)
    with torch.no_grad():
        scratch.W1.zero_()
    assert bits(weights) == before
    checkpoint.set_weights(scratch, weights)
    with torch.no_grad():
        scratch.W1.zero_()
    assert bits(weights) == before


def test_every_misfit_is_listed():
    other = checkpoint.get_weights(models([4, 2])[0])
    with pytest.raises(ValueError) as error:
        checkpoint.set_weights(models([5])[0], other)
    text = str(error.value)
    assert text.startswith("MLPScratch: weights do not fit:")
    for line in (
        "'W3' is not in the model",
        "'b3' is not in the model",
        "'W1' has shape (6, 4), expected (6, 5)",
        "'b1' has shape (4,), expected (5,)",
        "'W2' has shape (4, 2), expected (5, 3)",
    ):
        assert line in text
    with pytest.raises(ValueError, match="'W3' is missing"):
        checkpoint.set_weights(models([4, 2])[0], checkpoint.get_weights(models([5])[0]))


def test_a_lazy_model_refuses_weights_of_other_widths():
    # Torch itself would let its layers take them, and give 7 logits.
    lazy = d2l.MLP(num_outputs=3, num_hiddens=5, lr=0.1)
    with pytest.raises(ValueError, match=r"'net.3.bias' has shape \(7,\), expected \(3,\)"):
        checkpoint.set_weights(lazy, checkpoint.get_weights(models([5], outputs=7)[0]))
    assert lazy(torch.rand(1, 6)).shape == (1, 3)


def test_a_lazy_model_has_no_weights_to_save():
    with pytest.raises(WeightsError, match="net.1.weight.*forward"):
        checkpoint.get_weights(d2l.MLP(num_outputs=3, num_hiddens=5, lr=0.1))


def test_a_model_with_a_nan_is_not_saved(tmp_path):
    scratch, _ = models([5])
    with torch.no_grad():
        scratch.b2[1] = np.nan
    with pytest.raises(WeightsError, match="'b2' holds 1 non-finite"):
        checkpoint.save(scratch, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_weights_are_checked_before_a_model_sees_them(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"not safetensors")
    scratch, _ = models([5])
    before = bits(checkpoint.get_weights(scratch))
    with pytest.raises(WeightsError, match="w.safetensors"):
        checkpoint.load(scratch, path)
    assert bits(Weights(dict(checkpoint.get_weights(scratch)))) == before
