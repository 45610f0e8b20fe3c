"""Operations of JAX that are read as the formula they stand for.

What a bound covers and what a proof is about is the formula, for Torch computes that, too. Newer
versions of JAX take some as one operation, or by bits, to lose less in rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
from jax import lax
from jax.extend import core


def _polynomial(x: Any, *coefficients: Any) -> Any:
    """c_0 + x (c_1 + x (c_2 + ...))"""
    *rest, total = coefficients
    for c in reversed(rest):
        total = total * x + c
    return total


FORMULAS: dict[str, Callable[..., Any]] = {
    "polynomial": _polynomial,
    # In the derivatives of erf and erfc. JAX cuts x into two parts, the square of one being exact.
    "exp_neg_sq": lambda x: lax.exp(lax.neg(lax.square(x))),
}


def written_out(eqn: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The jaxpr of the formula, its equations at the line of the operation; None of any other."""
    name = eqn.primitive.name
    if name == "custom_jvp_call":
        source = eqn.params["call_jaxpr"].jaxpr.debug_info.func_src_info  # "function at file:line"
        function, _, place = source.partition(" at ")
        name = function if "/jax/_src/lax/" in place else name
    if name == "call_hi_primitive":  # from jax 0.12 on, of searchsorted: JAX has what it stands for
        formula: Callable[..., Any] = _Expanded(eqn.params["_prim"])
    elif name in FORMULAS:
        formula = FORMULAS[name]
    else:
        return None
    closed = _traced(formula, tuple((v.aval.shape, v.aval.dtype) for v in eqn.invars))  # type: ignore[attr-defined]
    eqns = [one.replace(source_info=eqn.source_info) for one in closed.jaxpr.eqns]
    return closed.replace(jaxpr=closed.jaxpr.replace(eqns=eqns))


@dataclass(frozen=True)
class _Expanded:
    """An operation that JAX can write out itself, of flat operands."""

    operation: Any

    def __call__(self, *operands: Any) -> list[Any]:
        given = jax.tree.unflatten(self.operation.in_tree, operands)
        return jax.tree.leaves(self.operation.expand(*given))


@lru_cache(maxsize=256)
def _traced(
    formula: Callable[..., Any], types: tuple[tuple[tuple[int, ...], Any], ...]
) -> core.ClosedJaxpr:
    with jax.enable_x64(True):
        specs = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in types]
        return jax.make_jaxpr(formula)(*specs)
