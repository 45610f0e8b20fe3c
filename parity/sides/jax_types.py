"""The types in which a JAX model computes."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from parity.rounding.jaxpr import frames_to_user
from parity.sides.side import Narrowest


def narrowness(n: Narrowest) -> tuple[bool, bool, int]:
    return n.kind == "float64", n.constant, jnp.finfo(n.kind).bits


def results(jaxpr: Any, given: set[Any]) -> Iterator[Narrowest]:
    """All floating results in a jaxpr that are narrower than float64. given: what isn't constant;
    what depends on it joins."""
    for eqn in jaxpr.eqns:
        depends = any(not isinstance(v, core.Literal) and v in given for v in eqn.invars)
        for inner in core.jaxprs_in_params(eqn.params):
            yield from results(inner, set(inner.invars) if depends else set())
        given.update(eqn.outvars if depends else ())
        for v in eqn.outvars:
            kind = getattr(v.aval, "dtype", None)
            if kind is not None and jnp.issubdtype(kind, jnp.floating) and kind != np.float64:
                yield Narrowest(kind.name, frames_to_user((eqn,))[1] or "", not depends)


def products(jaxpr: Any) -> Iterator[str]:
    """The types of all results of matrix products and convolutions in a jaxpr."""
    for eqn in jaxpr.eqns:
        for inner in core.jaxprs_in_params(eqn.params):
            yield from products(inner)
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            yield eqn.outvars[0].aval.dtype.name
