"""Each family over finite fields: the honest pair is the same function, for all inputs."""

import pytest
from catalogue import FAMILIES
from port import Port

from parity import prove

ASKED = ("loss", "optimizer", "state", "mode", "accumulate")
UNDECIDED = {
    "bilinear resizing": "upsample_bilinear2d",
    "bfloat16 with float32 master weights": "bfloat16",
    "bfloat16 parameters": "bfloat16",
}
# Honest as far as data go, and another function: n for n - 1; a clip that data never reach.
DIFFERENT = {
    "batch norm by Flax's rule, known to differ": "state.norm.var",
    "Linen, with batch statistics": "state.norm.var",
    "clipped at a norm that is never reached": "step.first.bias",
}


@pytest.mark.slow
@pytest.mark.parametrize("port", FAMILIES, ids=lambda port: port.name)
def test_an_honest_pair_is_one_function_or_undecided_with_a_reason(port: Port):
    if port.needs:
        pytest.importorskip(port.needs)
    asked = {key: port.options[key] for key in ASKED if key in port.options}
    proof = prove(port.torch(), port.jax(), port.data(), weights=port.weights, **asked)
    if port.name in UNDECIDED:
        assert proof.verdict == "undecided" and UNDECIDED[port.name] in proof.why
    elif port.name in DIFFERENT:
        first = next(a for a in proof.answers if a.verdict == "different")
        assert first.name == DIFFERENT[port.name], proof
    else:
        assert proof.verdict == "identical", proof
