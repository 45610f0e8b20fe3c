import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import BatchSampler, RandomSampler
from torchvision import transforms

import torch_mlp as d2l
from mlp_core.fashion_mnist import CLASSES
from mlp_core.idx import DataError
from mlp_core.schedule import Schedule
from torch_mlp.data import Shuffled


def batches_of(loader):
    X, y = zip(*loader, strict=True)
    return [len(labels) for labels in y], torch.cat(X), torch.cat(y)


def test_an_epoch_is_every_example_once_the_last_batch_is_partial(sample):
    torch.manual_seed(0)
    sizes, X, y = batches_of(sample.train_dataloader())
    assert sizes == [256] * 23 + [112] and len(sample.train_dataloader()) == 24
    assert X.shape == (6000, 1, 28, 28) and X.dtype == torch.float32 and y.dtype == torch.int64
    assert torch.equal(y.bincount(), sample.train.targets.bincount())
    assert X.double().sum().item() == pytest.approx(sample.train.data.double().sum().item() / 255)
    _, _, again = batches_of(sample.train_dataloader())
    assert not torch.equal(y, again)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(0, 2**32))
def test_shuffles_draw_what_the_books_loader_draws(examples, batch_size, seed):
    torch.manual_seed(seed)
    own = [rows.tolist() for _ in range(2) for rows in Shuffled(examples, batch_size)]
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    book = BatchSampler(RandomSampler(range(examples)), batch_size, drop_last=False)
    assert own == [*book, *book] and torch.equal(after, torch.get_rng_state())
    assert len(Shuffled(examples, batch_size)) == len(book)


def test_validation_comes_in_the_order_of_the_files(sample):
    sizes, X, y = batches_of(sample.val_dataloader())
    assert sizes == [256, 256, 256, 232]
    assert torch.equal(y, sample.val.targets)


def test_a_list_of_indices_gives_the_bits_of_the_images_one_by_one(sample):
    for indices in ([7], [5999, 0, 3]):
        X, y = sample.train[indices]
        one_by_one = [sample.train[i] for i in indices]
        assert torch.equal(X, torch.stack([image for image, _ in one_by_one]))
        assert y.tolist() == [label for _, label in one_by_one]


def test_all_256_values_of_a_pixel_become_k_over_255(sample):
    sample.train.data = torch.arange(256, dtype=torch.uint8).repeat_interleave(784)
    sample.train.data = sample.train.data.reshape(256, 28, 28)
    X, _ = sample.train[list(range(256))]
    assert np.array_equal(X[:, 0, 0, 0], np.arange(256, dtype=np.float32) / np.float32(255))


def test_resize_is_torchvisions_in_both_ways_of_asking():
    data = d2l.FashionMNIST(batch_size=4, resize=(32, 20), data="sample")
    X, y = data.val[[2, 0]]
    assert X.shape == (2, 1, 32, 20)
    pixels = Image.fromarray(data.val.data[2].numpy())
    expected = transforms.ToTensor()(transforms.Resize((32, 20))(pixels))
    assert torch.equal(X[0], expected) and torch.equal(data.val[2][0], expected)
    assert y.tolist() == data.val.targets[[2, 0]].tolist()
    assert next(iter(data.val_dataloader()))[0].shape == (4, 1, 32, 20)


def test_seed_takes_the_order_that_both_sides_share(monkeypatch):
    data = d2l.FashionMNIST(batch_size=256, data="sample", seed=7)
    loader = data.train_dataloader()
    for epoch in (0, 1):
        _, _, y = batches_of(loader)
        order = torch.from_numpy(Schedule(6000, 256, seed=7).epoch(epoch))
        assert torch.equal(y, data.train.targets[order.long()])
    assert len(loader) == 24
    _, _, first = batches_of(data.train_dataloader())  # a new fit starts with epoch 0
    assert torch.equal(first, data.train.targets[Schedule(6000, 256, seed=7).epoch(0).tolist()])


def test_text_labels_names_classes(sample):
    assert sample.text_labels(torch.tensor([9, 0])) == ["ankle boot", "t-shirt"]
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


def test_tensorloader_takes_rows_and_shuffles_only_for_training(blobs):
    X, y = next(iter(blobs.get_tensorloader([blobs.X, blobs.y], False, slice(10, 15))))
    assert torch.equal(X, blobs.X[10:15]) and torch.equal(y, blobs.y[10:15])
    _, _, shuffled = batches_of(blobs.get_tensorloader([blobs.X, blobs.y], True))
    assert not torch.equal(shuffled, blobs.y)
    assert torch.equal(shuffled.sort()[0], blobs.y.sort()[0])


@pytest.mark.parametrize("part", ["data", "targets"])
def test_what_torchvision_reads_must_be_what_was_verified(sample, monkeypatch, part):
    honest = type(sample.train)._load_data

    def load(self):
        found = dict(zip(("data", "targets"), honest(self), strict=True))
        found[part][7] += 1  # the file has changed since
        return found["data"], found["targets"]

    monkeypatch.setattr(type(sample.train), "_load_data", load)
    with pytest.raises(DataError, match="that were verified, got others"):
        d2l.FashionMNIST(data="sample")


def test_a_data_module_without_loaders_says_so():
    with pytest.raises(NotImplementedError, match=r"DataModule\.get_dataloader"):
        d2l.DataModule().train_dataloader()


WITHOUT = """
import sys
sys.modules["torchvision"] = None
import torch_mlp as d2l
train = d2l.FashionMNIST(64, data="sample", seed=0).train
assert type(train).__mro__[1].__module__ == "torch_mlp.without_torchvision"
batch, labels = train[[0, 7, 5999]]
one, label = train[7]
assert (batch[1] == one).all() and labels[1] == label and len(train) == 6000
print(batch.double().sum().item(), batch.double().square().sum().item(), labels.tolist())
try:
    d2l.FashionMNIST(64, resize=(32, 32), data="sample")
except ImportError as error:
    print(error)
"""


def test_a_machine_without_torchvision_reads_the_same_images():
    run = [sys.executable, "-W", "ignore", "-c", WITHOUT]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    batch, labels = d2l.FashionMNIST(64, data="sample", seed=0).train[[0, 7, 5999]]
    sums = batch.double().sum().item(), batch.double().square().sum().item()
    assert said[0] == f"{sums[0]} {sums[1]} {labels.tolist()}"
    assert "resize: needs torchvision" in said[1]
