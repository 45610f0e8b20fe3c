import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_mlp as d2l
from jax_mlp import scratch


def example(seed, hiddens, batch=5, inputs=4, classes=3):
    """Parameters with biases, and a batch."""
    rng = np.random.default_rng(seed)
    params = scratch.init(jax.random.key(seed), [inputs, *hiddens, classes], sigma=1)
    params = {k: v + jnp.asarray(rng.standard_normal(v.shape), v.dtype) for k, v in params.items()}
    X = rng.standard_normal((batch, inputs)).astype(np.float32)
    return params, jnp.asarray(X), jnp.asarray(rng.integers(0, classes, batch), jnp.int32)


def close(array, exact):
    """To float64's exactness if it is float64, of sums of a few dozen terms."""
    assert array.dtype == np.float64
    return np.allclose(array, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hiddens", [[], [5], [5, 2], [4, 3, 5]])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_forward_loss_and_step_are_the_books_formulas_at_any_depth(reference, seed, hiddens):
    with jax.enable_x64(True):
        params, X, y = example(seed, hiddens)
        params = {name: array.astype(jnp.float64) for name, array in params.items()}
        X = X.astype(jnp.float64)
        exact_loss, grads = reference.loss_and_gradients(params, X, y)
        assert close(scratch.forward(params, X), reference.layers(params, X)[1][-1])
        assert close(scratch.loss(params, X, y), exact_loss)
        new, loss = jax.jit(scratch.step)(params, (X, y), lr=0.5)
        assert close(loss, exact_loss)
        assert new.keys() == params.keys()
        for name, array in new.items():
            assert close(array, np.float64(params[name]) - 0.5 * grads[name]), name


def test_parameters_are_w1_b1_to_wn_bn_in_by_out():
    params = scratch.init(jax.random.key(0), [7, 5, 4, 3])
    shapes = {name: array.shape for name, array in params.items()}
    assert shapes == {"W1": (7, 5), "b1": (5,), "W2": (5, 4), "b2": (4,), "W3": (4, 3), "b3": (3,)}


def test_relu_has_gradient_one_half_at_a_tie():
    grad = jax.grad(lambda X: d2l.relu(X).sum())
    assert grad(jnp.array([-1.0, 0.0, 2.0])).tolist() == [0, 0.5, 1]


def test_cross_entropy_survives_large_logits():
    logits, labels = jnp.array([[1e4, 0.0], [0.0, 1e4]]), jnp.array([0, 0])
    assert scratch.cross_entropy(logits, labels).tolist() == [0, 1e4]


def test_weights_are_normal_with_spread_sigma_and_biases_zero():
    d2l.manual_seed(0)
    model = d2l.MLPScratch(784, 10, 256, lr=0.1)
    assert model.W1.shape == (784, 256) and model.W2.shape == (256, 10)
    assert not model.b1.any() and not model.b2.any()
    # Of n draws the spread is known to 1 / sqrt(2n), 0.16%: five times that.
    assert float(model.W1.std()) == pytest.approx(0.01, rel=0.008)
    assert not jnp.array_equal(model.W2.ravel(), model.W1.ravel()[: model.W2.size])
    assert not d2l.MLPScratch(784, 10, 256, lr=0.1, sigma=0).W1.any()


def test_two_models_in_a_row_differ_and_a_seed_repeats_them():
    d2l.manual_seed(3)
    first, second = (d2l.MLPScratch(6, 3, 4, lr=0.1).W1 for _ in range(2))
    d2l.manual_seed(3)
    assert jnp.array_equal(d2l.MLPScratch(6, 3, 4, lr=0.1).W1, first)
    assert not jnp.array_equal(first, second)


@pytest.mark.parametrize("hiddens", [5, [5], (5,)])
def test_model_is_the_functions_on_its_parameters(hiddens):
    model = d2l.MLPScratch(6, 3, hiddens, lr=0.1, sigma=1)
    X, y = jnp.ones((2, 1, 2, 3)), jnp.array([0, 2])
    assert list(model.params) == ["W1", "b1", "W2", "b2"]
    assert jnp.array_equal(model(X), scratch.forward(model.params, X.reshape(2, 6)))
    assert model.loss(model(X), y) == scratch.loss(model.params, X.reshape(2, 6), y)
    assert model.loss(model(X), y, averaged=False).shape == (2,)


@pytest.mark.parametrize("hiddens", [0, [4, 0], [4, -1]])
def test_a_width_below_one_is_refused(hiddens):
    with pytest.raises(ValueError, match="at least 1"):
        d2l.MLPScratch(6, 3, hiddens, lr=0.1)
