"""The float64 value of any JAX function, and how far rounding can move a computed one from it.

    |computed - value| <= bound

for any computation of the same formula with unit roundoff u, in any order of summation, fused or
not, with subnormals flushed or not, in JAX or in Torch. One interpreter walks the function's jaxpr
and carries (value, bound) through the rules of `parity.rounding`. It's itself made of
jax.numpy operations: `bounded` can be traced, compiled, mapped and scanned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval
from jaxtyping import PyTree

from parity.kept import Keeper

from .arithmetic import EXACT, Approx, Arithmetic, Array, Delta, dense
from .backend import jnp
from .coverage import Unexercised
from .devices import on_one_device
from .walk import Kink, UnsupportedPrimitive, Walk, constant, dtype, real, unit

__all__ = ["Bounds", "Kink", "Unexercised", "UnsupportedPrimitive", "bound", "bounded"]

FLOAT32, TF32, BFLOAT16, FLOAT64 = 2.0**-24, 2.0**-11, 2.0**-8, 2.0**-53


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "bound", "likely", "kinks"],
    meta_fields=["unexercised"],
)
@dataclass(frozen=True)
class Bounds:
    """What `bound` returns: pytrees shaped like the function's output, leaves in float64.

    kinks: decisions that rounding could turn. unexercised: those that these data never turn.
    """

    value: PyTree
    bound: PyTree
    likely: PyTree
    kinks: tuple[Kink, ...]
    unexercised: tuple[Unexercised, ...] = ()


def bound(
    fn: Callable[..., PyTree],
    *args: PyTree,
    roundoff: float = FLOAT32,
    operand_roundoff: float = 0.0,
    input_bounds: PyTree | None = None,
    likely: bool = True,
) -> Bounds:
    """The float64 value of fn(*args) and the elementwise rounding bound of every output.

        |computed - value| <= bound          always
        |computed - value| <= likely         unless rounding errors conspire (6 sqrt(n) u)

    so two computations of fn differ by at most the sum of their bounds. fn is traced at the types
    of args: with float32 args, the float32 program, whose constants are float32 numbers. roundoff:
    u of the judged arithmetic. operand_roundoff: that of matrix product operands, where the
    hardware shortens them (TF32, BFLOAT16). input_bounds: like args, errors that the inputs came
    with; by default the inputs are exact. likely: False gives `bound` in its place, in two thirds
    of the time. Integers and booleans have a zero bound unless a kink reaches them; a non-finite
    value has an infinite one.

    Traced at the first call for each fn and types of args, when arrays that fn closes over are read
    (the last 24 are kept; methods of a Keeper with it), then evaluated in NumPy. Needs no x64 flag
    and sets none.
    Raises UnsupportedPrimitive. Source: Higham 2002, ch. 3; Higham & Mary 2019.

        >>> found = bound(lambda x, y: x * y + 1, np.float32(3), np.float32(0.1))
        >>> float(found.value), bool(0 < found.bound < 2e-7)
        (1.3000000044703484, True)
    """
    given, structure = jax.tree.flatten(args)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        closed, shapes = _kept_trace(fn, structure, tuple(map(_type, given)))
        errors = None if input_bounds is None else _errors(args, input_bounds)
        *parts, walk = _walked(
            closed, given, errors, _arithmetic(roundoff, operand_roundoff), True, likely
        )
    kinks = tuple(replace(k, count=int(k.count)) for k in walk.kinks if k.count)
    value, worst, probable = (shapes.unflatten(map(np.asarray, part)) for part in parts)
    return Bounds(value, worst, probable, kinks, walk.coverage.unexercised())


def walked(
    fn: Callable[..., PyTree],
    args: tuple[PyTree, ...],
    roundoff: float,
    make: Callable[..., Any],
    labels: list[tuple[str, str]],
) -> tuple[list[Approx], Any]:
    """The outputs of fn(*args) by a walk of one's own, and their structure.

    make: as Walk; its `give(input, *label)` is told of every leaf of args. Raises
    UnsupportedPrimitive.
    """
    given, structure = jax.tree.flatten(args)
    with jax.enable_x64(True), np.errstate(all="ignore"):
        closed, shapes = _kept_trace(fn, structure, tuple(map(_type, given)))
        variables, worst = closed.jaxpr.invars, _arithmetic(roundoff, 0.0)
        inputs = [_input(x, EXACT, dtype(v), True) for x, v in zip(given, variables, strict=True)]
        walk = make(worst, replace(worst, statistical=True), _base(variables, worst), True)
        for x, label in zip(inputs, labels, strict=True):
            walk.give(x, *label)
        return walk.closed(closed, inputs), shapes


def bounded(
    fn: Callable[..., PyTree],
    *,
    roundoff: float = FLOAT32,
    operand_roundoff: float = 0.0,
    masks: bool = True,
) -> Callable[..., Bounds]:
    """`bound` as a pure function of (*args, input_bounds=None), to be jitted, mapped or scanned.

    Its Bounds hold one Kink for each decision in fn, also those that nothing reaches, with its
    count and, if `masks`, its mask. What isn't used of them, XLA doesn't compute: a scan that
    drops `likely` is a third faster. Call it, and what's around it, under `jax.enable_x64(True)`;
    raises RuntimeError otherwise.
    """
    worst = _arithmetic(roundoff, operand_roundoff)

    def run(*args: PyTree, input_bounds: PyTree | None = None) -> Bounds:
        if jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
            raise RuntimeError("bounded(fn) works in float64: call it under jax.enable_x64(True)")
        given, structure = jax.tree.flatten(args)
        closed, shapes = _traced(fn, structure, tuple(map(_type, given)))
        errors = None if input_bounds is None else _errors(args, input_bounds)
        *parts, walk = _walked(closed, given, errors, worst, eager=False)
        value, bound, likely = map(shapes.unflatten, parts)
        kinks = tuple(k if masks else replace(k, mask=None) for k in walk.kinks)
        return Bounds(value, bound, likely, kinks)

    return run


def _errors(args: PyTree, input_bounds: PyTree) -> list[Delta]:
    return jax.tree.leaves(jax.tree.map(lambda _, d: d, args, input_bounds))


def _walked(
    closed: core.ClosedJaxpr,
    given: list[Any],
    errors: list[Delta] | None,
    worst: Arithmetic,
    eager: bool,
    likely: bool = True,
) -> tuple[list[Array], list[Array], list[Array], Walk]:
    """Values, bounds and likely ones of a jaxpr's outputs; the walk with its decisions."""
    variables = closed.jaxpr.invars
    inputs = [
        _input(x, d, dtype(v), eager)
        for x, d, v in zip(given, errors or [EXACT] * len(given), variables, strict=True)
    ]
    chance = replace(worst, statistical=True) if likely else worst
    walk = Walk(worst, chance, _base(variables, worst), eager)
    outputs = [_output(worst, x) for x in walk.closed(closed, inputs)]
    values, bounds, probable = ([x[i] for x in outputs] for i in range(3))
    return values, bounds, probable, walk


