"""Tensors that the other side has in parts, or but for a factor."""

import numpy as np
import pytest

from parity.locate.partly import in_parts, proportional
from parity.sides.tensors import Graph


@pytest.fixture
def parts():
    return np.random.default_rng(0).standard_normal((3, 4, 5))


def traced(*arrays):
    graph = Graph("jax")
    for array in arrays:
        graph.add("op", (), array, 1e-14, depends=True)
    return graph.tensors


def test_a_packed_product_is_made_of_its_parts_wherever_they_lie(parts):
    others = np.random.default_rng(1).standard_normal((4, 4, 5))
    there = traced(*others, parts[2].T, parts[0], parts[1])
    assert sorted(in_parts(traced(np.concatenate(parts, -1)), there)[0]) == [4, 5, 6]
    assert sorted(in_parts(traced(parts[:2]), there)[0]) == [5, 6]


def test_a_part_that_differs_is_none(parts):
    wrong = parts.copy()
    wrong[1, 2, 3] *= 1 + 1e-9
    assert not in_parts(traced(np.concatenate(parts, -1)), traced(*wrong))


def test_a_gradient_among_zeros_is_the_gradient(parts):
    padded = np.stack([0 * parts[0], parts[1], 0 * parts[2]])
    assert in_parts(traced(padded), traced(*parts)) == {0: (1,)}


def test_masks_and_constants_are_no_parts(parts):
    ones = np.ones((4, 5))
    assert not in_parts(traced(np.stack([ones, ones])), traced(ones, ones))
    half = (parts[0] > 0).astype(float)
    assert not in_parts(traced(np.concatenate([half, half])), traced(half, half))


@pytest.mark.parametrize("factor", [0.3, -7.0])
def test_a_factor_of_either_sign_is_found(parts, factor):
    found = proportional(traced(parts[0]), traced(parts[1], factor * parts[0].T))
    assert found[0][0] == 1 and found[0][1] == pytest.approx(factor, rel=1e-12)


def test_a_factor_for_some_numbers_alone_is_none(parts):
    scaled = 0.3 * parts[0]
    scaled[0, 0] *= 1 + 1e-9
    assert not proportional(traced(parts[0]), traced(scaled))


def test_what_rounding_left_is_proportional_to_nothing(parts):
    noise = traced(1e-15 * parts[0])  # its bound is 1e-14
    assert not proportional(traced(parts[1]), noise)
