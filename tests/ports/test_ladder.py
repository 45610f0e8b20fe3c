"""Each family before the ladder: the honest pair agrees, and each error is found where it shows."""

import embeddings
import equinox_model
import inputs
import layer_norm
import linen
import mixed_precision
import pytest
import schedules
from catalogue import FAMILIES
from needed import needed
from run import ORDER, climbed

ERRORS = [(port, wrong) for port in FAMILIES for wrong in port.wrong]
# `make test` takes one of each kind of model, problem and optimiser.
QUICK = (embeddings, equinox_model, inputs, layer_norm, linen, mixed_precision, schedules)
FIRST = {module.FAMILIES[0].name for module in QUICK}
HONEST = [
    pytest.param(port, marks=[] if port.name in FIRST else pytest.mark.slow, id=port.name)
    for port in FAMILIES
]
# Nothing but these may be skipped, and only for these reasons.
REASONS = ("nothing but parameters", "no targets", "bfloat16", "can't compute in float64")


@pytest.mark.parametrize("port", HONEST)
def test_an_honest_pair_agrees_with_no_level_but_named_ones_skipped(port):
    needed(port)
    verdict = climbed(port)
    assert verdict.ok, verdict
    for result in verdict.results:
        assert not result.skipped or any(why in result.skipped for why in REASONS), verdict
    assert bool(verdict.known) == bool(port.options.get("known"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "port, wrong", ERRORS, ids=[f"{port.name}: {wrong.name}" for port, wrong in ERRORS]
)
def test_an_error_is_found_where_it_shows_first_and_its_tensor_named(port, wrong):
    needed(port)
    faulty = port.wrongly(wrong)
    if wrong.level == "weights":  # they can't be paired
        with pytest.raises(ValueError, match=wrong.leaf):
            climbed(faulty, until="weights")
        return
    verdict = climbed(faulty, until=wrong.level)
    failed = [result for result in verdict.results if result.failed]
    assert failed and failed[0].level.name == wrong.level, verdict
    assert wrong.leaf in str(verdict)


def test_every_family_has_three_errors_and_every_level_is_one_that_there_is():
    assert len(FAMILIES) >= 20 and all(len(port.wrong) >= 3 for port in FAMILIES)
    assert {wrong.level for _, wrong in ERRORS} <= set(ORDER)
