"""Nested Python values as JSON and arrays beside it: what an optimiser or a loader keeps.

A dict's keys may be numbers, and a tuple is no list: both come back as they were. Nothing in JSON
names a type or a function, so that reading it can't run anything.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
PLAIN = (bool, int, float, str, type(None))


def packed(value: Any, put: Callable[[Any], Any]) -> Any:
    """JSON of `value`. put: of what is neither dict, list, tuple nor plain, its JSON.

    A float is kept by its 16 hexadecimal digits, so that NaN and the infinities are too.
    """
    if isinstance(value, dict):
        return {"dict": [[packed(k, put), packed(v, put)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [packed(v, put) for v in value]}
    if isinstance(value, float):
        return {"float": value.hex()}
    return value if isinstance(value, PLAIN) else put(value)


def unpacked(value: Any, get: Callable[[Any], Any]) -> Any:
    """What `packed` was given. get: of JSON that `put` made. Raises ValueError for anything else.

    Called on what a file says, so it believes nothing.
    """
    if isinstance(value, PLAIN) and not isinstance(value, float):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inner),) = value.items()
        if kind == "float" and isinstance(inner, str):
            return float.fromhex(inner)
        if kind in ("list", "tuple") and isinstance(inner, list):
            found = [unpacked(v, get) for v in inner]
            return found if kind == "list" else tuple(found)
        if kind == "dict" and isinstance(inner, list):
            pairs = [(unpacked(k, get), unpacked(v, get)) for k, v in inner]
            return {_key(k): v for k, v in pairs}
    return get(value)


def stored(value: Any, arrays: Arrays, prefix: str, as_array: Callable[[Any], Any]) -> Any:
    """`packed`, with each array put into `arrays` under prefix/number.

    as_array: the NumPy array of a leaf; None for what is none, which raises TypeError.
    """

    def put(leaf: Any) -> Any:
        array = leaf if isinstance(leaf, np.ndarray) else as_array(leaf)
        if array is None:
            raise TypeError(
                f"{prefix}: keeps a {type(leaf).__name__}, which a checkpoint can't hold; expected "
                "arrays, numbers, text, and lists, tuples and dicts of them"
            )
        name = f"{prefix}/{sum(key.startswith(f'{prefix}/') for key in arrays)}"
        arrays[name] = np.array(array)
        return {"array": name}

    return packed(value, put)


def restored(value: Any, arrays: Arrays, as_leaf: Callable[[np.ndarray], Any]) -> Any:
    """What `stored` was given. Raises ValueError for anything that it didn't write."""

    def get(json: Any) -> Any:
        if isinstance(json, dict) and list(json) == ["array"] and json["array"] in arrays:
            return as_leaf(arrays[json["array"]])
        raise ValueError(f"no value of a checkpoint: {str(json)[:80]}")

    return unpacked(value, get)


def _key(key: Any) -> Any:
    if not isinstance(key, (*PLAIN, tuple)):
        raise ValueError(f"no key of a dict: {str(key)[:80]}")
    return key
