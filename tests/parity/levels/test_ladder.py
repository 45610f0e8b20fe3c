"""Each level passes on a faithful port and fails on a planted fault."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import jax_mlp
import torch_mlp
import torch_mlp.reproducible
from parity import assert_parity, check
from parity.comparison import compare
from parity.levels.ladder import LEVELS
from parity.levels.level import Result
from parity.levels.verdict import Verdict
from parity.sides.pairs import JaxSide, TorchSide

SMALL = {"epochs": 2, "batch_size": 32, "seed": 5}
BY_NAME = {level.name: level for level in LEVELS}


def scratch_pair(hiddens=(6, 6), lr=0.1):
    torch.manual_seed(1)
    # A larger spread than the book's 0.01, so that a small net has something to get wrong.
    arguments = (12, 4, hiddens, lr, 0.5)
    return jax_mlp.MLPScratch(*arguments), torch_mlp.MLPScratch(*arguments)


def concise_pair(hiddens=(6, 6), lr=0.1):
    torch.manual_seed(1)
    return jax_mlp.MLP(4, hiddens, lr, num_inputs=12), torch_mlp.MLP(4, hiddens, lr)


def found(verdict):
    """{level: precisions at which it failed}"""
    failed = {}
    for r in verdict.results:
        if not r.ok:
            failed.setdefault(r.level.name, []).append(r.precision)
    return failed


@pytest.mark.parametrize("pair", [scratch_pair, pytest.param(concise_pair, marks=pytest.mark.slow)])
def test_a_faithful_port_passes_every_level(digits, pair):
    verdict = check(*pair(), data=digits, **SMALL)
    assert verdict.ok, verdict
    assert [(r.level.name, r.precision) for r in verdict.results] == [
        (level.name, precision)
        for level in LEVELS
        for precision in level.precisions
        if level.name not in ("products", "determinism", "devices")  # of an accelerator
    ]
    assert not any(r.vacuous for r in verdict.results)
    assert set(verdict.curves) >= {"jax float64", "torch float32", "yardstick"}
    assert len(verdict.curves["jax float32"]["train_loss"]) == 2 * 3  # 70 examples in 32s


def test_the_models_of_the_caller_are_left_as_they_were(digits):
    ours, theirs = scratch_pair()
    before = np.array(ours.W1), theirs.W1.detach().clone()
    check(ours, theirs, data=digits, levels=[BY_NAME["step"]], **SMALL)
    np.testing.assert_array_equal(np.array(ours.W1), before[0])
    assert torch.equal(theirs.W1, before[1])
    assert not hasattr(theirs, "trainer") and not hasattr(ours, "trainer")


# Planted in Torch, where nothing has to be compiled: JAX and its bounds stay what they were.


class TransposedSquare(torch_mlp.MLPScratch):
    def forward(self, X):
        H = torch_mlp.relu(X.reshape((-1, 12)) @ self.W1 + self.b1)
        return torch_mlp.relu(H @ self.W2.T + self.b2) @ self.W3 + self.b3


class SmoothedLoss(torch_mlp.MLPScratch):
    def loss(self, Y_hat, Y, averaged=True):
        return nn.functional.cross_entropy(Y_hat, Y, label_smoothing=1e-6)


class SumForMean(torch_mlp.MLPScratch):
    def loss(self, Y_hat, Y, averaged=True):
        return super().loss(Y_hat, Y, averaged=False).sum()


class StoppedGradient(torch_mlp.MLPScratch):
    def forward(self, X):
        H = torch_mlp.relu(X.reshape((-1, 12)) @ self.W1 + self.b1.detach())
        return torch_mlp.relu(H @ self.W2 + self.b2) @ self.W3 + self.b3


class OtherRate(torch_mlp.MLPScratch):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr * (1 + 1e-6))


class NaNUnit(torch_mlp.MLPScratch):
    def forward(self, X):
        return super().forward(X) * torch.tensor([torch.nan, 1, 1, 1])


class LittleMomentum(torch_mlp.MLPScratch):
    """Right in its first step from any weights; momentum shows from the second on."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=1e-4)


