"""parity.rounding.bound of convolutions and pooling, against both frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bounded_networks import ROUNDOFF, excess
from jax import lax

from parity.rounding.bound import bound

POOLS = {
    "max": (lax.max, -jnp.inf, F.max_pool2d),
    "min": (lax.min, jnp.inf, lambda H, size, stride: -F.max_pool2d(-H, size, stride)),
    "mean": (lax.add, 0.0, F.avg_pool2d),
}


def pooled(H, kind, size, stride):
    combine, start, _ = POOLS[kind]
    H = lax.reduce_window(H, start, combine, (1, 1, *size), (1, 1, *stride), "VALID")
    return H if kind != "mean" else H / np.prod(size)


def loss(params, X, weights, kind, size, stride, padding, steps):
    K, b, K2 = params
    names = ("NCHW", "OIHW", "NCHW")
    H = lax.conv_general_dilated(X, K, steps, padding, dimension_numbers=names)
    H = jnp.maximum(H + b[:, None, None], 0)
    H = pooled(H, kind, size, stride)
    H = lax.conv_general_dilated(H, K2, (1, 1), "VALID", dimension_numbers=names)
    return jnp.sum(H * weights), H


def torch_loss(params, X, weights, kind, size, stride, padding, steps):
    leaves = [torch.tensor(p, requires_grad=True) for p in params]
    K, b, K2 = leaves
    (top, _), (left, _) = padding
    H = F.conv2d(torch.tensor(X), K, b, stride=steps, padding=(top, left))
    H = torch.max(H, torch.zeros_like(H))
    H = F.conv2d(POOLS[kind][2](H, size, stride), K2)
    L = (H * torch.tensor(weights)).sum()
    L.backward()
    return (L.detach().numpy(), H.detach().numpy()), [p.grad.numpy() for p in leaves]


def network(rng, kind):
    def normal(*shape):
        return rng.normal(size=shape).astype(kind)

    params = [normal(3, 2, 3, 2), 0.01 * abs(normal(3)), normal(4, 3, 1, 2)]
    X = normal(5, 2, 9, 8) * 10 ** rng.uniform(-2, 2)
    return params, X.astype(kind)


def shape_of(params, X, options):
    return jax.eval_shape(lambda params, X: loss(params, X, 1.0, *options)[1], params, X).shape


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "size, stride, padding, steps",
    [
        ((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)),
        ((3, 2), (1, 2), ((1, 1), (1, 1)), (1, 1)),  # windows that overlap
        ((2, 2), (2, 2), ((1, 1), (0, 0)), (2, 1)),
    ],
)
def test_convolutions_and_pooling_of_both_frameworks_stay_within_the_bound(
    kind, pool, size, stride, padding, steps
):
    rng, options = np.random.default_rng(3), (pool, size, stride, padding, steps)

    def both(params, X, weights):
        return jax.value_and_grad(loss, has_aux=True)(params, X, weights, *options)

    compiled = jax.jit(both)
    used, shape = [], None
    for _ in range(20):
        params, X = network(rng, kind)
        with jax.enable_x64(kind is np.float64):
            if shape is None:
                shape = shape_of(params, X, options)
            weights = rng.normal(size=shape).astype(kind)
            own = jax.tree.map(np.asarray, compiled(params, X, weights))
        found = bound(both, params, X, weights, roundoff=ROUNDOFF[kind])
        theirs = torch_loss(params, X, weights, *options)
        used += [excess(own, found), excess(theirs, found)]
        gradient = found.bound[1][0] / np.abs(found.value[1][0]).max()
        assert np.median(gradient) < 1e4 * ROUNDOFF[kind]  # not vacuous: sums of some 10^3 terms
    assert max(used) <= 1 and np.median(used) > 1e-4


def test_a_wrong_kernel_element_is_outside():
    rng = np.random.default_rng(0)
    params, X = network(rng, np.float32)
    options = ("max", (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1))
    weights = np.ones(shape_of(params, X, options), np.float32)

    def both(params, X):
        return jax.value_and_grad(loss, has_aux=True)(params, X, weights, *options)

    found = bound(both, params, X)
    params[0][1, 1, 1, 1] *= 1 + 1e-4
    assert excess(torch_loss(params, X, weights, *options), found) > 1


def pool_gradient(x, y):
    return jax.vjp(lambda x: pooled(x, "max", (1, 2), (1, 2)), x)[1](y)[0]


def test_the_first_of_equal_entries_has_the_gradient_in_both_and_no_doubt():
    x = np.zeros((1, 1, 1, 4), np.float32)
    y = np.array([3.0, 5.0], np.float32).reshape(1, 1, 1, 2)
    found = bound(pool_gradient, x, y)
    assert found.value.ravel().tolist() == [3, 0, 5, 0] and not found.bound.any()
    given = torch.tensor(x, requires_grad=True)
    F.max_pool2d(given, (1, 2)).backward(torch.tensor(y))
    assert given.grad.ravel().tolist() == [3, 0, 5, 0]


def test_where_rounding_may_turn_the_largest_the_bound_holds_for_either():
    x = np.array([1, 1 + 2.0**-20, 1, 2], np.float32).reshape(1, 1, 1, 4)
    y = np.array([3.0, 5.0], np.float32).reshape(1, 1, 1, 2)
    unsure = bound(pool_gradient, x, y, input_bounds=(np.full(x.shape, 2.0**-20), 0 * y))
    assert unsure.value.ravel().tolist() == [0, 3, 0, 5]
    assert (unsure.bound.ravel()[:2] >= 3).all() and not unsure.bound.ravel()[2:].any()
    sure = bound(pool_gradient, x, y, input_bounds=(np.full(x.shape, 2.0**-22), 0 * y))
    assert not sure.bound.any()


def test_blank_images_stay_exact():
    params, X = network(np.random.default_rng(1), np.float32)
    found = bound(lambda K, X: lax.conv(X, K, (1, 1), "VALID"), params[0], X * 0)
    assert not found.value.any() and not found.bound.any()
