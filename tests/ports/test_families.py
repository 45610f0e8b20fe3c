"""Each family of ports by hand: the honest pair agrees, and each error shows at its level first."""

import pytest
from agree import report
from catalogue import FAMILIES
from needed import needed

# A number is rounded by 2^-53 of itself in each of fewer than 10,000 operations; a bfloat16, by
# 2^-9 in about 8.
ROUNDING, HALF = 1e4 * 2.0**-53, 8 * 2.0**-9
IN_HALF = ("bfloat16 with float32 master weights", "bfloat16 parameters")
# Adam divides by a root to which it adds 1e-8: where a gradient is 0 but for its rounding (a key's
# bias moves all scores alike), that rounding is a step of rate / 1e-8 times itself.
BY_ADAM = {"encoder layer, norm first and gelu": 3e-3 / 1e-8}
ERRORS = [(port, wrong) for port in FAMILIES for wrong in port.wrong]


def parting(port, shown, rounding=ROUNDING):
    """The levels, and their tensors, at which the sides differ, but for accepted differences."""
    accepted = {(level, leaf) for level, leaf, _ in port.options.get("known", ())}
    return [key for key, much in shown.items() if much > rounding and key not in accepted]


@pytest.mark.slow
@pytest.mark.parametrize("port", FAMILIES, ids=lambda port: port.name)
def test_an_honest_pair_agrees(port):
    needed(port)
    shown = report(port, port.options.get("state"), steps=None)
    rounding = HALF if port.name in IN_HALF else ROUNDING * BY_ADAM.get(port.name, 1)
    assert not parting(port, shown, rounding), shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "port, wrong", ERRORS, ids=[f"{port.name}: {wrong.name}" for port, wrong in ERRORS]
)
def test_an_error_shows_at_its_level_first(port, wrong):
    needed(port)
    faulty, state = port.wrongly(wrong), port.options.get("state")
    if wrong.level == "weights":
        with pytest.raises((AssertionError, KeyError), match=wrong.leaf):
            report(faulty, state, steps=0)
        return
    steps = {"logits": 0, "loss": 0, "every step": None}.get(wrong.level, 1)
    shown = report(faulty, state, steps)
    if wrong.level == "step" and port.name in IN_HALF:
        # Weights rounded to bfloat16 move by 2^-9 of themselves: less than HALF, much more than
        # the rounding of one step's gradient moves them.
        honest = report(port, state)["step", wrong.leaf]
        assert shown["step", wrong.leaf] > 10 * honest
        return
    level, apart = wrong.level, parting(faulty, shown, HALF if port.name in IN_HALF else ROUNDING)
    if level == "step" and not apart:
        # The ladder sees it in the optimiser's state at once; by hand it shows in a later step.
        level, apart = "every step", parting(faulty, report(faulty, state, steps=None))
    assert apart and apart[0][0].startswith(level), shown
    assert any(wrong.leaf in leaf for where, leaf in apart if where.startswith(level)), shown


def test_no_family_and_no_error_comes_twice():
    assert len({port.name for port in FAMILIES}) == len(FAMILIES) >= 18
    for port in FAMILIES:
        assert len({wrong.name for wrong in port.wrong}) == len(port.wrong) >= 3
