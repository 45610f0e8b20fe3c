import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import jax_mlp as d2l
from jax_mlp.data import to_float
from mlp_core.fashion_mnist import CLASSES
from mlp_core.schedule import Schedule


def batches_of(loader):
    X, y = zip(*loader, strict=True)
    return [len(labels) for labels in y], np.concatenate(X), np.concatenate(y)


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_all_256_values_of_a_pixel_become_k_over_255(how):
    k = np.arange(256, dtype=np.uint8)
    exact = k.astype(np.float32) / np.float32(255)
    assert np.array_equal(how(to_float)(jnp.asarray(k)), exact)
    # What it is for: a division by a constant, compiled, misses.
    assert not np.array_equal(jax.jit(lambda k: k.astype(jnp.float32) / 255)(k), exact)


def test_pixels_are_exact_inside_a_compiled_epoch_too(sample):
    def everything(images):
        return jax.lax.map(lambda image: to_float(image) * 1, images)

    images = sample.train.images[:300]
    exact = images.astype(np.float32) / np.float32(255)
    assert np.array_equal(jax.jit(everything)(jnp.asarray(images)), exact)


@pytest.mark.accelerator("jax")
def test_pixels_are_exact_on_the_accelerator():
    k = jnp.arange(256, dtype=jnp.uint8)
    exact = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(jax.jit(to_float)(k), exact) and np.array_equal(to_float(k), exact)


def test_an_epoch_is_every_example_once_the_last_batch_is_partial(sample):
    loader = sample.train_dataloader()
    sizes, X, y = batches_of(loader)
    assert sizes == [256] * 23 + [112] and len(loader) == 24
    assert X.shape == (6000, 1, 28, 28) and X.dtype == np.float32 and y.dtype == np.int32
    assert np.array_equal(np.bincount(y), np.bincount(sample.train.labels))
    assert X.sum(dtype=float) == pytest.approx(sample.train.images.sum(dtype=float) / 255)


def test_each_epoch_is_shuffled_anew(sample):
    loader = sample.train_dataloader()
    first, second = batches_of(loader), batches_of(loader)
    assert not np.array_equal(first[2], second[2])
    # Batches themselves are composed anew, not only put into another order.
    sums = [{float(X.sum()) for X in np.split(epoch[1][:5888], 23)} for epoch in (first, second)]
    assert not sums[0] & sums[1]


def test_validation_comes_in_the_order_of_the_files(sample):
    sizes, _, y = batches_of(sample.val_dataloader())
    assert sizes == [256, 256, 256, 232]
    assert np.array_equal(y, sample.val.labels)


def test_seed_takes_the_order_that_both_sides_share():
    data = d2l.FashionMNIST(batch_size=256, data="sample", seed=7)
    loader = data.train_dataloader()
    for epoch in (0, 1):
        _, _, y = batches_of(loader)
        assert np.array_equal(y, data.train.labels[Schedule(6000, 256, seed=7).epoch(epoch)])
    # A new fit starts with epoch 0.
    assert np.array_equal(data.train_dataloader().next_order(), Schedule(6000, 256, 7).epoch(0))


def test_without_a_seed_the_order_comes_from_the_stream(sample):
    def order():
        return sample.train_dataloader().next_order()

    d2l.manual_seed(1)
    first, second = order(), order()
    d2l.manual_seed(1)
    assert np.array_equal(order(), first) and not np.array_equal(first, second)


def test_resize_is_pillows_bilinear():
    data = d2l.FashionMNIST(batch_size=4, resize=(32, 20), data="sample")
    X, y = next(iter(data.val_dataloader()))
    assert X.shape == (4, 1, 32, 20)
    pixels = Image.fromarray(data.dataset.val.images[2])
    exact = np.asarray(pixels.resize((20, 32), Image.Resampling.BILINEAR), np.float32) / 255
    assert np.array_equal(X[2, 0], exact)
    assert np.array_equal(y, data.dataset.val.labels[:4])


def test_text_labels_names_classes(sample):
    assert sample.text_labels(jnp.array([9, 0])) == ["ankle boot", "t-shirt"]
    assert sample.text_labels(range(10)) == list(CLASSES)


def test_visualize_draws_the_images_with_their_names(sample):
    batch = next(iter(sample.val_dataloader()))
    sample.visualize(batch, nrows=1, ncols=4)
    axes = plt.gcf().axes
    assert [ax.get_title() for ax in axes] == sample.text_labels(batch[1][:4])
    assert np.array_equal(axes[2].get_images()[0].get_array(), batch[0][2, 0])
    plt.close()
    sample.visualize(batch, ncols=2, labels=["one", "two"])
    assert [ax.get_title() for ax in plt.gcf().axes] == ["one", "two"]
    plt.close()


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_a_loader_gives_the_rows_of_its_schedule(n, batch_size, seed):
    arrays = np.arange(n), np.arange(n)[:, None] * 2
    loader = d2l.ArrayLoader(arrays, Schedule(n, batch_size, seed))
    for epoch in (0, 1):
        batches, order = list(loader), Schedule(n, batch_size, seed).batches(epoch)
        assert len(batches) == len(loader)
        for (x, double), rows in zip(batches, order, strict=True):
            assert np.array_equal(x, rows) and np.array_equal(double[:, 0], 2 * rows)


def test_tensorloader_takes_rows_and_shuffles_only_for_training(blobs):
    X, y = next(iter(blobs.get_tensorloader([blobs.X, blobs.y], False, slice(10, 15))))
    assert np.array_equal(X, blobs.X[10:15]) and np.array_equal(y, blobs.y[10:15])
    _, _, shuffled = batches_of(blobs.get_tensorloader([blobs.X, blobs.y], True))
    assert not np.array_equal(shuffled, blobs.y)
    assert np.array_equal(np.sort(shuffled), np.sort(blobs.y))


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[3, 4\], expected 4"):
        d2l.ArrayLoader([np.zeros(4), np.zeros(3)], Schedule(4, 2))


def test_a_data_module_without_loaders_says_so():
    with pytest.raises(NotImplementedError, match=r"DataModule\.get_dataloader"):
        d2l.DataModule().train_dataloader()
