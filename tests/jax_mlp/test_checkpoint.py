import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jax_mlp as d2l
from jax_mlp import checkpoint
from mlp_core.weights import LAYOUTS, WeightsError


def models(hiddens, inputs=6, outputs=3):
    """A model of each kind, of these widths, with values of its own."""
    return (
        d2l.MLPScratch(inputs, outputs, hiddens, lr=0.1, sigma=1),
        d2l.MLP(outputs, hiddens, lr=0.1, num_inputs=inputs),
    )


def bits(weights):
    return {name: (array.shape, array.tobytes()) for name, array in weights.items()}


@pytest.mark.parametrize("hiddens", [[], [5], [5, 4], [4, 4, 4]])
def test_weights_go_from_model_to_model_with_all_their_bits(hiddens):
    scratch, concise = models(hiddens)
    weights = checkpoint.get_weights(concise)
    checkpoint.set_weights(scratch, weights)
    assert bits(checkpoint.get_weights(scratch)) == bits(weights)
    X = jnp.asarray(np.random.default_rng(0).random((4, 6), np.float32))
    assert jnp.array_equal(scratch.W1, concise.net.layers[1].kernel[...])
    assert jnp.allclose(scratch(X), concise(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_any_layout_is_read_with_all_its_bits(tmp_path, layout):
    for model in models([5, 4]):
        weights = checkpoint.get_weights(model)
        weights.save(tmp_path / "w.safetensors", layout)
        for other in models([5, 4]):
            checkpoint.load(other, tmp_path / "w.safetensors")
            assert bits(checkpoint.get_weights(other)) == bits(weights)


def test_saved_files_name_arrays_as_the_model_does(tmp_path):
    from safetensors.numpy import load_file

    for model in models([5]):
        path = checkpoint.save(model, tmp_path / "w.safetensors")
        named = checkpoint.named_params(model)
        assert load_file(path).keys() == named.keys()
        assert all(np.array_equal(array, named[name]) for name, array in load_file(path).items())


def test_loaded_weights_train_on(blobs):
    (_, model), (_, other) = models([5]), models([5])
    weights = checkpoint.get_weights(model)
    checkpoint.set_weights(other, weights)
    losses = []
    for each in (model, other):
        d2l.manual_seed(0)
        losses.append(d2l.Trainer(max_epochs=1).fit(each, blobs).train_loss)
    assert losses[0] == losses[1]
    assert bits(checkpoint.get_weights(other)) != bits(weights)


def test_params_of_any_module_are_named_by_their_path():
    class Deep(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.inner = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
            self.scale = jnp.ones(3)
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    names = {"inner.kernel", "inner.bias", "scale", "norm.scale", "norm.bias"}
    assert set(checkpoint.named_params(Deep())) == names  # and no running means


def test_every_misfit_is_listed_and_nothing_is_replaced():
    for model, layout in zip(models([5]), ("scratch", "flax"), strict=True):
        given = checkpoint.get_weights(models([4, 2])[0]).to_layout(layout)
        W1, b2 = list(given)[0], list(given)[3]
        del given[b2]
        before = bits(checkpoint.get_weights(model))
        with pytest.raises(ValueError) as error:
            checkpoint.set_params(model, given)
        text = str(error.value)
        assert text.startswith(f"{type(model).__name__}: weights do not fit:")
        assert f"'{b2}' is missing" in text
        assert f"'{list(given)[-1]}' is not in the model" in text
        assert f"'{W1}' has shape (6, 4), expected (6, 5)" in text
        assert len(text.splitlines()) == 1 + 1 + 2 + 3
        assert bits(checkpoint.get_weights(model)) == before


def test_with_params_leaves_the_model_as_it_was():
    scratch, _ = models([5])
    before = bits(checkpoint.get_weights(scratch))
    other = checkpoint.with_params(
        scratch, {name: array * 0 for name, array in checkpoint.named_params(scratch).items()}
    )
    assert not other.W1.any()
    assert bits(checkpoint.get_weights(scratch)) == before


def test_a_model_with_a_nan_is_not_saved(tmp_path):
    scratch, _ = models([5])
    scratch.b2 = scratch.b2.at[1].set(jnp.nan)
    with pytest.raises(WeightsError, match="'b2' holds 1 non-finite"):
        checkpoint.save(scratch, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_weights_of_another_width_or_a_damaged_file_change_nothing(tmp_path):
    path = tmp_path / "w.safetensors"
    scratch, _ = models([5])
    before = bits(checkpoint.get_weights(scratch))
    path.write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="w.safetensors"):
        checkpoint.load(scratch, path)
    checkpoint.save(models([4])[1], path)
    with pytest.raises(ValueError, match=r"'W1' has shape \(6, 4\), expected \(6, 5\)"):
        checkpoint.load(scratch, path)
    assert bits(checkpoint.get_weights(scratch)) == before
