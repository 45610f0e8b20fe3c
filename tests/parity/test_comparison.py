import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parity.comparison import compare, compare_trees

finite = st.floats(-(2.0**100), 2.0**100, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3), elements=finite)


@given(arrays)
def test_an_array_agrees_with_itself_to_the_bit(a):
    c = compare(a, a.copy())
    assert c.ok and c.margin == 0 and c.elements == a.size


@given(arrays, st.data())
def test_one_ulp_anywhere_fails_the_bit_comparison_and_is_located(a, data):
    index = tuple(data.draw(st.integers(0, n - 1)) for n in a.shape)
    b = a.copy()
    b[index] = np.nextafter(b[index], np.float32(np.inf))
    c = compare(a, b)
    assert not c.ok and c.index == index and (c.left, c.right) == (a[index], b[index])


@given(arrays, st.sampled_from([np.nan, np.inf, -np.inf]), st.integers(0, 2), st.data())
def test_nan_and_infinity_fail_on_either_side_and_on_both_under_any_bound(a, bad, where, data):
    index = tuple(data.draw(st.integers(0, n - 1)) for n in a.shape)
    left, right = a.copy(), a.copy()
    if where != 1:
        left[index] = bad
    if where != 0:
        right[index] = bad
    for bound in (0.0, 1.0, np.inf):
        c = compare(left, right, bound)
        assert not c.ok and "not finite" in str(c)


def test_the_bound_decides_elementwise():
    a, b = np.zeros(3), np.array([0.1, 0.2, 0.3])
    assert compare(a, b, [0.1, 0.2, 0.3]).ok
    c = compare(a, b, [0.1, 0.1, 0.3])
    assert not c.ok and c.index == (1,) and c.margin == pytest.approx(2)
    assert "OUTSIDE" in str(c)


def test_a_bound_that_is_zero_in_places_asks_for_equality_there():
    assert not compare([1.0, 1.0], [1.0, 1.5], [1.0, 0.0]).ok
    assert compare([1.0, 1.0], [1.5, 1.0], [1.0, 0.0]).ok


@pytest.mark.parametrize("bound", [np.nan, [1.0, np.nan]])
def test_a_bound_that_is_no_number_never_passes(bound):
    assert not compare([1.0, 1.0], [1.0, 1.0], bound).ok


def test_negative_zero_is_not_zero_in_bits_but_within_a_bound():
    assert not compare([0.0], [-0.0]).ok
    assert compare([0.0], [-0.0], 1e-30).ok


@pytest.mark.parametrize(
    ("left", "right", "text"),
    [
        (np.zeros(3), np.zeros((3, 1)), "shapes differ"),
        (np.zeros(0), np.zeros(0), "nothing to compare"),
        (np.zeros(2, np.float32), np.zeros(2), "types differ"),
    ],
)
def test_what_cannot_be_compared_fails_with_the_reason(left, right, text):
    c = compare(left, right)
    assert not c.ok and text in str(c)


def test_a_leaf_that_one_side_lacks_fails():
    left, right = {"W1": np.ones(2)}, {"W1": np.ones(2), "b1": np.ones(1)}
    results = compare_trees(left, right, name="gradients", sides=("jax", "torch"))
    assert [c.ok for c in results] == [True, False]
    assert str(results[1]) == "gradients.b1: missing from jax"


def test_scalars_are_compared_too():
    assert compare(1.0, 1.0 + 1e-12, 1e-11).ok
    assert compare(1.0, 1.1, 0.01).index == ()
