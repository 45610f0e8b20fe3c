"""Masks: which hidden units are active, read off both sides, and flips that no logit shows."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import torch_mlp
from parity import check
from parity.levels.ladder import LEVELS
from parity.levels.masks import layers_of, note_masks
from parity.levels.pair import Pair
from parity.problem import Examples, Problem
from parity.sides.pairs import book_pair

BY_NAME = {level.name: level for level in LEVELS}
SMALL = {"batch_size": 32, "seed": 5, "epochs": 1}


def pair(examples, kind="scratch", theirs=None):
    ours, book = book_pair(kind, (6, 6), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    return Pair.of(Problem(theirs or book, ours, examples, epochs=1), precisions=["float32"])


@pytest.mark.parametrize("kind", ["scratch", "mlp"])
def test_both_sides_are_read_layer_by_layer_whatever_the_model_is_written_in(examples, kind):
    one = pair(examples, kind)
    layers = layers_of(one, "float32")
    assert [layer.name for layer in layers] == ["layer 1", "layer 2"]
    for layer in layers:
        assert layer.Z.shape == (32 + 6, 6) and 0.2 < (layer.Z > 0).mean() < 0.8
        for Z, H in layer.read.values():
            assert (abs(Z - layer.Z) <= layer.bound).all()
            np.testing.assert_array_equal(H, np.maximum(Z, 0))
    assert re.match(r"\d+ of 456 signs of pre-activations uncertain", note_masks(one, "float32"))


def close_to_a_kink(digits, bounds=1.5):
    """A pair whose first unit has, for the first example, a pre-activation of so many bounds."""
    ours, book = book_pair("scratch", (6, 6), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    first = Examples(digits, SMALL["batch_size"], SMALL["seed"]).schedule(70, True).epoch(0)[0]
    x = digits[0][first].reshape(12).astype(np.float64)
    with torch.no_grad():
        Z = x @ book.W1[:, 0].double().numpy()
        size = abs(x) @ abs(book.W1[:, 0].double().numpy()) + abs(Z)
        book.b1[0] = float(-Z + bounds * 14 * 2.0**-24 * size)
    return ours, book


class LateInFloat32(torch_mlp.MLPScratch):
    """A threshold so small that the logits stay within the bound that they have anyway."""

    def forward(self, X):
        H = torch.max(X.reshape((-1, 12)) @ self.W1 + self.b1, torch.zeros(()))
        if H.dtype == torch.float32:
            H = H.masked_fill((H > 0) & (H <= 2e-5), 0.0)  # ties keep their gradient
        H = torch.max(H @ self.W2 + self.b2, torch.zeros(()))
        return H @ self.W3 + self.b3


def test_a_flip_just_outside_the_uncertain_set_is_caught_here_first_and_named(digits):
    ours, book = close_to_a_kink(digits)
    late = LateInFloat32(12, 4, (6, 6), 0.1)
    late.load_state_dict(book.state_dict())
    levels = [BY_NAME[name] for name in ("probes", "precision", "logits", "masks")]
    assert check(ours, book, data=digits, levels=levels, **SMALL).ok
    verdict = check(ours, late, data=digits, levels=levels, **SMALL)
    failed = [(r.level.name, r.precision) for r in verdict.results if not r.ok]
    assert failed == [("masks", "float32")], verdict
    assert "1 flipped outside the uncertain set; layer 1 example" in str(verdict)
    assert re.search(r"unit 0: jax \d.*, torch \d.*, bound \d.*: not active", str(verdict))


def test_a_flip_inside_the_uncertain_set_is_listed_and_no_fault(digits):
    ours, book = close_to_a_kink(digits, bounds=0.2)
    late = LateInFloat32(12, 4, (6, 6), 0.1)
    late.load_state_dict(book.state_dict())
    verdict = check(ours, late, data=digits, levels=[BY_NAME["masks"]], **SMALL)
    assert verdict.ok, verdict
    note = verdict.results[1].note
    assert note.startswith("1 of 456 signs of pre-activations uncertain; layer 1 example")
    assert "unit 0: jax " in note and "bound " in note


def test_a_nan_is_no_inactive_unit(digits):
    class Broken(torch_mlp.MLPScratch):
        def forward(self, X):
            H = torch.max(X.reshape((-1, 12)) @ self.W1 + self.b1, torch.zeros(()))
            H = torch.max(H @ self.W2 + self.b2, torch.zeros(()))
            return (H * torch.nan) @ self.W3 + self.b3

    ours, book = book_pair("scratch", (6, 6), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    broken = Broken(12, 4, (6, 6), 0.1)
    broken.load_state_dict(book.state_dict())
    assert not check(ours, broken, data=digits, levels=[BY_NAME["masks"]], **SMALL).ok


def test_a_model_whose_products_cannot_be_read_is_skipped_with_a_reason(digits):
    class Fused(nn.Module):
        def __init__(self, book):
            super().__init__()
            self.W1, self.b1, self.W2, self.b2 = book.W1, book.b1, book.W2, book.b2

        def forward(self, X):
            H = torch.einsum("bi,ij->bj", X.reshape((-1, 12)).relu(), self.W1) + self.b1
            return (H.relu().T[:, None] * self.W2[:, None].mT).sum(0).T + self.b2

    ours, book = book_pair("scratch", (6,), 0.1, 1, inputs=12, outputs=4, sigma=0.5)
    weights = BY_NAME["weights"], BY_NAME["masks"]
    verdict = check(ours, Fused(book), data=digits, levels=weights, **SMALL)
    assert "skipped: torch: products are given" in str(verdict)
