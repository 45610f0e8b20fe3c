"""Intervals hold what they stand for; what fields alone call different is told apart by them."""

from functools import partial

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import Net, port, proven

from parity.identity import functions as f
from parity.identity.reals import MIDDLE, RADIUS, Reals, apart

FORMULAS = {
    "sums": (lambda of, x, y: of.sub(of.add(x, y), of.mul(x, of.lift(0.1))),
             lambda x, y: x + y - x / 10),
    "quotient": (lambda of, x, y: of.div(x, y), lambda x, y: x / y),
    "powers": (lambda of, x, y: of.mul(of.power(x, 3), of.power(y, -2)),
               lambda x, y: x**3 / y**2),
    "roots": (lambda of, x, y: f.rsqrt(of, of.add(of.power(x, 2), of.lift(1e-5))),
              lambda x, y: 1 / mpmath.sqrt(x**2 + mpmath.mpf(10) ** -5)),
    "softplus": (lambda of, x, y: f.softplus(of, of.sub(x, y)),
                 lambda x, y: mpmath.log(1 + mpmath.exp(x - y))),
    "waves": (lambda of, x, y: of.add(f.keyed(of, "sin", x), f.erf(of, y)),
              lambda x, y: mpmath.sin(x) + mpmath.erf(y)),
    "power": (lambda of, x, y: f.power(of, of.power(x, 2), y), lambda x, y: (x**2) ** y),
}  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(sorted(FORMULAS)))
def test_an_interval_holds_the_number(seed, name):
    of = Reals(5 * (seed // 5))  # sizes of about 1
    x, y = of.draw((4,)), of.draw((4,))
    ours, exact = FORMULAS[name]
    found = ours(of, x, y)
    with mpmath.workdps(60):
        for i in range(4):
            a, b = (mpmath.mpf(float(one.parts[MIDDLE][i])) for one in (x, y))
            off = abs(mpmath.mpf(float(found.parts[MIDDLE][i])) - exact(a, b))
            assert off <= found.parts[RADIUS][i] < 1e-9 * (1 + abs(exact(a, b)))


def test_sums_of_products_are_held_and_a_larger_difference_shows():
    of = Reals()
    a, b = of.draw((3, 40)), of.draw((40, 2))
    whole = of.bilinear(np.matmul, a, b)
    parts = [of.bilinear(np.matmul, of.moved(lambda v, s=s: v[:, s], a),
                         of.moved(lambda v, s=s: v[s], b))
             for s in (slice(0, 17), slice(17, 40))]  # fmt: skip
    assert not apart(whole, of.add(*parts)).any()
    assert apart(whole, of.mul(whole, of.lift(1 + 1e-11))).all()


@np.errstate(all="ignore")
def test_what_may_be_undefined_shows_no_difference():
    of = Reals()
    zero = of.sub(x := of.draw((2,)), x)
    for undefined in (of.inverse(zero), f.log(of, zero), f.sqrt(of, of.lift(-1.0))):
        assert not apart(undefined, of.lift(5.0)).any()
    assert not apart(f.exp(of, of.lift(1e4)), of.lift(5.0)).any()


SQUARES = Net(lambda x: (x - x.sin()) ** 2 + x.sin() ** 2)
SPELT = Net(lambda x: x * x - 2 * x * x.sin() + 2 * x.sin() ** 2)


def written_out(x):
    s = jnp.sin(x)
    return x * x - 2 * x * s + 2 * s * s


@pytest.mark.parametrize("low", [0.0, -1e-3])
def test_an_inequality_without_a_law_is_undecided_and_never_different(low):
    proof = proven(port(lambda x: jnp.maximum(written_out(x), low)), SPELT)
    assert proof.verdict == "undecided" and "no real numbers" in str(proof)


def test_a_sum_of_squares_is_not_negative_where_one_side_writes_it_as_one():
    proof = proven(port(lambda x: jnp.maximum(written_out(x), 0.0)), SQUARES)
    assert proof.verdict == "identical", proof


def test_a_branch_that_real_numbers_take_is_different_and_shown():
    proof = proven(port(lambda x: jnp.maximum(written_out(x), 1e-3)), SQUARES)
    assert proof.verdict == "different" and "in JAX" in proof.answers[0].says


def test_a_difference_that_doubts_hide_in_the_field_shows_among_the_reals():
    def normalised(x, eps):
        mean = x.mean(-1, keepdims=True)
        var = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) / jnp.sqrt(var + eps)

    net = Net(lambda x: torch.nn.functional.layer_norm(x, (4,), eps=1e-5))
    assert proven(port(partial(normalised, eps=1e-5)), net).verdict == "identical"
    assert proven(port(partial(normalised, eps=1.0001e-5)), net).verdict == "different"
