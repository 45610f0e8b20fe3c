"""The same program twice, and on two devices: planted differences are named."""

import jax
import numpy as np
import torch
from torch import nn

from parity import check
from parity.sides.pairs import JaxSide

X = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
Y = np.arange(24, dtype=np.int32) % 3
TOKENS = np.random.default_rng(1).integers(0, 7, (24, 4)).astype(np.int32)


class Wavering(torch.autograd.Function):
    """The identity, whose gradient is an ulp larger at every call."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, by):
        Wavering.calls += 1
        return by * (1 + Wavering.calls * 2.0**-23)


class Theirs(nn.Module):
    def __init__(self, wavers):
        super().__init__()
        self.out, self.wavers = nn.Linear(5, 3), wavers

    def forward(self, X):
        return Wavering.apply(self.out(X)) if self.wavers else self.out(X)


@jax.custom_vjp
def wavering(x):
    return x


CALLS = [0]


def _counted(by):
    CALLS[0] += 1
    return by * np.float32(1 + CALLS[0] * 2.0**-23)


wavering.defvjp(
    lambda x: (x, None),
    lambda _, by: (jax.pure_callback(_counted, jax.ShapeDtypeStruct(by.shape, by.dtype), by),),
)


def ours(wavers):
    def apply(params, X):
        W = wavering(params["W"]) if wavers else params["W"]
        return X @ W + params["b"]

    return apply


def judged(level, wavers_torch=False, wavers_jax=False):
    torch.manual_seed(0)
    theirs = Theirs(wavers_torch)
    params = {"W": np.zeros((5, 3), np.float32), "b": np.zeros(3, np.float32)}
    names = {"W": "out.weight", "b": "out.bias"}
    options = dict(weights=names, batch_size=8, levels=[level])
    (result,) = check(theirs, (ours(wavers_jax), params), (X, Y), **options).results
    return result


def test_programs_that_give_the_same_bits_again_pass():
    result = judged("determinism")
    assert result.ok and len({c.name for c in result.comparisons}) == len(result.comparisons)
    assert {c.name.split(",")[0] for c in result.comparisons} >= {"jax gradients", "torch step"}


def test_a_gradient_that_wavers_is_named_with_its_side():
    for side in ("jax", "torch"):
        failed = judged("determinism", **{f"wavers_{side}": True}).failed
        assert {c.name.partition(",")[0] for c in failed} == {f"{side} gradients", f"{side} step"}


def test_sums_without_an_order_are_named_and_may_round_otherwise(monkeypatch):
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 3)

        def forward(self, tokens):
            return self.table(tokens).sum(1)

    def embedded(params, tokens):
        return params["table"][tokens].sum(1)

    torch.manual_seed(0)
    theirs = Embedded()
    params = {"table": theirs.table.weight.detach().numpy()}
    options = dict(weights={"table": "table.weight"}, batch_size=8, levels=["determinism"])

    def asked():
        (result,) = check(theirs, (embedded, params), (TOKENS, Y), **options).results
        return result

    own, off = JaxSide.evaluate, [0.0]

    def evaluate(self, *batch):
        found = own(self, *batch)
        for leaf in found.gradients.values():
            leaf *= np.float32(1 + off[0])
        off[0] = off[0] and 2 * off[0]
        return found

    monkeypatch.setattr(JaxSide, "evaluate", evaluate)
    assert asked().ok
    off[0] = 2.0**-23
    rounded = asked()
    assert rounded.ok and rounded.worst.error > 0
    assert "jax scatter-add [7, 3] x [8, 4, 1] at test_determinism.py" in rounded.note
    assert "torch aten.embedding_dense_backward" in rounded.note
    off[0] = 1e-3
    assert not asked().ok


def test_jax_is_computed_anew_on_the_cpu_and_compared_with_both():
    result = judged("devices")
    assert result.ok
    assert {c.name.split(":")[0] for c in result.comparisons} == {
        f"batch of 8, {s} on its device, jax on the CPU" for s in ("jax", "torch")
    }


def test_a_device_that_computes_something_else_is_told_from_one_that_rounds(monkeypatch):
    off = [0.0]
    own = JaxSide.on_the_cpu

    def elsewhere(self):
        other = own(self)
        scaled = {n: a * np.float32(1 + off[0]) for n, a in self.params().items()}
        monkeypatch.setattr(other, "held", lambda: (scaled, {}))
        return other

    monkeypatch.setattr(JaxSide, "on_the_cpu", elsewhere)
    off[0] = 2.0**-23
    assert judged("devices").ok
    off[0] = 1e-4
    failed = {c.name.partition(": ")[2].partition(".")[0] for c in judged("devices").failed}
    assert "logits" in failed
