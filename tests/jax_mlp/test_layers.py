import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_mlp.layers import NARROW, dot_general

LAST = lambda X: (((X.ndim - 1,), (0,)), ((), ()))  # noqa: E731


@pytest.mark.parametrize("outputs", [1, 10, NARROW, NARROW + 1, 100])
@pytest.mark.parametrize("lead", [(5,), (2, 3)])
def test_a_product_and_its_gradients_are_those_of_lax(outputs, lead):
    rng = np.random.default_rng(0)
    X, W, D = (  # small integers: exact in any order
        jnp.asarray(rng.integers(-4, 5, shape), jnp.float32)
        for shape in ((*lead, 7), (7, outputs), (*lead, outputs))
    )

    def product(function):
        Y, back = jax.vjp(lambda X, W: function(X, W, LAST(X)), X, W)
        return Y, *back(D)

    for own, right in zip(product(dot_general), product(lax.dot_general), strict=True):
        np.testing.assert_array_equal(own, right)


def test_a_product_can_be_mapped_and_differentiated_forward():
    X, W = jnp.ones((4, 3)), jnp.arange(6.0).reshape(3, 2)
    Y, tangent = jax.jvp(lambda W: dot_general(X, W, LAST(X)), (W,), (W,))
    np.testing.assert_array_equal(Y, tangent)
    mapped = jax.vmap(lambda W: dot_general(X, W, LAST(X)))(jnp.stack([W, 2 * W]))
    np.testing.assert_array_equal(mapped, [Y, 2 * Y])
