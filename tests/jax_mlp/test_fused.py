"""Trainer(kernel="fused"): the same training by Pallas kernels, here interpreted."""

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

import jax_mlp as d2l
from jax_mlp import fused, fused_gpu, fused_tpu
from jax_mlp.step import split
from mlp_core.checkpoint import Checkpoints
from mlp_core.limits import NotFused
from tests.jax_mlp.small_trainings import ROUNDING, Listed, small

KERNELS = {"tpu": fused_tpu, "gpu": fused_gpu}


def trained(model, data, epochs=1, **options):
    d2l.manual_seed(0)
    history = d2l.Trainer(epochs, **options).fit(model, data)
    return np.array(history.train_loss), jax.tree.leaves(split(model)[1])


def as_the_scan(model, data, epochs=1):
    twin = nnx.clone(model)
    (losses, weights), (others, expected) = (
        trained(one, data, epochs, kernel=kernel)
        for one, kernel in ((model, "fused"), (twin, "scan"))
    )
    assert len(losses) == len(others) and abs(losses - others).max() < ROUNDING
    for weight, other in zip(weights, expected, strict=True):
        assert abs(weight - other).max() < ROUNDING


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_weights_are_those_of_the_scan(blobs, kernels, monkeypatch):
    """Over two epochs, each with a partial last batch; 5 units and 6 inputs fill no block."""
    monkeypatch.setattr(fused, "INTERPRETED", KERNELS[kernels])
    as_the_scan(small(), blobs, epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", KERNELS)
def test_layers_on_images_of_bytes_train_as_the_scan_does(kernels, monkeypatch):
    monkeypatch.setattr(fused, "INTERPRETED", KERNELS[kernels])
    as_the_scan(d2l.MLP(10, 24, lr=0.1), d2l.FashionMNIST(256, data="sample"))


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["gpu"])
def test_a_batch_larger_than_the_data_is_one_partial_step(blobs, kernels, monkeypatch):
    monkeypatch.setattr(fused, "INTERPRETED", KERNELS[kernels])
    blobs.batch_size = 100
    as_the_scan(small(), blobs)


class Doubled(d2l.MLPScratch):
    def loss(self, Y_hat, Y, averaged=True):
        return 2 * super().loss(Y_hat, Y, averaged)


@pytest.mark.parametrize(
    "model, options, why",
    [
        (dict(num_hiddens=(5, 4)), {}, "expected one hidden layer, got 2"),
        (dict(activation="tanh"), {}, "expected the activation relu, got tanh"),
        ({}, dict(gradient_clip_val=1), "no gradient is clipped"),
        ({}, dict(arithmetic="reproducible"), "expected native arithmetic"),
        ({}, dict(checkpoint=Checkpoints(Path("unused"), every=2)), "not every so many steps"),
        (dict(num_hiddens=4000, num_inputs=3000), {}, r"3000-4000-3 in batches of 8 needs \d+\.\d "
         "MiB of vector memory, of which the smallest TPU of today has 64"),
    ],
)  # fmt: skip
def test_what_the_kernels_do_not_compute_is_refused_in_one_line(blobs, model, options, why):
    trainer = d2l.Trainer(1, kernel="fused", **options)
    trainer.prepare_data(blobs)
    with pytest.raises(NotFused, match=why) as refused:
        fused.check(trainer, small(sigma=0, **model), jax.devices("cpu")[0])
    assert "\n" not in str(refused.value) and 'kernel="scan"' in str(refused.value)


def test_a_model_with_a_loss_of_its_own_is_refused(blobs):
    sizes = dict(num_inputs=6, num_outputs=3, num_hiddens=5, lr=0.1)
    with pytest.raises(NotFused, match="no class derived from them"):
        d2l.Trainer(1, kernel="fused").fit(Doubled(**sizes), blobs)
    model = small()
    model.loss = lambda Y_hat, Y: 0.0
    with pytest.raises(NotFused, match="its own loss would not be called"):
        d2l.Trainer(1, kernel="fused").fit(model, blobs)


def test_batches_one_at_a_time_and_other_devices_are_refused(blobs):
    with pytest.raises(NotFused, match="an ArrayLoader"):
        d2l.Trainer(1, kernel="fused").fit(small(), Listed(blobs))
    trainer = d2l.Trainer(1, kernel="fused")
    trainer.prepare_data(blobs)
    with pytest.raises(NotFused, match="no kernel for rocket"):
        fused.check(trainer, small(), SimpleNamespace(platform="rocket", device_kind="V2"))
    with pytest.raises(NotFused, match="at most 128 classes on a GPU"):
        wide = small(num_outputs=200)
        fused.check(trainer, wide, SimpleNamespace(platform="gpu", device_kind="H100"))
    scheduled = small()
    scheduled.lr = lambda step: 0.1
    with pytest.raises(NotFused, match="a number as rate, got function"):
        fused.check(trainer, scheduled, jax.devices("cpu")[0])
    with jax.default_matmul_precision("high"), pytest.raises(NotFused, match="precision 'high'"):
        fused.check(trainer, small(), jax.devices("cpu")[0])


def test_a_run_says_which_kernel_it_had_unless_it_is_the_one_of_older_checkpoints():
    assert d2l.Trainer(1, kernel="fused").hparams["kernel"] == "fused"
    plain = d2l.Trainer(1)
    assert plain.kernel == "scan" and {*plain.hparams} == {
        "max_epochs", "num_gpus", "gradient_clip_val", "arithmetic", "devices", "processes",
        "at_nan",
    }  # fmt: skip


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel = 'fast', expected one of"):
        d2l.Trainer(1, kernel="fast")
