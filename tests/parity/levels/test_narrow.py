"""What is narrow in the float64 run: how a model is written, or a fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from parity import check
from parity.comparison import compare
from parity.locate.divergence import Divergence
from parity.sides.jax_types import narrowness, results
from parity.sides.jax_wide import wide

LEVELS = ("logits", "gradients")


class Theirs(torch.nn.Module):
    """at: the type of the hidden layer's numbers; None: its weights'."""

    def __init__(self, at=None):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.at = torch.nn.Linear(6, 8), torch.nn.Linear(8, 3), at

    def forward(self, X):
        H = torch.tanh(self.one(X))
        return self.two(H.to(self.at or H.dtype).to(H.dtype))


def ours(at):
    def f(p, X):
        H = jnp.tanh(X @ p["one.weight"].T + p["one.bias"])
        return H.astype(at or H.dtype).astype(H.dtype) @ p["two.weight"].T + p["two.bias"]

    return f


def judged(theirs, at):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 6)).astype("float32"), rng.integers(0, 3, 12)
    same = {n: p.detach().numpy().copy() for n, p in theirs.named_parameters()}
    options = {"weights": dict, "epochs": 1, "batch_size": 12, "levels": LEVELS}
    return check(theirs, (ours(at), same), (X, y), **options)


def test_one_sides_own_float32_is_how_it_is_written():
    verdict = judged(Theirs(), jnp.float32)
    assert verdict.ok, verdict


@pytest.mark.parametrize(
    ("theirs", "at"), [(None, jnp.bfloat16), (torch.bfloat16, jnp.float32)], ids=["jax", "torch"]
)
def test_bfloat16_on_one_side_alone_differs_in_float64(theirs, at):
    verdict = judged(Theirs(theirs), at)
    first = next(r for r in verdict.results if r.failed)
    assert (first.level.name, first.precision) == ("logits", "float64")


class WithoutFloat64(Theirs):
    def forward(self, X):
        H = X
        for layer in (self.one, self.two):
            H = (H.float() @ layer.weight.float().T).to(X.dtype) + layer.bias
            H = torch.tanh(H) if layer is self.one else H
        return H


def test_a_side_that_asks_for_float32_by_name_is_judged_in_float64():
    verdict = judged(WithoutFloat64(), None)
    assert verdict.ok, verdict


class Attends(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.qkv = torch.nn.Linear(8, 24)

    def forward(self, X):
        q, k, v = self.qkv(X).reshape(*X.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).sum((1, 2))


@pytest.mark.parametrize(("scale", "same"), [(0.5, True), (0.50000006, False)])
def test_jax_s_own_attention_which_asks_for_float32_is_judged_in_float64(scale, same):
    def f(p, X):
        qkv = (X @ p["qkv.weight"].T + p["qkv.bias"]).reshape(*X.shape[:2], 3, 2, 4)
        return jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0), scale=scale).sum((1, 2))

    rng, theirs = np.random.default_rng(0), Attends()
    X, y = rng.normal(size=(6, 3, 8)).astype("float32"), rng.integers(0, 4, 6)
    given = {n: p.detach().numpy().copy() for n, p in theirs.named_parameters()}
    options = {"weights": dict, "epochs": 1, "batch_size": 6, "levels": ("logits",)}
    verdict = check(theirs, (f, given), (X, y), **options)
    assert not any(r.skipped for r in verdict.results)
    wrong = [(r.level.name, r.precision) for r in verdict.results if r.failed]
    assert wrong == ([] if same else [("logits", "float64")]), verdict


@pytest.mark.parametrize("holder", ["custom", "branch", "scan", "loop"])
def test_float32_asked_for_by_name_is_float64_inside_whatever_holds_it(holder):
    def third(x):
        return (x.astype(jnp.float32) * 0.1 / jnp.float32(3)).astype(x.dtype)

    rule = jax.custom_jvp(third)
    rule.defjvp(lambda x, t: (third(*x), third(*t)))
    f = {
        "custom": jax.grad(lambda x: rule(x).sum()),
        "branch": lambda x: jax.lax.cond(x[0] > 0, third, lambda x: x, x),
        "scan": lambda x: jax.lax.scan(lambda c, _: (third(c), c[0]), x, length=2)[0],
        "loop": lambda x: jax.lax.while_loop(lambda x: x[0] > 0.5, third, x),
    }[holder]
    with jax.enable_x64(True):
        times = 2 if holder == "scan" else 1
        np.testing.assert_allclose(wide(f, jnp.ones(2)), (0.1 / 3) ** times, rtol=1e-15)
        assert abs(f(jnp.ones(2))[0] * 30**times - 1) > 1e-9  # without it


def test_a_bit_pattern_of_float32_is_not_taken_for_one_of_float64():
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="bitcast"):
        wide(lambda x: x.astype(jnp.float32).view(jnp.int32), jnp.ones(2))


class Digamma(Theirs):
    """No rule bounds a digamma; the type is the weights', whatever it is."""

    def forward(self, X):
        H = self.one(X.to(self.one.weight.dtype))
        return self.two(torch.digamma(H * H + 1))


