"""float32 asked for by name, in a float64 run: torch_wide.py's twin.

JAX has no mode through which all operations pass, but every function of arrays can be traced: its
jaxpr is evaluated again with float64 in the place of float32, where it's traced, bounded, compiled
like any other.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from parity.rounding.devices import bind_again
from parity.rounding.jaxpr import called, scan_counts

F = TypeVar("F", bound=Callable[..., Any])
FLOAT32, FLOAT64 = np.dtype("float32"), np.dtype("float64")
OWN_RULE = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def widened(method: F) -> F:
    """A side's pure function; where the side says so, float32 asked for by name is float64 in it.

    Decoders convert to float32 before a norm or a softmax, as `jax.nn.dot_product_attention` does.
    """

    @wraps(method)
    def run(side: Any, *args: Any, **named: Any) -> Any:
        def function(*args: Any) -> Any:
            return method(side, *args, **named)

        return wide(function, *args) if side.widens else function(*args)

    return run  # type: ignore[return-value]


def wide(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), with float64 in the place of float32; traceable.

    A float32 number among its literals is the shortest decimal that gives it, as the code has it.
    Raises NotImplementedError for an operation that hides others in it, but loops and branches.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    return jax.tree.unflatten(jax.tree.structure(shapes), _run(closed, jax.tree.leaves(args)))


def _run(closed: core.ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    jaxpr = closed.jaxpr
    given = map(_wider, (*closed.consts, *args))
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), given, strict=True))

    def read(v: Any) -> Any:
        return _literal(v) if isinstance(v, core.Literal) else known[v]

    for eqn in jaxpr.eqns:
        with jax._src.source_info_util.user_context(eqn.source_info.traceback):
            results = _equation(eqn, [*map(read, eqn.invars)])
        known.update(zip(eqn.outvars, results, strict=True))
    return [*map(read, jaxpr.outvars)]


def _equation(eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in CONTROL:
        return CONTROL[name](params, operands)
    narrow = any(getattr(v.aval, "dtype", None) == FLOAT32 for v in (*eqn.invars, *eqn.outvars))
    if (inner := called(eqn)) is not None and (narrow or name not in OWN_RULE):
        return _run(_closed(inner), operands)
    if not narrow:
        return bind_again(eqn, operands)
    if [*core.jaxprs_in_params(params)] or name == "bitcast_convert_type":
        raise NotImplementedError(f"{name} of float32, in float64")
    if name == "convert_element_type" and params["new_dtype"] == FLOAT32:
        return [jnp.asarray(x, FLOAT64) for x in operands]
    wider = {key: FLOAT64 if _is_float32(x) else x for key, x in params.items()}
    return bind_again(eqn.replace(params=wider), operands)


def _scan(p: dict[str, Any], operands: list[Any]) -> list[Any]:
    first, n = scan_counts(p)
    last = first + n

    def body(carry: list[Any], xs: list[Any]) -> tuple[list[Any], list[Any]]:
        out = _run(p["jaxpr"], [*operands[:first], *carry, *xs])
        return out[:n], out[n:]

    how = {key: p[key] for key in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(body, operands[first:last], operands[last:], **how)
    return [*carry, *ys]


def _while(p: dict[str, Any], operands: list[Any]) -> list[Any]:
    n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    return lax.while_loop(
        lambda carry: _run(p["cond_jaxpr"], [*operands[:n], *carry])[0],
        lambda carry: _run(p["body_jaxpr"], [*operands[n:m], *carry]),
        operands[m:],
    )


def _branch(p: dict[str, Any], operands: list[Any]) -> list[Any]:
    which, *rest = operands
    branches = [lambda *xs, b=branch: _run(b, xs) for branch in p["branches"]]
    return lax.switch(which.astype(jnp.int32), branches, *rest)


CONTROL = {"scan": _scan, "while": _while, "cond": _branch}


def _closed(jaxpr: Any) -> core.ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, [])


def _wider(x: Any) -> Any:
    return jnp.asarray(x, FLOAT64) if getattr(x, "dtype", None) == FLOAT32 else x


def _literal(v: Any) -> Any:
    kind = v.aval.dtype
    return np.float64(str(np.float32(v.val))) if kind == FLOAT32 else np.asarray(v.val, kind)


def _is_float32(x: Any) -> bool:
    try:
        return isinstance(x, (np.dtype, type)) and np.dtype(x) == FLOAT32
    except TypeError:
        return False