def _arithmetic(roundoff: float, operand_roundoff: float) -> Arithmetic:
    if not 0 < roundoff < 0.25 or not 0 <= operand_roundoff < 0.25:
        raise ValueError(
            f"roundoff {roundoff} and operand_roundoff {operand_roundoff}: expected unit "
            "roundoffs such as 2**-24 for float32 or 2**-53 for float64"
        )
    double = roundoff < 2.0**-50
    return Arithmetic(
        # 2^-53 more for the rounding of the value itself, 2^-20 of u for that of the bounds.
        u=roundoff * (1 + 2.0**-20) + FLOAT64,
        operand=2 * operand_roundoff + operand_roundoff**2,
        tiny=2.0**-1022 if double else 2.0**-126,
        huge=float(np.finfo(np.float64).max) if double else 2.0**128,
    )


def _base(variables: list[Any], worst: Arithmetic) -> float:
    """The unit of the type whose numbers are judged at `worst`: the widest that is given, but
    where all are narrower than float32, that of `worst` itself. Narrower types round coarser."""
    given = min((unit(dtype(v)) for v in variables if real(dtype(v))), default=FLOAT32)
    return min(given, max(FLOAT32, worst.u))


def _type(x: Any) -> tuple[tuple[int, ...], Any, bool]:
    t = jax.typeof(x)
    return t.shape, t.dtype, t.weak_type


