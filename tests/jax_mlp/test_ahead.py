"""What is traced for a device that needn't be there is what that device would run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mlp import layers, scratch
from jax_mlp.device import compiling_for, platform

GPU = "cuda"


def traced(function, *given):
    found = str(jax.make_jaxpr(lambda *given: function(*given))(*given))
    return {name for name in ("optimization_barrier", "gather", "scatter") if name in found}


def test_the_platform_is_the_one_that_is_compiled_for_while_it_lasts():
    own = platform()
    with compiling_for(GPU):
        assert platform() == "cuda"
    assert platform() == own == jax.default_backend()


@pytest.mark.parametrize("room", [scratch, layers])
def test_an_accelerator_gets_no_way_round_a_cpu_and_neither_gather_nor_scatter(room):
    rng = np.random.default_rng(0)
    X, W, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((6, 5), (5, 4), (4,)))
    y = jnp.array([0, 3, 1, 2, 3, 0])

    def loss(W):
        return room.softmax_cross_entropy(layers.linear(X, W, b), y)

    here = jax.value_and_grad(loss)(W)
    assert traced(jax.grad(loss), W) == {"optimization_barrier", "gather", "scatter"}
    with compiling_for(GPU):
        assert not traced(jax.grad(loss), W)
        there = jax.value_and_grad(lambda W: loss(W))(W)
    for one, other in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True):
        assert abs(one - other).max() < 1e-6  # sums of six float32 numbers below 1, in any order
