"""The ladder judges JAX's side when its images are bytes, in three passes of bfloat16."""

import numpy as np
import pytest

from jax_mlp import images
from mlp_core.limits import NotBytes
from parity import check
from parity.sides.pairs import book_pair


def climbed(kind="scratch", **options):
    ours, theirs = book_pair(kind, (6,), 0.1, 0)
    return check(
        theirs, ours, "sample", images="bytes", **({"epochs": 1, "batch_size": 32} | options)
    )


def test_products_of_bytes_keep_all_bits_and_the_formula_is_named():
    verdict = climbed(levels=["logits", "products"])
    assert verdict.ok, verdict
    assert any("formula checked" in note for note in verdict.notes)
    names = [c.name for c in verdict.results[-1].comparisons if "by_bytes" in c.name]
    assert sum("24.0 effective bits" in name for name in names) == 4  # two products, both operands


def test_a_pass_too_few_is_found_and_named(monkeypatch):
    own = images.parts
    monkeypatch.setattr(images, "parts", lambda B: own(B)[:2])
    (result,) = climbed(levels=["products"]).results
    assert result.failed and all("by_bytes" in c.name for c in result.failed)
    assert all("right operand" in c.name and "in two of bytes" in str(c) for c in result.failed)


@pytest.mark.slow
def test_fused_kernels_on_bytes_agree_with_torch():
    verdict = climbed(kernel="fused", batch_size=256, levels=["gradients", "curve"])
    assert verdict.ok, verdict


@pytest.mark.slow
def test_the_whole_ladder_agrees():
    verdict = climbed("mlp", batch_size=256)
    assert verdict.ok, verdict
    judged = {result.level.name for result in verdict.results if not result.skipped}
    assert {"probes", "products", "every step", "curve", "same bits"} <= judged


def test_images_of_floats_are_refused():
    ours, theirs = book_pair("scratch", (6,), 0.1, 0, inputs=12, outputs=4)
    X, y = np.zeros((8, 12), np.float32), np.zeros(8, np.int32)
    with pytest.raises(NotBytes, match="expected the bytes of FashionMNIST"):
        check(theirs, ours, (X, y), images="bytes")
