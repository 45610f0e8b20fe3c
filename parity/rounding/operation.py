"""What a rule is told of the equation that it's for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .arithmetic import Approx


@dataclass(frozen=True)
class Op:
    """One equation of the jaxpr, as far as a rule needs it."""

    name: str
    params: dict[str, Any]
    operands: tuple[Approx, ...]
    bind: Callable[..., Any]  # the primitive itself, with its parameters
    shape: tuple[int, ...]
    dtype: Any
    narrows: bool = False  # the result's type is narrower than the program's

    def tagged(self, kind: str) -> tuple[Any, ...] | None:
        """What the first operand tagged with `kind` carries."""
        return next((x.tag.of for x in self.operands if x.tag and x.tag.kind == kind), None)
