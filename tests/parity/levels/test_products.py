"""Every product alone: a planted format is named, of matrices, convolutions and attention."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity import check
from parity.levels import ladder
from parity.levels.pair import Pair
from parity.levels.products import attended_scores, attended_values, measured_operands
from parity.problem import Problem
from parity.sides.bilinear import Attention, Bilinear, Operand
from parity.sides.pairs import Examples, JaxSide, TorchSide

LEVELS = ["products"]
WEIGHTS = {"conv": "conv.weight", "out": "out.weight"}


def to_bits(x, bits):
    """Rounded to so many significant bits."""
    fraction, power = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.round(fraction * 2.0**bits), power - bits).astype(np.float32)


def narrow(bits):
    """A matrix unit whose operands have so many bits."""
    return lambda compute: lambda *operands: compute(*(to_bits(x, bits) for x in operands))


def three_passes(compute):
    """high high + high low + low high, of bfloat16."""

    def product(a, b):
        high = to_bits(a, 8), to_bits(b, 8)
        low = to_bits(a - high[0], 8), to_bits(b - high[1], 8)
        return compute(*high) + (compute(high[0], low[1]) + compute(low[0], high[1]))

    return product


FORMATS = {
    "bfloat16, expected": narrow(8),
    "TF32 or float16, expected": narrow(11),
    "bfloat16 in three passes, or in two of bytes, expected": three_passes,
}


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 3, 2, bias=False), nn.Linear(18, 4, bias=False)

    def forward(self, X):
        return self.out(torch.relu(self.conv(X)).flatten(1))


def conv_net(params, X):
    H = jax.nn.relu(jax.lax.conv(X, params["conv"], (1, 1), "VALID"))
    return H.reshape(len(X), -1) @ params["out"]


def conv_pair(apply=conv_net):
    torch.manual_seed(0)
    theirs = Conv()
    params = {
        "conv": theirs.conv.weight.detach().numpy(),
        "out": theirs.out.weight.detach().numpy().T,
    }
    return theirs, (apply, params)


def verdict_of(pair, digits):
    (result,) = check(*pair, digits, weights=WEIGHTS, levels=LEVELS, batch_size=32).results
    return result


def planted(monkeypatch, side, unit, name):
    """The side's products of this name as another unit would make them."""
    own = side.products

    def products(self, *args):
        found = own(self, *args)
        changed = (
            replace(o, compute=unit(o.compute)) if name in o.name else o for o in found.bilinear
        )
        return replace(found, bilinear=tuple(changed))

    monkeypatch.setattr(side, "products", products)


def test_products_of_the_cpu_are_exact_and_have_all_bits_forward_and_backward(digits):
    result = verdict_of(conv_pair(), digits)
    assert result.ok and not result.note
    names = [c.name for c in result.comparisons]
    for said in (
        "jax conv_general_dilated [32, 1, 3, 4] x [3, 1, 2, 2] at test_products.py",
        "torch convolution [32, 1, 3, 4] x [3, 1, 2, 2]",
        "torch convolution_backward by weight",
        "torch mm [4, 32] x [32, 18]",
        "jax dot_general",
    ):
        of_this = [name for name in names if name.startswith(said)]
        assert len(of_this) >= 3, (said, names)
        assert any(", left operand: 24.0" in name for name in of_this)
        assert any(", right operand: 24.0" in name for name in of_this)
        assert any(name.endswith(", integers") for name in of_this)


@pytest.mark.parametrize("said", FORMATS)
@pytest.mark.parametrize(
    ("side", "product"),
    [
        (JaxSide, "conv_general_dilated [32, 1, 3, 4] x"),
        (TorchSide, "convolution_backward by weight"),
        (TorchSide, "mm [32, 18] x"),
    ],
)
def test_a_planted_format_is_named_with_its_product(monkeypatch, digits, said, side, product):
    planted(monkeypatch, side, FORMATS[said], product)
    failed = verdict_of(conv_pair(), digits).failed
    assert failed and all(product in c.name and "operand" in c.name for c in failed)
    assert all(said in str(c) and side.name in c.name for c in failed), failed


def test_a_sum_that_loses_its_last_bits_fails_on_integers_alone(monkeypatch, digits):
    planted(
        monkeypatch, TorchSide, lambda compute: lambda a, b: to_bits(compute(a, b), 5), "mm [32"
    )
    failed = verdict_of(conv_pair(), digits).failed
    assert any(c.name.endswith("integers") for c in failed)


