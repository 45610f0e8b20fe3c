"""The bound of a product of bytes holds for both formulas, and for none with a part too few."""

import jax
import numpy as np
import pytest
from bounded_networks import excess

from jax_mlp import images
from jax_mlp.data import to_float
from parity.rounding.bound import bound


def value_and_gradient(product):
    def both(K, W, dY):
        value, back = jax.vjp(lambda W: product(K, W), W)
        return value, back(dY)[0]

    return both


by_parts = value_and_gradient(images.matmul)
by_floats = value_and_gradient(lambda K, W: to_float(K) @ W)


def numbers(terms):
    rng = np.random.default_rng(terms)
    K = rng.integers(0, 256, (5, terms)).astype(np.uint8)
    K[:, ::3] = 0
    W, dY = (
        (rng.normal(size=shape) * 10.0 ** rng.uniform(-8, 2, shape)).astype(np.float32)
        for shape in ((terms, 4), (5, 4))
    )
    return K, W, dY


@pytest.mark.parametrize("terms", [1, 3, 784])
def test_products_by_parts_and_of_floats_stay_within_the_bound(terms):
    given = numbers(terms)
    found = bound(by_parts, *given)
    for computed in (by_parts, by_floats):
        assert excess(jax.jit(computed)(*given), found) <= 1


def test_two_parts_of_three_are_outside_of_it(monkeypatch):
    given = numbers(3)
    own = images.parts
    monkeypatch.setattr(images, "parts", lambda B: own(B)[:2])
    faulty = value_and_gradient(images.matmul)
    assert excess(jax.jit(faulty)(*given), bound(by_parts, *given)) > 1
