"""The laws of the numbers that stand for all real ones."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.identity import functions as f
from parity.identity.chain import MODULUS, chain, is_prime
from parity.identity.field import Algebra
from parity.identity.number import BadDraw, Undecided

seeds = st.integers(0, 2**32)


def same(a, b, least=1):
    """Equal in every part that both have, and they have some."""
    common = a.parts.keys() & b.parts.keys()
    return len(common) >= least and all(
        np.array_equal(*np.broadcast_arrays(a.parts[k], b.parts[k])) for k in common
    )


def drawn(seed, count=2):
    of = Algebra(seed)
    return of, *(of.draw((4,)) for _ in range(count))


@pytest.mark.parametrize("length", [4, 6])
def test_each_prime_is_twice_the_last_and_one_more(length):
    primes = [q.p for q in chain(length)]
    assert all(map(is_prime, primes)) and all(p % MODULUS == MODULUS - 1 for p in primes)
    assert all(b == 2 * a + 1 for a, b in zip(primes, primes[1:], strict=False))


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_exponentials_turn_sums_into_products_and_logarithms_turn_back(seed):
    of, x, y = drawn(seed)
    assert same(f.exp(of, of.add(x, y)), of.mul(f.exp(of, x), f.exp(of, y)), least=3)
    assert same(f.log(of, of.mul(x, y)), of.add(f.log(of, x), f.log(of, y)), least=3)
    assert same(f.log(of, f.exp(of, x)), x, least=3)
    assert same(f.exp(of, f.log(of, x)), x, least=3)  # of what is no square, too
    total = of.add(f.exp(of, x), f.exp(of, y))
    assert same(f.exp(of, of.sub(x, f.log(of, total))), of.div(f.exp(of, x), total), least=2)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_roots_multiply_and_their_squares_are_what_they_are_of(seed):
    of, x, y = drawn(seed)
    assert same(f.sqrt(of, of.mul(x, y)), of.mul(f.sqrt(of, x), f.sqrt(of, y)), least=4)
    assert same(of.power(f.sqrt(of, x), 2), x, least=4)
    assert same(of.power(f.rsqrt(of, x), 3), of.div(f.rsqrt(of, x), x), least=4)
    assert same(f.sqrt(of, of.power(x, 2)), f.absolute(of, x)) or len(x.parts) > 1
    assert same(f.power(of, x, of.lift(-0.5)), f.rsqrt(of, x), least=4)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_signs_are_antisymmetric_and_a_decimal_is_positive(seed):
    of, x, y = drawn(seed)
    assert np.array_equal(f.compared(of, x, y), -f.compared(of, y, x))
    assert np.array_equal(of.sign_of(of.mul(of.lift(0.35), x)), of.sign_of(x))
    assert np.array_equal(of.sign_of(of.sub(x, x)), np.zeros(4))
    assert (of.sign_of(of.add(f.exp(of, x), f.exp(of, y))) == 1).all()
    assert (of.sign_of(f.sqrt(of, x)) == 1).all()
    assert same(of.add(f.maximum(of, x, y), f.minimum(of, x, y)), of.add(x, y), least=4)


@settings(max_examples=10, deadline=None)
@given(seeds, st.booleans())
def test_tanh_and_the_logistic_function_are_one(seed, fine):
    of = Algebra(seed, 4, fine)
    x, one, two = of.draw((4,)), of.lift(1.0), of.lift(2.0)
    by_tanh = of.div(of.add(one, f.tanh(of, of.div(x, two))), two)
    assert same(f.logistic(of, x), by_tanh, least=3)
    assert same(of.add(f.logistic(of, x), f.logistic(of, of.neg(x))), one, least=3)
    assert same(f.tanh(of, of.neg(x)), of.neg(f.tanh(of, x)), least=3)


@pytest.mark.parametrize(
    "written, meant",
    [
        (float(np.float32(0.1)), 0.1),
        (1 - 0.999, 0.001),
        (float(np.float32(1 / 3)), 1 / 3),
    ],
)
def test_a_literal_stands_for_the_short_number_that_gives_it(written, meant):
    of = Algebra()
    assert same(of.lift(written), of.lift(meant), least=4)


@pytest.mark.parametrize("one, other", [(1.0, 1 - 1e-12), (0.5, 0.5 + 1e-9), (1e-8, 1e-7)])
def test_numbers_that_are_written_apart_stay_apart(one, other):
    of = Algebra()
    assert not same(of.lift(one), of.lift(other))


def test_constants_of_the_usual_functions_are_roots_and_logarithms():
    of = Algebra()
    two, pi = of.lift(2.0), of.lift(math.pi)
    assert same(of.lift(1 / math.sqrt(2)), f.rsqrt(of, two), least=4)
    assert same(of.lift(math.sqrt(2 / math.pi)), f.sqrt(of, of.div(two, pi)), least=4)
    assert same(of.power(of.lift(8**-0.25), 4), of.lift(1 / 8), least=4)
    assert same(f.exp(of, of.mul(of.lift(math.log(3)), two)), of.lift(9.0), least=2)


def test_what_is_not_defined_is_refused():
    of = Algebra()
    zero = of.sub(x := of.draw((2,)), x)
    with pytest.raises(BadDraw):
        of.inverse(zero)
    with pytest.raises(BadDraw):
        f.log(of, zero)
    with pytest.raises(Undecided, match="nested"):
        for _ in range(4):
            x = f.exp(of, x)
    with pytest.raises(Undecided, match="NaN"):
        of.add(of.lift(math.nan), of.lift(1.0))