def _kept_trace(fn: Callable[..., PyTree], *types: Any) -> tuple[core.ClosedJaxpr, Any]:
    """`_traced`, once for each fn and types of args."""
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, Keeper):  # a side holds its compiled programs: none shall outlive it here
        return owner.kept((fn.__func__, *types), lambda: _traced(fn, *types))  # type: ignore[attr-defined]
    try:
        hash(fn)
    except TypeError:
        return _traced(fn, *types)
    return _last_traced(fn, *types)


@lru_cache(maxsize=24)
def _last_traced(fn: Callable[..., PyTree], *types: Any) -> tuple[core.ClosedJaxpr, Any]:
    return _traced(fn, *types)


def _traced(
    fn: Callable[..., PyTree], structure: Any, types: tuple[tuple[tuple[int, ...], Any, bool], ...]
) -> tuple[core.ClosedJaxpr, Any]:
    """fn's jaxpr at the types of args, without dead code, and the structure of its output."""
    floats = [(s, kind) for s, kind, weak in types if real(kind) and not weak]
    double = [kind == jnp.float64 for _, kind in floats]
    # A NumPy scalar among float32 arrays doesn't make a float64 program; a float64 array does.
    wide = any(d and s for d, (s, _) in zip(double, floats, strict=True))
    with jax.enable_x64(wide or (bool(double) and all(double))):
        specs = [jax.ShapeDtypeStruct(s, _own(kind), weak_type=weak) for s, kind, weak in types]
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*structure.unflatten(specs))
        closed = on_one_device(closed)
    named = _names_used(closed.jaxpr)
    jaxpr, _ = partial_eval.dce_jaxpr(named, [True] * len(closed.jaxpr.outvars), instantiate=True)
    return closed.replace(jaxpr=jaxpr), jax.tree.structure(shapes)


def _own(kind: Any) -> Any:
    """The type that JAX has in its place: without x64, int32 of NumPy's int64."""
    random_key = jnp.issubdtype(kind, jax.dtypes.extended)
    return kind if random_key else jax.dtypes.canonicalize_dtype(kind)


def _names_used(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """What comes after a name takes the named value, which is the same: or it would be dead code,
    as the name of what a module sows is."""
    named: dict[Any, core.Var] = {}
    eqns = []
    for eqn in jaxpr.eqns:
        taken = [x if isinstance(x, core.Literal) else named.get(x, x) for x in eqn.invars]
        if eqn.primitive.name == "name" and not isinstance(taken[0], core.Literal):
            named[eqn.invars[0]] = own = core.Var(eqn.outvars[0].aval)
            named[eqn.outvars[0]] = own
            eqns.append(eqn.replace(invars=taken, outvars=[own]))
        else:
            eqns.append(eqn.replace(invars=taken))
    outs = [x if isinstance(x, core.Literal) else named.get(x, x) for x in jaxpr.outvars]
    return jaxpr.replace(eqns=eqns, outvars=outs)


def _input(x: Any, error: Delta, kind: Any, eager: bool) -> Approx:
    value = constant(x, kind, eager)
    if error is EXACT or not real(kind):
        return Approx(value)
    error = dense(jnp.asarray(error, jnp.float64) * (1 + 2.0**-20), value)
    return Approx(value, error, error)


def _output(r: Arithmetic, x: Approx) -> tuple[Array, Array, Array]:
    v = x.value.astype(jnp.float64)
    least = jnp.where((v != 0) & (jnp.abs(v) < r.tiny), r.tiny, 0.0)  # may be flushed on the way
    least = jnp.where(jnp.isfinite(v), least, jnp.inf)
    bound = jnp.maximum(dense(x.bound, v), least)
    return v, bound, jnp.minimum(jnp.maximum(dense(x.likely, v), least), bound)
