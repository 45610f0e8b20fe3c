"""Integer probes: exact on every faithful port, in any order and format; any fault shows."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import jax_mlp
import torch_mlp
from parity.levels import probes
from parity.levels.pair import Pair
from parity.levels.perceptrons import NoProbe
from parity.levels.probes import build, exact, judge_probes
from parity.problem import Problem
from parity.sides.pairs import book_pair

SHAPES = [(12, 4), (12, 6, 4), (12, 6, 6, 4), (12, 1, 4), (7, 9, 3, 9, 5), (20, *[16] * 8, 10)]


def pair_of(ours, theirs, examples, names=None):
    return Pair.of(Problem(theirs, ours, examples, weights=names, epochs=1))


def small(kind, hiddens=(6, 6)):
    return book_pair(kind, hiddens, 0.1, 1, inputs=12, outputs=4)


def failed(found):
    return {c.name.split("gradients.")[-1].split(": ")[-1] for c in found if not c.ok}


@pytest.mark.parametrize(
    ("kind", "hiddens", "precision"),
    [
        ("scratch", (), "float64"),
        ("scratch", (6, 6), "float32"),
        ("scratch", (5, 3, 8, 2), "float64"),
        ("mlp", (), "float32"),
        ("mlp", (6,), "float64"),
        ("mlp", (5, 3, 8, 2), "float32"),
    ],
)
def test_a_faithful_port_gives_the_same_integers_at_any_depth(kind, hiddens, precision, examples):
    pair = pair_of(*small(kind, hiddens), examples)
    before = pair.torch[precision].params()
    found = judge_probes(pair, precision)
    assert all(c.ok and c.margin == 0 for c in found), [str(c) for c in found if not c.ok]
    layers = len(hiddens) + 1
    assert len(found) == 2 * 2 * (2 * layers + 2)  # batches, sides; leaves, logits, inputs
    assert {"32", "6"} <= {c.name.split(":")[0].split(",")[1].split()[-1] for c in found}
    for name, array in pair.torch[precision].params().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("sizes", SHAPES)
def test_the_exact_evaluation_is_what_plain_integers_give(sizes):
    probe = build(sizes, 24)
    for tie in probes.TIES:
        H, kept = probe.X.astype(object), []  # Python's integers: no overflow, no BLAS
        for i in range(1, probe.layers + 1):
            W, b = (probe.params[f"{k}{i}"].astype(object) for k in "Wb")
            kept.append(H)
            Z = H @ W + b
            H = np.maximum(Z, 0)
        found = exact(probe, tie)
        assert (found.logits == Z).all()
        D = probe.cotangent.astype(object) * Fraction(1)
        for i in range(probe.layers, 0, -1):
            assert (found.gradients[f"W{i}"] == kept[i - 1].T @ D).all()
            assert (found.gradients[f"b{i}"] == D.sum(axis=0)).all()
            D = D @ probe.params[f"W{i}"].T.astype(object)
            if i > 1:
                Z = kept[i - 2] @ probe.params[f"W{i - 1}"] + probe.params[f"b{i - 1}"]
                D = D * np.where(Z > 0, 1, np.where(Z == 0, tie, 0))
        assert (found.inputs == D).all()


@pytest.mark.parametrize("sizes", SHAPES)
def test_no_order_of_summation_and_no_short_operand_changes_a_bit(sizes):
    """bfloat16 operands, products summed in float32 in a random order, as a TPU may."""
    probe, rng = build(sizes, 24), np.random.default_rng(3)

    def dot(A, B):
        A, B = (np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (A, B))
        order = rng.permutation(A.shape[1])
        total = np.zeros((len(A), B.shape[1]), np.float32)
        for k in order:
            total += A[:, k : k + 1] * B[k : k + 1]
        return total

    H, kept = probe.X.astype(np.float32), []
    for i in range(1, probe.layers + 1):
        kept.append(H)
        Z = dot(H, probe.params[f"W{i}"]) + probe.params[f"b{i}"].astype(np.float32)
        H = np.maximum(Z, 0)
    right = exact(probe)
    np.testing.assert_array_equal(Z, right.logits)
    D = probe.cotangent.astype(np.float32)
    for i in range(probe.layers, 0, -1):
        np.testing.assert_array_equal(dot(kept[i - 1].T, D), right.gradients[f"W{i}"])
        D = dot(D, probe.params[f"W{i}"].T)
        if i > 1:
            b = probe.params[f"b{i - 1}"].astype(np.float32)
            Z = dot(kept[i - 2], probe.params[f"W{i - 1}"]) + b
            D *= np.where(Z > 0, 1, np.where(Z == 0, 0.5, 0)).astype(np.float32)
    np.testing.assert_array_equal(D, right.inputs)


@pytest.mark.parametrize("sizes", SHAPES[1:])
def test_ties_occur_in_every_hidden_layer_and_are_felt(sizes):
    probe = build(sizes, 24)
    half, none = (exact(probe, tie).gradients for tie in probes.TIES)
    for i in range(1, probe.layers):
        assert (half[f"b{i}"] != none[f"b{i}"]).any()


class Faulty(torch_mlp.MLPScratch):
    """MLPScratch with its layers written out, so that a subclass can get one thing wrong."""

    def layer(self, i):
        return getattr(self, f"W{i}"), getattr(self, f"b{i}")

    def relu(self, Z):
        return torch.max(Z, torch.zeros_like(Z))

    def forward(self, X):
        H = X.reshape((len(X), -1))
        for i in (1, 2, 3):
            W, b = self.layer(i)
            Z = H @ W + b
            H = self.relu(Z)
        return Z


class Transposed(Faulty):
    def layer(self, i):
        W, b = super().layer(i)
        return (W.T if i == 2 else W), b


class SwappedBiases(Faulty):
    def layer(self, i):
        return getattr(self, f"W{i}"), getattr(self, f"b{[0, 2, 1, 3][i]}")


class NoBias(Faulty):
    def layer(self, i):
        W, b = super().layer(i)
        return W, b * (i != 3)


class TwiceBias(Faulty):
    def layer(self, i):
        W, b = super().layer(i)
        return W, b * (1 + (i == 1))


class TieZero(Faulty):
    def relu(self, Z):
        return torch.relu(Z)


class Leaky(Faulty):
    def relu(self, Z):
        return nn.functional.leaky_relu(Z, 1e-3)


class Stopped(Faulty):
    def layer(self, i):
        W, b = super().layer(i)
        return W, b.detach() if i == 2 else b


class TurnedImages(Faulty):
    def forward(self, X):
        return super().forward(X.flip(-1))


class LastTwoSwapped(Faulty):
    def forward(self, X):
        return super().forward(torch.cat([X[:-2], X[-1:], X[-2:-1]]))


FAULTS = [
    (Faulty, None),
    (Transposed, "logits"),
    (SwappedBiases, "logits"),
    (NoBias, "logits"),
    (TwiceBias, "logits"),
    (TieZero, "b1"),
    (Leaky, "logits"),
    (Stopped, "b2"),
    (TurnedImages, "logits"),
    (LastTwoSwapped, "logits"),
]


@pytest.mark.parametrize(("fault", "where"), FAULTS)
def test_a_fault_shows_without_any_tolerance(fault, where, examples):
    ours, _ = small("scratch")
    found = judge_probes(pair_of(ours, fault(12, 4, (6, 6), 0.1), examples), "float32")
    assert where in failed(found) if where else not failed(found)
    assert {c.sides[0] for c in found if not c.ok} <= {"torch"}


def test_a_tie_of_one_half_for_zero_shows_in_the_concise_model(examples):
    class Half(nn.Module):
        def forward(self, Z):
            return torch.max(Z, torch.zeros_like(Z))

    ours, theirs = small("mlp")
    theirs.net[2] = Half()
    assert "b1" in failed(judge_probes(pair_of(ours, theirs, examples), "float32"))


def test_a_mistake_that_both_sides_make_shows_against_the_integers(examples):
    class Ours(jax_mlp.MLPScratch):
        def forward(self, X):
            params = {**self.params, "b3": jnp.zeros(4)}
            return jax_mlp.scratch.forward(params, X.reshape((-1, self.num_inputs)))

    pair = Ours(12, 4, (6, 6), 0.1), NoBias(12, 4, (6, 6), 0.1)
    found = judge_probes(pair_of(*pair, examples), "float32")
    assert {c.sides[0] for c in found if not c.ok} == {"jax", "torch"}


def test_a_model_that_is_no_relu_perceptron_is_refused_with_the_reason(examples):
    class Ours(jax_mlp.MLPScratch):
        def forward(self, X):
            return jnp.tanh(X.reshape((-1, 12)) @ self.W1 + self.b1) @ self.W2 + self.b2

    pair = Ours(12, 4, 6, 0.1), torch_mlp.MLPScratch(12, 4, 6, 0.1)
    with pytest.raises(NoProbe, match="tanh"):
        judge_probes(pair_of(*pair, examples), "float32")

    class Odd(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones(1))

        def __call__(self, X):
            return X.reshape((-1, 12)) * self.scale[...]

    class Theirs(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, X):
            return X.reshape((-1, 12)) * self.scale

    with pytest.raises(NoProbe, match="perceptron"):
        judge_probes(pair_of(Odd(), Theirs(), examples), "float32")


def test_sums_that_cannot_stay_exact_are_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(probes, "SUM_BITS", 6)
    with pytest.raises(NoProbe, match=r"784-8-10 at batch 96: layer .* units of 2\^6"):
        build((784, 8, 10), 96)
