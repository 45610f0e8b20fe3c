"""Ports of models that no one here wrote, against the libraries' own."""

from pathlib import Path

import certify
import pytest

NEEDS = {"gpt2": "transformers", "llama": "transformers", "bert": "transformers"}
# One of each port, each of another kind: `python examples/certify.py --errors` plants all.
PLANTED = {
    "gpt2": "scaled by the model's width",
    "resnet18": "pooled as SAME",
    "vit": "tanh's gelu",
    "llama": "not causal",
    "bert": "padding seen",
}


def example(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="the extra 'transformers' isn't installed")
    return certify.example(name)


@pytest.mark.parametrize("name", certify.EXAMPLES)
def test_an_error_is_planted_in_the_line_that_it_is_said_to_be_in(name):
    module = certify.example(name)
    assert len(module.ERRORS) >= 3
    for error, (_, wrong) in module.ERRORS.items():
        with certify.planted(module, error) as (planted, line):
            text = Path(planted.__file__).read_text().splitlines()
            assert text[line - 1].strip() and wrong.split("\n")[0] in text[line - 1]


@pytest.mark.parametrize(("name", "last"), [("resnet18", "state"), ("vit", "gradients")])
def test_a_published_size_is_asked_for_a_step_where_that_fits(name, last):
    levels = certify.at("float64", certify.example(name))
    assert levels[-1].name == last and levels[-1].precisions == ("float64",)
    assert levels[0].precisions == ("bits",)


def test_an_error_that_fits_no_line_is_refused():
    module = certify.example("gpt2")
    module.ERRORS["nowhere"] = ("not in the port", "")
    try:
        with pytest.raises(ValueError, match="gpt2: 'not in the port' is there 0 times"):
            with certify.planted(module, "nowhere"):
                pass
    finally:
        del module.ERRORS["nowhere"]


@pytest.mark.slow
@pytest.mark.parametrize("name", certify.EXAMPLES)
def test_a_port_is_the_library_s_model(name):
    # What identity asks of all inputs takes the residual net three quarters of a minute alone.
    levels = ("logits",) if name == "resnet18" else ("identity", "logits")
    verdict = certify.certified(example(name), levels=levels)
    assert verdict.ok, verdict
    assert not any(result.skipped for result in verdict.results), verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", certify.EXAMPLES)
def test_the_line_of_a_planted_error_is_named(name):
    with certify.planted(example(name), PLANTED[name]) as (wrong, line):
        verdict = certify.certified(wrong, levels=("logits",))
        assert verdict.word == "DIFFER"
        assert certify.named_line(verdict) == line, verdict
