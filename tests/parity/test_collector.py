"""The collector leaves alone what was there before a check, and gets it back."""

import gc

import pytest

from parity.collector import PYTHONS_OWN, set_aside


class Circle:
    def __init__(self, gone):
        self.own, self.gone = self, gone

    def __del__(self):
        self.gone.append(1)


def test_what_was_there_is_left_alone_and_what_is_new_is_not():
    gone = []
    Circle(gone)
    with set_aside():
        gc.collect()
        assert not gone
        Circle(gone)
        gc.collect()
        assert gone == [1]
    gc.collect()
    assert gone == [1, 1]


def test_an_inner_one_sets_more_aside_until_the_outermost_ends():
    gone = []
    with set_aside():
        Circle(gone)
        with set_aside():
            gc.collect()
        assert not gone and gc.get_freeze_count() > PYTHONS_OWN
    gc.collect()
    assert gone == [1] and gc.get_freeze_count() < PYTHONS_OWN


def test_it_is_given_back_after_an_error_too():
    with pytest.raises(RuntimeError), set_aside():
        assert gc.get_freeze_count() > PYTHONS_OWN
        raise RuntimeError
    assert gc.get_freeze_count() < PYTHONS_OWN


def test_what_somebody_else_froze_stays_frozen():
    gc.freeze()
    try:
        with set_aside():
            pass
        assert gc.get_freeze_count() > PYTHONS_OWN
    finally:
        gc.unfreeze()
