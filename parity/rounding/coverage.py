"""Branches that the data never take: a clip that never clips, a ReLU that is always active.

What isn't exercised isn't compared either, however well two models agree. Listed are decisions that
the user's own lines make, directly or by a function whose meaning is a decision; not the guards
that libraries put into a softmax or a variance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.extend import core

from .arithmetic import Approx
from .jaxpr import frames_to_user

# By function, or by file and function where the name alone may mean something else.
_DECIDING = {"where", "_where", "maximum", "minimum", "clip", "_clip", "select", "select_n", "cond",
             "switch", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "hard_tanh",
             "huber_loss", "clip_by_global_norm", "clip_by_block_rms", "adaptive_grad_clip",
             "tree_clip", "clamp", "lax.py:max", "lax.py:min"}  # fmt: skip
# What calls the others without a meaning of its own.
_MACHINERY = {"source_info_util.py", "partial_eval.py", "core.py", "pjit.py", "traceback_util.py",
              "ufunc_api.py", "custom_derivatives.py", "linear_util.py", "tree_util.py", "tree.py",
              "array_methods.py", "ad.py", "api.py", "base.py",
              "_combining.py", "_chaining.py"}  # fmt: skip


class Unexercised(NamedTuple):
    """A decision that fell one way only. never: what would have been the other."""

    primitive: str
    source: str
    never: str

    def __str__(self) -> str:
        return f"{self.primitive} at {self.source}: never {self.never}"


class Coverage:
    """Which ways the decisions of one evaluation fell, line by line."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], dict[str, bool]] = {}

    def note(self, around: tuple[core.JaxprEqn, ...], operands: list[Approx]) -> None:
        name = around[-1].primitive.name
        if name not in _WAYS or (line := _decided_at(around)) is None:
            return
        ways = self.seen.setdefault((name, line), {})
        for way, taken in _WAYS[name](around[-1].params, *(x.value for x in operands)).items():
            ways[way] = ways.get(way, False) or bool(taken)

    def unexercised(self) -> tuple[Unexercised, ...]:
        return tuple(
            Unexercised(name, line, way)
            for (name, line), ways in self.seen.items()
            for way, taken in ways.items()
            if not taken
        )


def _decided_at(around: tuple[core.JaxprEqn, ...]) -> str | None:
    """The user's line, if it asks for this decision."""
    between, line = frames_to_user(around)
    for file, function in between:
        name, known = function.split(".")[0], Path(file).name
        if known not in _MACHINERY and not {name, f"{known}:{name}"} & _DECIDING:
            return None
    return line


def _select(_: Any, which: Any, *cases: Any) -> dict[str, Any]:
    if which.dtype == bool:
        return {"true": np.any(which), "false": not np.all(which)}
    return {f"case {i}": np.any(which == i) for i in range(len(cases))}


_WAYS: dict[str, Any] = {
    "select_n": _select,
    "max": lambda _, x, y: {"first larger": np.any(x > y), "second larger": np.any(y > x)},
    "min": lambda _, x, y: {"first smaller": np.any(x < y), "second smaller": np.any(y < x)},
    "clamp": lambda _, low, x, high: {"below": np.any(x < low), "above": np.any(x > high)},
    "cond": lambda p, which, *_: {f"branch {i}": which == i for i in range(len(p["branches"]))},
}
