"""The ladder judges JAX's side when fused kernels train it, here interpreted."""

import jax.numpy as jnp
import numpy as np
import pytest

from jax_mlp import fused, fused_gpu, fused_tpu
from parity import check
from parity.sides.pairs import book_pair

KERNELS = {"tpu": fused_tpu, "gpu": fused_gpu}
OF_A_BATCH = ["loss", "gradients", "step"]


def climbed(kind="scratch", **options):
    """50 examples in batches of 16, the last of two; every seventh is blank, so ReLUs tie at 0."""
    rng = np.random.default_rng(0)
    X = rng.random((50, 12), np.float32)
    X[::7] = 0
    y = rng.integers(0, 4, 50).astype(np.int32)
    ours, theirs = book_pair(kind, (8,), 0.1, 0, inputs=12, outputs=4)
    given = {"kernel": "fused", "epochs": 2, "batch_size": 16} | options
    return check(theirs, ours, (X, y, X[:20], y[:20]), **given)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["tpu", "gpu"])
def test_loss_gradients_and_step_of_the_kernels_agree_with_torch(kernels, monkeypatch):
    monkeypatch.setattr(fused, "INTERPRETED", KERNELS[kernels])
    verdict = climbed(levels=OF_A_BATCH)
    assert verdict.ok, verdict
    assert any("fused kernels" in note for note in verdict.notes)


@pytest.mark.slow
@pytest.mark.parametrize("kernels, kind", [("tpu", "scratch"), ("gpu", "mlp")])
def test_the_whole_ladder_agrees(kernels, kind, monkeypatch):
    monkeypatch.setattr(fused, "INTERPRETED", KERNELS[kernels])
    verdict = climbed(kind)
    assert verdict.ok, verdict


def test_a_tie_that_counts_whole_is_found_in_the_gradients(monkeypatch):
    monkeypatch.setattr(fused_tpu, "slope", lambda Z, tie: jnp.where(Z >= 0, 1.0, 0.0))
    verdict = climbed(levels=["gradients"])
    (failed,) = [r for r in verdict.results if r.failed]
    assert failed.precision == "float32" and ".b1" in failed.failed[0].name


@pytest.mark.slow
def test_a_mean_over_the_rows_that_a_batch_lacks_is_found_in_the_run(monkeypatch):
    """The planted fault: a last batch of two that is divided by 16."""
    plain = fused_gpu._head

    def faulty(*refs, examples, **options):
        plain(*refs, examples=64, **options)

    monkeypatch.setattr(fused_gpu, "_head", faulty)
    monkeypatch.setattr(fused, "INTERPRETED", fused_gpu)
    failed = {r.level.name for r in climbed(levels=["every step", "curve"]).results if r.failed}
    assert failed == {"every step", "curve"}
