import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlp_core.files import plain, write_json


def test_json_is_strict_whatever_the_numbers(tmp_path):
    value = {
        1: math.nan,
        "deep": [{"inf": (-math.inf, 1.5)}],
        "array": np.array([[1.0, np.nan], [np.inf, 2.0]], np.float32),
        "scalars": [np.float32(0.5), np.float64(np.nan), np.int64(7), np.bool_(True)],
        "path": Path("a/b"),
        "nothing": None,
    }
    path = write_json(tmp_path / "new" / "x.json", value)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "1": "nan",
        "deep": [{"inf": ["-inf", 1.5]}],
        "array": [[1.0, "nan"], ["inf", 2.0]],
        "scalars": [0.5, "nan", 7, True],
        "path": "a/b",
        "nothing": None,
    }


def test_a_type_that_json_lacks_is_refused_unless_named_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": [object()]})
    assert list(tmp_path.iterdir()) == []
    assert plain({"a": [object()]}, other=lambda v: type(v).__name__) == {"a": ["object"]}