def test_a_side_that_narrows_its_operands_itself_is_named(digits):
    def narrowed(params, X):
        H = jax.nn.relu(jax.lax.conv(X, params["conv"], (1, 1), "VALID")).reshape(len(X), -1)
        H, W = H.astype(jnp.bfloat16), params["out"].astype(jnp.bfloat16)
        return jnp.matmul(H, W, preferred_element_type=jnp.float32)

    failed = verdict_of(conv_pair(narrowed), digits).failed
    assert any("dot_general" in c.name and "as of bfloat16, expected" in str(c) for c in failed)
    assert not any("conv_general_dilated" in c.name for c in failed)


def test_they_are_asked_on_an_accelerator_or_by_name(monkeypatch, digits):
    theirs, ours = conv_pair()
    problem = Problem(theirs, ours, Examples(digits, 32, 0), weights=WEIGHTS, epochs=1)
    pair = Pair.of(problem, precisions=["float32"])
    levels = [replace(one, judge=lambda *_: [], note=lambda *_: "") for one in ladder.LEVELS
              if one.name in ("products", "determinism", "devices")]  # fmt: skip
    climbed = {}
    for name, chosen, there in (
        ("neither", False, False),
        ("by name", True, False),
        ("there", False, True),
    ):
        pair.chosen = chosen
        monkeypatch.setattr(Pair, "on_accelerator", there)
        climbed[name] = len([*ladder.climb(pair, levels)])
    assert climbed == {"neither": 0, "by name": 3, "there": 3}


# --- attention -----------------------------------------------------------------------------------


def attention(queries, keys, scale, causal, scores=lambda x: x, values=lambda x: x):
    def compute(q, k, v):
        S = scale * np.einsum("bhqd,bhkd->bhqk", scores(q), scores(k)).astype(np.float64)
        if causal:
            S = np.where(np.tri(*S.shape[-2:], dtype=bool), S, -np.inf)
        P = np.exp(S - S.max(-1, keepdims=True))
        P /= P.sum(-1, keepdims=True)
        return np.einsum("bhqk,bhkd->bhqd", P, values(v)).astype(np.float32)

    return Attention("attention", queries, keys, keys, scale, causal, compute)


SHAPES = [((2, 3, 5, 8), (2, 3, 5, 8)), ((1, 1, 7, 4), (1, 1, 40, 4)), ((2, 1, 6, 2), (2, 1, 6, 2))]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("bits", [8, 11, 24])
def test_both_products_of_attention_show_their_bits(shapes, causal, bits):
    def low(x):
        return to_bits(x, bits)

    scale = shapes[0][-1] ** -0.5
    by_values = attended_values(attention(*shapes, scale, causal, values=low))
    assert by_values.bits == bits
    by_scores = attended_scores(attention(*shapes, scale, causal, scores=low)).bits
    assert by_scores > 17 if bits == 24 else bits - 1 < by_scores < bits + 2.5


def test_fused_attention_of_torch_is_measured(digits):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(12, 4)

        def forward(self, X):
            X = X.reshape(-1, 1, 3, 4)
            H = nn.functional.scaled_dot_product_attention(X, X, X)
            return self.out(H.flatten(1))

    def attending(params, X):
        X = X.reshape(-1, 3, 1, 4)
        H = jax.nn.dot_product_attention(X, X, X)
        return H.reshape(len(X), -1) @ params["out.weight"].T + params["out.bias"]

    torch.manual_seed(0)
    theirs = Attending()
    params = {n: p.detach().numpy() for n, p in theirs.named_parameters()}
    (result,) = check(theirs, (attending, params), digits, weights=dict, levels=LEVELS).results
    assert result.ok, result.failed
    names = [c.name for c in result.comparisons if "scaled_dot" in c.name]
    assert len(names) == 2 and any(", values" in n for n in names), names


def test_an_operand_that_no_sum_shows_alone_is_not_judged():
    def squares(a, b):
        return (a * b).sum(keepdims=True)

    both = Operand((4,), (0,)), Operand((4,), (0,))
    assert measured_operands(Bilinear("", *both, squares, squares)) == [None, None]
