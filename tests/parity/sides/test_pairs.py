"""What both sides take their batches from."""

from dataclasses import replace

import numpy as np
import pytest

from parity.sides.pairs import Examples, JaxSide, TorchSide, book_pair


@pytest.mark.parametrize("source", ["sample", "arrays"])
def test_a_limit_shortens_the_training_data_of_both_sides_alike(digits, source):
    own = source == "arrays"
    whole = Examples(digits, 32, 5) if own else Examples("sample", 2000, 5)
    limited = replace(whole, limit=40 if own else 4100)
    pair = book_pair("mlp", (3,), 0.1, 0, inputs=12 if own else 784)
    both = [cls(model, limited) for cls, model in zip((JaxSide, TorchSide), pair, strict=True)]
    first, second = ([y for _, y in side.stream(2)] for side in both)
    assert [len(y) for y in first] == ([32, 8] if own else [2000, 2000, 100]) * 2
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    for side in both:  # validation is as long as it was, unless it is left out
        assert sum(len(y) for _, y in side.batches(train=False)) == (30 if own else 1000)
        side.examples = replace(limited, validated=False)
        assert not [*side.batches(train=False)]
