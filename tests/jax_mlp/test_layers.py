import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jax_mlp as d2l
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


@pytest.mark.parametrize("outputs", [2, NARROW + 1])
def test_a_product_can_be_mapped_and_differentiated_forward(outputs):
    X, W = jnp.ones((4, 3)), jnp.arange(3.0 * outputs).reshape(3, outputs)
    Y, tangent = jax.jvp(lambda W: dot_general(X, W, LAST(X)), (W,), (W,))
    np.testing.assert_array_equal(Y, tangent)
    both = jax.jvp(lambda X, W: dot_general(X, W, LAST(X)), (X, W), (X, W))[1]
    np.testing.assert_array_equal(2 * Y, both)
    mapped = jax.vmap(lambda W: dot_general(X, W, LAST(X)))(jnp.stack([W, 2 * W]))
    np.testing.assert_array_equal(mapped, [Y, 2 * Y])


@pytest.mark.parametrize("outputs", [2, NARROW + 1])
def test_a_product_has_second_derivatives(outputs):
    rng = np.random.default_rng(1)
    X, W = (jnp.asarray(rng.integers(-3, 4, s), jnp.float32) for s in ((4, 3), (3, outputs)))

    def hessian(function):
        def cube(X):
            return jnp.sum(function(X, W, LAST(X)) ** 3)

        return jax.hessian(cube)(X)

    np.testing.assert_array_equal(hessian(dot_general), hessian(lax.dot_general))


def test_the_books_matmul_is_jnps_for_other_shapes_and_types():
    A, v = np.arange(6.0, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    np.testing.assert_array_equal(d2l.matmul(A, A.T), A @ A.T)
    np.testing.assert_array_equal(d2l.matmul(A, v), A @ v)
    np.testing.assert_array_equal(d2l.matmul(A[None], A.T), (A @ A.T)[None])
    assert d2l.matmul(A.astype(np.int32), A.T).dtype == np.float32