FAULTS = {
    TransposedSquare: "probes",
    SmoothedLoss: "loss",
    SumForMean: "loss",
    StoppedGradient: "probes",
    OtherRate: "step",
    NaNUnit: "probes",
    LittleMomentum: "step",  # its memory, which JAX's optimiser lacks
}


QUICK = (SumForMean, NaNUnit, LittleMomentum)


@pytest.mark.parametrize(
    ("faulty", "level"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * (pair[0] not in QUICK))
     for pair in FAULTS.items()],
    ids=lambda x: getattr(x, "__name__", x),
)  # fmt: skip
def test_a_planted_fault_is_caught_at_the_level_where_it_is_made(digits, faulty, level):
    ours, _ = scratch_pair()
    torch.manual_seed(1)
    theirs = faulty(12, 4, (6, 6), 0.1, 0.5)
    verdict = check(ours, theirs, data=digits, certify=False, **SMALL)  # no step shows it first
    failed = found(verdict)
    assert ("identity" in failed) != (faulty is NaNUnit), verdict  # a NaN is in no field
    failed.pop("identity", None)
    assert next(iter(failed)) == level and not verdict.ok, verdict
    assert level == "probes" or "float64" in failed[level]
    if "step" in failed:  # one batch shows it: the element is named
        assert verdict.divergence is not None and str(verdict.divergence) in str(verdict)


def test_inputs_that_differ_by_an_ulp_are_caught_first(digits, monkeypatch):
    honest = JaxSide.batches

    def off(self, train=True):
        for X, y in honest(self, train):
            X = X.copy()
            X[-1, 0, 2, 3] = np.nextafter(X[-1, 0, 2, 3], np.float32(9))
            yield X, y

    monkeypatch.setattr(JaxSide, "batches", off)
    verdict = check(*scratch_pair(), data=digits, levels=[BY_NAME["inputs"]], **SMALL)
    assert not verdict.ok
    worst = verdict.results[0].worst
    assert "images" in worst.name and worst.index == (31, 0, 2, 3)


def test_weights_that_do_not_survive_the_round_trip_are_caught(digits, monkeypatch):
    honest = JaxSide.load

    def lossy(self, params, *state):
        low = {k: a.astype(np.float16).astype(np.float32) for k, a in params.items()}
        honest(self, low, *state)

    monkeypatch.setattr(JaxSide, "load", lossy)
    verdict = check(*scratch_pair(), data=digits, levels=[BY_NAME["weights"]], **SMALL)
    assert list(found(verdict)) == ["weights"]


def test_low_precision_in_float32_fails_the_bound_while_float64_is_right(digits, monkeypatch):
    honest = JaxSide.forward

    def bf16(self, X, training=True):
        if self.dtype == "float32":
            X = np.asarray(jnp.asarray(X, jnp.bfloat16).astype(jnp.float32))
        return honest(self, X, training)

    monkeypatch.setattr(JaxSide, "forward", bf16)
    verdict = check(*scratch_pair(), data=digits, levels=[BY_NAME["logits"]], **SMALL)
    assert found(verdict) == {"logits": ["float32"]}


def test_a_step_in_the_middle_of_a_run_that_leaves_its_bound_fails_every_step(digits, monkeypatch):
    honest, taken = TorchSide.step, []

    def off(self, batch):
        found = honest(self, batch)
        taken.append(1)
        if len(taken) == 5:
            found.params["W2"][3, 5] += np.float32(0.01)
        return found

    monkeypatch.setattr(TorchSide, "step", off)
    verdict = check(*scratch_pair(), data=digits, levels=[BY_NAME["every step"]], **SMALL)
    assert found(verdict) == {"every step": ["float32"]}, verdict
    assert list(verdict.trajectory.failed) == [4] and verdict.trajectory.steps == 6
    assert "W2 at step 4 of 6" in str(verdict) and "torch" in str(verdict)


