"""Errors that nothing was tuned on: the line that is named."""

import held_out
import pytest
from held_out_errors import ERRORS

QUICK = {"scale not exponentiated", "one way twice", "variance for deviation"}


@pytest.mark.parametrize("family", ["towers", "autoencoder"])
def test_an_honest_port_has_no_parting(family):
    found = held_out.aligned(family)
    assert found.parting is None and found.share >= 0.9, found


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(held_out.FAMILIES.keys() - {"towers", "autoencoder"}))
def test_no_honest_port_has_a_parting(family):
    test_an_honest_port_has_no_parting(family)


@pytest.mark.parametrize("error", [e for e in ERRORS if e.name in QUICK], ids=lambda e: e.name)
def test_the_replaced_line_is_named(error):
    rank, parting = error.rank()
    assert rank is not None and rank <= 2, parting


@pytest.mark.slow
def test_the_replaced_line_is_named_for_most_errors():
    ranks = [error.rank()[0] for error in ERRORS]
    first, three = ranks.count(1), sum(r is not None and r <= 3 for r in ranks)
    print(f"{len(ranks)} errors: first in {first}, in the first three in {three}")
    assert first >= 0.8 * len(ranks) and three >= 0.88 * len(ranks)
