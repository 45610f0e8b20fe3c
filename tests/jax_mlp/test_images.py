"""Trainer(images="bytes"): products of bytes in three passes of bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_mlp as d2l
from jax_mlp import images
from jax_mlp.step import split
from mlp_core.limits import NotBytes
from tests.jax_mlp.small_trainings import ROUNDING, Listed, small


@pytest.fixture(scope="module")
def sample():
    return d2l.FashionMNIST(2500, data="sample", seed=0)


def numbers(least, most):
    """float32 numbers of all kinds, with exponents in a range, as a column."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**23, 4000) | (rng.integers(least, most, 4000) + 127) << 23
    ends = [0, 2**23 - 1, 2**22, 2**15, 2**16 - 1, 2**7, 1]  # of 24 bits, and of 8
    bits[: len(ends)] = ends | np.int64(127 << 23)
    signed = bits | rng.integers(0, 2, 4000) << 31
    return signed.astype(np.uint32).view(np.float32)[:, None]


def rest(B):
    """What the parts leave, in float64, where nothing is flushed."""
    found = jax.jit(images.parts)(B)
    assert all(part.dtype == jnp.bfloat16 for part in found)
    return B - sum(np.asarray(part).astype(np.float64) for part in found)


def test_three_parts_are_the_matrix_exactly():
    B = numbers(-103, 128)
    assert not rest(B).any()
    first, *_ = jax.jit(images.parts)(B)
    assert (np.asarray(first).astype(np.float32) != B).mean() > 0.9  # nor are fewer parts enough


def test_of_the_smallest_numbers_less_than_float32_has_is_lost():
    B = numbers(-127, -102)
    assert abs(rest(B)).max() < 2.0**-126


@pytest.mark.parametrize("kind", [pytest.param("scratch", marks=pytest.mark.slow), "mlp"])
def test_a_model_trains_on_bytes_as_on_floats(sample, kind):
    """Two hidden layers, whose activation no kernel knows; and a last batch that isn't whole."""
    found = {}
    for given in ("floats", "bytes"):
        d2l.manual_seed(0)
        options = {"activation": "tanh", "lr": 0.1, "num_hiddens": (6, 5), "num_outputs": 10}
        made = d2l.MLPScratch if kind == "scratch" else d2l.MLP
        model = made(num_inputs=784, **options)
        history = d2l.Trainer(1, images=given).fit(model, sample)
        figures = [*history.train_loss, *history.epochs[0].val.values()]
        found[given] = [np.array(figures), *map(np.asarray, jax.tree.leaves(split(model)[1]))]
    for one, other in zip(*found.values(), strict=True):
        assert abs(one - other).max() < ROUNDING
    # Another formula was computed: some bits are others.
    assert any((a != b).any() for a, b in zip(*found.values(), strict=True))


class Derived(d2l.MLPScratch):
    pass


@pytest.mark.parametrize(
    "model, options, why",
    [
        (Derived, {}, "an MLPScratch or an MLP"),
        (d2l.MLPScratch, {"arithmetic": "reproducible"}, "expected native arithmetic"),
    ],
)
def test_what_is_not_trained_on_bytes_is_refused_in_one_line(sample, model, options, why):
    made = model(784, 10, 4, lr=0.1, sigma=0)
    with pytest.raises(NotBytes, match=why) as refused:
        d2l.Trainer(1, images="bytes", **options).fit(made, sample)
    assert "\n" not in str(refused.value) and 'images="floats"' in str(refused.value)


def test_data_that_are_no_bytes_are_refused(blobs):
    for data in (blobs, Listed(blobs)):
        with pytest.raises(NotBytes, match="expected the bytes of FashionMNIST"):
            d2l.Trainer(1, images="bytes").fit(small(), data)
    with pytest.raises(ValueError, match="images = 'pixels', expected one of"):
        d2l.Trainer(1, images="pixels")
