import math

import numpy as np
import pytest

from mlp_core.limits import not_negative, whole


@pytest.mark.parametrize("value", [1.5, "1", True, None])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match="here: n = .*, expected a whole number"):
        whole("here", "n", value)


@pytest.mark.parametrize("value", ["1", True, None])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="here: x = .*, expected a number"):
        not_negative("here", "x", value)


def test_numbers_of_numpy_and_schedules_pass():
    whole("here", "n", np.int64(3))
    for value in (0, 1e-3, np.float32(0.1), np.ones(3), lambda step: 0.1):
        not_negative("here", "x", value)
    not_negative("here", "x", math.inf, most=math.inf)
