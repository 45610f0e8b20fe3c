import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jax_mlp as d2l


def linears(model):
    return [layer for layer in model.net.layers if isinstance(layer, nnx.Linear)]


def test_torch_init_draws_weights_and_biases_uniformly_within_one_over_root_fan_in():
    d2l.manual_seed(0)
    for layer, fan_in in zip(linears(d2l.MLP(10, 256, lr=0.1)), (784, 256), strict=True):
        bound = 1 / math.sqrt(fan_in)
        for array in (layer.kernel[...], layer.bias[...]):
            assert abs(array).max() <= bound
            # The relative error of the spread of n uniform draws is sqrt(0.2 / n).
            error = 5 * math.sqrt(0.2 / array.size)
            assert float(array.std()) == pytest.approx(bound / math.sqrt(3), rel=error)


def test_flax_init_draws_lecun_normal_weights_and_zero_biases():
    d2l.manual_seed(0)
    model = d2l.MLP(10, 256, lr=0.1, init="flax")
    for layer, fan_in in zip(linears(model), (784, 256), strict=True):
        kernel = layer.kernel[...]
        error = 5 / math.sqrt(2 * kernel.size)
        assert float(kernel.std()) == pytest.approx(1 / math.sqrt(fan_in), rel=error)
        assert not layer.bias[...].any()
        # Truncated at two standard deviations of the normal before truncation.
        assert abs(kernel).max() <= 2.0001 / math.sqrt(fan_in) / 0.87962566103423978


def test_an_unknown_init_is_refused():
    with pytest.raises((ValueError, TypeError), match="init"):
        d2l.MLP(10, 256, lr=0.1, init="keras")


def test_relu_has_gradient_zero_at_a_tie():
    model = d2l.MLP(num_outputs=3, num_hiddens=4, lr=0.1, num_inputs=6)
    hidden, out = linears(model)
    for param in (hidden.kernel, hidden.bias):
        param[...] = jnp.zeros_like(param[...])
    out.kernel[...] = jnp.ones((4, 3))
    grads = nnx.grad(lambda model: model(jnp.ones((1, 6))).sum())(model)
    assert not grads["net"]["layers"][1]["bias"][...].any()
    assert grads["net"]["layers"][3]["bias"][...].tolist() == [1, 1, 1]


@pytest.mark.parametrize("hiddens, widths", [(4, [4, 3]), ([5], [5, 3]), ((5, 4, 2), [5, 4, 2, 3])])
def test_layers_are_flatten_then_linear_and_relu_then_linear(hiddens, widths):
    model = d2l.MLP(num_outputs=3, num_hiddens=hiddens, lr=0.1, num_inputs=6)
    assert model(jnp.ones((2, 1, 2, 3))).shape == (2, 3)
    assert [layer.out_features for layer in linears(model)] == widths
    assert model.net.layers[2] is nnx.relu and len(model.net.layers) == 2 * len(widths)


def test_weights_come_from_the_stream_or_from_rngs():
    def kernel(**options):
        return linears(d2l.MLP(3, 4, lr=0.1, num_inputs=6, **options))[0].kernel[...]

    d2l.manual_seed(1)
    first = kernel()
    d2l.manual_seed(1)
    assert jnp.array_equal(kernel(), first)
    assert not jnp.array_equal(kernel(), first)
    own = [kernel(rngs=nnx.Rngs(jax.random.key(5))) for _ in range(2)]
    assert jnp.array_equal(*own)


def test_a_summary_and_nnx_display_show_shapes_and_counts(capsys):
    for model in (d2l.MLP(3, 4, lr=0.1, num_inputs=5), d2l.MLPScratch(5, 3, 4, lr=0.1)):
        model.summary()
        told = capsys.readouterr().out
        assert "5 x 4" in told and told.split()[-1] == str(5 * 4 + 4 + 4 * 3 + 3)
    assert "(5, 4)" in repr(model) and "39 (156 B)" in repr(d2l.MLP(3, 4, lr=0.1, num_inputs=5))
