"""Each family over finite fields and real numbers: the honest pair is the same function, for all
inputs; a wrong one is another, but for errors outside of what is proved."""

import pytest
from catalogue import FAMILIES
from port import Port, Wrong

from parity import prove

ASKED = ("loss", "optimizer", "state", "mode", "accumulate")
UNDECIDED = {
    "bilinear resizing": ("upsample_bilinear2d", "rounding to integers"),
    "bfloat16 with float32 master weights": ("bfloat16",),
    "bfloat16 parameters": ("bfloat16",),
}
# Honest as far as data go, and another function: n for n - 1; a clip that data never reach.
DIFFERENT = {
    "batch norm by Flax's rule, known to differ": "state.norm.var",
    "Linen, with batch statistics": "state.norm.var",
    "clipped at a norm that is never reached": "step.first.bias",
}
# Wrong, and yet the same function: in the first step and in the second, the schedules give the
# rates that Torch's gives. What is wrong comes later.
LATER = {
    "Adam with warm-up and cosine": {"warm-up added to the length", "cosine over one step less"},
    "Adam with a stair at step 20": {
        "one step late", "another factor", "never", "moments start anew", "boundary in epochs",
    },
    "momentum with a stair": {"one step early", "factor taken for a rate"},
    "accumulation with a stair": {"boundary in batches", "no stair"},
}  # fmt: skip
# What the statistic starts from lies in the model's data: no step shows it.
LONE_STATE = {"batch norm by Torch's rule": {"a statistic not carried over"}}
ERRORS = [(port, wrong) for port in FAMILIES for wrong in port.wrong]


def proven(port: Port):
    if port.needs:
        pytest.importorskip(port.needs)
    asked = {key: port.options[key] for key in ASKED if key in port.options}
    return prove(port.torch(), port.jax(), port.data(), weights=port.weights, **asked)


@pytest.mark.slow
@pytest.mark.parametrize("port", FAMILIES, ids=lambda port: port.name)
def test_an_honest_pair_is_one_function_or_undecided_with_a_reason(port: Port):
    proof = proven(port)
    if port.name in UNDECIDED:
        assert proof.verdict == "undecided"
        assert any(why in proof.why for why in UNDECIDED[port.name])
    elif port.name in DIFFERENT:
        first = next(a for a in proof.answers if a.verdict == "different")
        assert first.name == DIFFERENT[port.name], proof
    else:
        assert proof.verdict == "identical", proof


@pytest.mark.slow
@pytest.mark.parametrize(
    "port, wrong", ERRORS, ids=[f"{port.name}: {wrong.name}" for port, wrong in ERRORS]
)
def test_a_wrong_port_is_another_function_but_for_what_lies_outside(port: Port, wrong: Wrong):
    if wrong.level == "weights":  # they can't be paired
        with pytest.raises(ValueError, match=wrong.leaf):
            proven(port.wrongly(wrong))
        return
    proof = proven(port.wrongly(wrong))
    if port.name in UNDECIDED:
        assert proof.verdict == "undecided"
        assert any(why in proof.why for why in UNDECIDED[port.name])
    elif wrong.name in LATER.get(port.name, ()):
        assert wrong.level == "every step" and proof.verdict == "identical", proof
    elif wrong.name in LONE_STATE.get(port.name, ()):
        assert proof.verdict == "undecided" and "alone has it" in str(proof), proof
    else:
        assert proof.verdict == "different", proof


def test_what_is_listed_as_not_seen_is_there():
    wrongs = {(port.name, wrong.name) for port, wrong in ERRORS}
    listed = {(name, wrong) for table in (LATER, LONE_STATE) for name in table
              for wrong in table[name]}  # fmt: skip
    assert listed <= wrongs and UNDECIDED.keys() | DIFFERENT.keys() <= {p.name for p in FAMILIES}