@pytest.mark.parametrize(("factor", "same"), [(1.0, True), (1.1, False)])
def test_without_a_bound_the_wide_side_has_the_float64_value(factor, same):
    def f(p, X):
        p, X = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (p, X))
        H = X @ p["one.weight"].T + p["one.bias"]
        H = factor * jax.scipy.special.digamma((H * H + 1).astype(jnp.float32))
        return H.astype(X.dtype) @ p["two.weight"].T + p["two.bias"]

    theirs, rng = Digamma().to(torch.bfloat16), np.random.default_rng(0)
    given = {n: jnp.array(p.detach().float().numpy()) for n, p in theirs.named_parameters()}
    given = {n: a.astype(jnp.bfloat16) for n, a in given.items()}
    X, y = rng.normal(size=(24, 6)).astype("float32"), rng.integers(0, 3, 24)
    options = {"weights": dict, "epochs": 1, "batch_size": 24, "levels": ("logits",)}
    verdict = check(theirs, (f, given), (X, y), **options)
    assert bool(verdict.ok) is same, verdict


class Tokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.a = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 7)

    def forward(self, x):
        return self.a(self.e(x))


class NnxTokens(nnx.Module):
    def __init__(self, rngs):
        self.e, self.a = nnx.Embed(7, 4, rngs=rngs), nnx.Linear(4, 7, rngs=rngs)

    def __call__(self, x):
        return self.a(self.e(x))


def test_an_embedding_that_keeps_its_type_computes_in_float64_all_the_same():
    rng = np.random.default_rng(0)
    tokens, y = rng.integers(0, 7, (2, 12, 3)).astype("int32")
    model = NnxTokens(nnx.Rngs(0))
    options = {"weights": "guess", "epochs": 1, "batch_size": 12, "levels": LEVELS}
    verdict = check(Tokens(), model, (tokens, y), **options)
    assert verdict.ok, verdict
    assert not any(r.skipped for r in verdict.results)
    assert model.e.dtype == jnp.float32  # the user's own stays


def test_a_cast_is_seen_inside_whatever_holds_it():
    def low(x):
        return x.astype(jnp.bfloat16).astype(x.dtype)

    one, other = jax.custom_jvp(low), jax.custom_vjp(low)
    one.defjvp(lambda x, t: (low(*x), *t))
    other.defvjp(lambda x: (low(x), None), lambda _, g: (g,))
    holders = [
        jax.jit(one), other, jax.checkpoint(low),
        lambda x: jax.lax.cond(x[0] > 0, low, lambda x: x, x),
        lambda x: jax.lax.scan(lambda c, _: (low(c), None), x, length=2)[0],
        lambda x: jax.lax.while_loop(lambda x: x[0] > 0, low, x),
    ]  # fmt: skip
    for f in holders:
        jaxpr = jax.make_jaxpr(f)(jnp.ones(3)).jaxpr
        assert min(results(jaxpr, set(jaxpr.invars)), key=narrowness).kind == "bfloat16"


def test_without_a_float64_value_only_what_is_at_hand_is_said():
    found = compare(1.0, 2.0, 0.5, name="loss", sides=("jax", "torch"))
    said = str(Divergence.said("loss", "float64", found))
    assert "jax 1.0, torch 2.0" in said and "nan" not in said and "outside" not in said
    of_torch = compare(1.0, 2.0, 0.5, name="loss", sides=("torch", "float64 value"))
    said = str(Divergence.said("loss", "float32", of_torch))
    assert "torch 1.0, float64 value 2.0" in said and "jax" not in said
