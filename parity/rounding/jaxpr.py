"""An interpreter of jaxprs: equation by equation, calls inlined, whatever the values are.

Bounds, the reader of masks and the reader of perceptrons plug their own rules into it.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from jax.extend import core

from .formulas import written_out

Value = TypeVar("Value")

CALLS = {"jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call",
         "custom_vjp_call", "custom_vjp_call_jaxpr"}  # fmt: skip


class Interpreter(Generic[Value]):
    """Subclasses say what a constant is and what an equation gives."""

    around: tuple[core.JaxprEqn, ...] = ()  # the equation at hand, behind the calls around it

    def constant(self, x: Any, variable: Any) -> Value:
        """The value of a literal, or of a constant of the jaxpr."""
        raise NotImplementedError

    def equation(self, eqn: core.JaxprEqn, operands: list[Value]) -> list[Value]:
        """The results of an equation that isn't a call."""
        raise NotImplementedError

    def closed(self, closed: core.ClosedJaxpr, inputs: list[Value]) -> list[Value]:
        """The outputs of a jaxpr with its constants."""
        variables = closed.jaxpr.constvars
        consts = [self.constant(c, v) for c, v in zip(closed.consts, variables, strict=True)]
        return self.open(closed.jaxpr, consts, inputs)

    def open(self, jaxpr: core.Jaxpr, consts: list[Value], inputs: list[Value]) -> list[Value]:
        """The outputs of a jaxpr, each equation's results by `equation`, held until their last use:
        all of a deep network's at once would take many times its memory."""
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
        last = last_uses(jaxpr)

        def read(v: Any) -> Value:
            return self.constant(v.val, v) if isinstance(v, core.Literal) else known[v]

        outside = self.around
        for eqn in jaxpr.eqns:
            self.around = (*outside, eqn)
            operands = [read(v) for v in eqn.invars]
            inner = called(eqn)
            if inner is None:
                results = self.equation(eqn, operands)
            elif isinstance(inner, core.ClosedJaxpr):
                results = self.closed(inner, operands)
            else:
                results = self.open(inner, [], operands)
            known.update(zip(eqn.outvars, results, strict=True))
            for variable in last.get(id(eqn), ()):
                known.pop(variable, None)
        self.around = outside
        return [read(v) for v in jaxpr.outvars]

    @property
    def line(self) -> str:
        """file:line (function) of the user's call of the equation at hand.

        JAX keeps the innermost frames only, and caches what its own functions trace: where an
        equation has none of the user's, it's the call around it.
        """
        return frames_to_user(self.around)[1] or "an unknown line"


@lru_cache(maxsize=256)
def last_uses(jaxpr: core.Jaxpr) -> dict[int, list[Any]]:
    """{id of an equation: the variables that nothing reads after it}."""
    seen = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    found: dict[int, list[Any]] = {}
    for eqn in reversed(jaxpr.eqns):
        used = {v for v in (*eqn.outvars, *eqn.invars) if not isinstance(v, core.Literal)} - seen
        found[id(eqn)] = [*used]
        seen |= used
    return found


def called(eqn: core.JaxprEqn) -> Any:
    """The jaxpr that an equation merely calls, or stands for; None for a primitive or a loop."""
    if (formula := written_out(eqn)) is not None:
        return formula
    if eqn.primitive.name not in CALLS:
        return None
    return next(eqn.params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in eqn.params)


def scan_counts(params: dict[str, Any]) -> tuple[int, int]:
    """(constants, carried values) of a scan: its first operands. From jax 0.11 on counted as
    trees."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carried, _ = params["ft_in"].unpack()
    return len(constants), len(carried)


def primitives_of(jaxpr: core.Jaxpr) -> set[str]:
    """The names of all primitives in a jaxpr, calls among them."""
    inner = (primitives_of(j) for eqn in jaxpr.eqns for j in core.jaxprs_in_params(eqn.params))
    return {eqn.primitive.name for eqn in jaxpr.eqns}.union(*inner)


def frames_to_user(
    around: tuple[core.JaxprEqn, ...],
) -> tuple[list[tuple[str, str]], str | None]:
    """(file, function) of a library's frames around an equation, then the user's line if any.

    From `bound` on, frames are our own.
    """
    between: list[tuple[str, str]] = []
    for eqn in reversed(around):
        traceback: Any = eqn.source_info.traceback
        for frame in traceback.frames if traceback else ():
            if frame.file_name == _OWN:
                break
            if _of_user(frame.file_name):
                function = frame.function_name.split(".")[-1]
                return between, f"{frame.file_name}:{frame.line_num} ({function})"
            between.append((frame.file_name, frame.function_name))
    return between, None


_OWN = str(Path(__file__).with_name("bound.py"))


@lru_cache(maxsize=4096)
def _of_user(name: str) -> bool:
    file, libraries = Path(name), ("jax", "jaxlib", "flax", "optax", "parity")
    homes = (getattr(sys.modules.get(one), "__file__", None) for one in libraries)
    return file.is_absolute() and not any(file.is_relative_to(Path(h).parent) for h in homes if h)
