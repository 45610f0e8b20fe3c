"""No honest pair is called different, however it is written, and few are undecided."""

import pytest
from honest import honest
from small import proven

MANY, SHARE = 100, 0.02


def verdicts(seeds):
    found = {}
    for seed in seeds:
        models, said = honest(seed)
        proof = proven(**models)
        assert proof.verdict != "different", (seed, said, proof)
        found[seed] = proof
    return {seed: proof for seed, proof in found.items() if proof.verdict == "undecided"}


@pytest.mark.slow
def test_a_function_written_in_another_way_is_never_different():
    assert len(verdicts(range(4))) < 4


@pytest.mark.slow
def test_of_a_hundred_honest_pairs_none_is_different_and_few_are_undecided():
    undecided = verdicts(range(MANY))
    assert len(undecided) <= SHARE * MANY, {s: str(p)[:200] for s, p in undecided.items()}