def test_certifying_every_step_can_be_left_out_and_the_report_says_so(digits):
    levels = [BY_NAME["weights"], BY_NAME["every step"]]
    verdict = check(*scratch_pair(), data=digits, levels=levels, certify=False, **SMALL)
    assert verdict.ok and verdict.trajectory is None
    assert "every step float32  skipped: left out, as certify=False" in str(verdict)


def test_one_ulp_in_one_update_fails_the_same_bits(digits, monkeypatch):
    honest = torch_mlp.reproducible.sgd
    steps = []

    def off(*arguments, **options):
        new, velocity = honest(*arguments, **options)
        steps.append(1)
        if len(steps) == 2:
            new["0"][1, 2] = torch.nextafter(new["0"][1, 2], torch.tensor(9.0))
        return new, velocity

    monkeypatch.setattr(torch_mlp.reproducible, "sgd", off)
    verdict = check(*concise_pair(), data=digits, levels=[BY_NAME["same bits"]], **SMALL)
    assert list(found(verdict)) == ["same bits"], verdict


def test_a_model_with_operations_of_its_own_skips_the_same_bits_and_says_so(digits):
    class Own(torch_mlp.MLPScratch):
        def forward(self, X):
            return super().forward(X)

    ours, _ = scratch_pair()
    torch.manual_seed(1)
    theirs = Own(12, 4, (6, 6), 0.1, 0.5)
    levels = [BY_NAME["weights"], BY_NAME["same bits"]]
    verdict = check(ours, theirs, data=digits, levels=levels, **SMALL)
    assert verdict.ok and "skipped: torch: 'forward' is not marked" in str(verdict)
    assert "not marked" in verdict.to_json()["levels"][1]["skipped"]
    alone = check(ours, theirs, data=digits, levels=levels[1:], **SMALL)
    assert alone.results[0].ok and not alone.ok  # nothing failed, but nothing agreed


def test_no_level_at_all_is_no_agreement(digits):
    with pytest.raises(ValueError, match="levels: none, expected some of"):
        check(*scratch_pair(), data=digits, levels=[], **SMALL)


@pytest.mark.slow
def test_plain_modules_are_checked_too_with_names(digits):
    class Net(nnx.Module):
        def __init__(self):
            self.a = nnx.Linear(12, 5, rngs=nnx.Rngs(0))
            self.b = nnx.Linear(5, 4, rngs=nnx.Rngs(1))

        def __call__(self, X):
            return self.b(jnp.tanh(self.a(X.reshape((len(X), -1)))))

    theirs = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4))
    names = {
        "a.kernel": "1.weight",
        "a.bias": "1.bias",
        "b.kernel": "3.weight",
        "b.bias": "3.bias",
    }
    assert_parity(Net(), theirs, data=digits, weights=names, **SMALL)
    with pytest.raises(ValueError, match="pass weights=.*\n.*jax: .*kernel.*\n.*torch: 1.weight"):
        check(Net(), theirs, data=digits, **SMALL)
    theirs[2] = nn.Sigmoid()
    with pytest.raises(AssertionError, match="logits"):
        assert_parity(Net(), theirs, data=digits, weights=names, certify=False, **SMALL)


def test_shapes_that_cannot_be_paired_are_named(digits):
    ours, _ = scratch_pair(hiddens=(7, 6))
    _, theirs = scratch_pair()
    with pytest.raises(ValueError, match=r"'W1' has shape \(12, 7\), torch 'W1'.*\(12, 6\)"):
        check(ours, theirs, data=digits, **SMALL)


@pytest.mark.parametrize("bad", [(np.zeros((3, 2)),), (np.zeros((3, 2)), np.zeros(3, int))])
def test_arrays_of_the_wrong_kind_are_refused(bad):
    with pytest.raises(ValueError, match="data: "):
        check(*scratch_pair(), data=bad, **SMALL)


def test_a_verdict_says_of_how_many_elements_it_did_not_judge_some():
    compared = compare([1.0, 2.0], [1.0, 9.0], [0.0, np.inf], name="w")
    result = Result(BY_NAME["step"], "float32", (compared,), 0.1)
    text = str(Verdict("one = other", (result,), {}, {}))
    assert "1 of 2 elements not judged: their bound is infinite" in text
