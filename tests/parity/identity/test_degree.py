"""Degrees of what was computed, and the draws that they ask for."""

import numpy as np
import pytest

from parity.identity.degree import ONE, ZERO, Degrees, added, multiplied, power
from parity.identity.evidence import ASSUMED, MOST, Evidence
from parity.identity.field import Algebra


def test_a_sum_of_quotients_has_the_degree_of_its_common_denominator():
    of, key = Degrees(), object()
    quotient = multiplied(ONE, of.inverse(ONE, 3, key))  # x / y, of three y
    total = added(quotient, quotient)
    assert of.under(total.below) == 3 and of.of_difference(total, ZERO) == 3
    assert of.of_difference(power(quotient, 2), ZERO) == 6


def test_what_both_sides_divide_by_counts_once():
    of = Degrees()
    one, other = (of.inverse(ONE, 3, "the same") for _ in range(2))
    assert of.of_difference(one, other) < of.of_difference(one, of.inverse(ONE, 3, "another"))


def test_an_algebra_carries_degrees():
    of = Algebra(0, 2)
    x, W = of.draw((3, 4)), of.draw((4, 2))
    H = of.bilinear(np.matmul, x, W)
    assert H.degree.excess == 2 and of.power(H, 3).degree.excess == 6
    assert of.lift(0.1).degree == ZERO
    inverse = of.inverse(H)
    assert inverse.degree.excess == -2 and of.degrees.under(inverse.degree.below) == 12


@pytest.mark.parametrize("degree, need", [(1, 3), (2**8, 3), (2**9, 4), (2**20, 8)])
def test_as_many_draws_must_agree_as_the_degree_asks_for(degree, need):
    found = Evidence(28, degree=degree)
    assert found.need == need and found.chance >= 60 and not found.assumed


def test_a_degree_too_large_to_help_is_said_to_be_assumed():
    found = Evidence(28, degree=2**200)
    assert found.assumed and found.need <= MOST
    assert found.need == Evidence(28, degree=ASSUMED).need
