"""The interpreter: walks a jaxpr equation by equation, carrying (value, bound)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.extend import core

from . import by_bytes, choices, indexing, order, sequences, special, windows  # noqa: F401 (rules)
from .arithmetic import EXACT, Approx, Arithmetic, Array, Delta, dense
from .backend import evaluate, jnp, lax, settled
from .coverage import Coverage
from .jaxpr import Interpreter, scan_counts
from .least import limit
from .rules import RULES, Op


class UnsupportedPrimitive(NotImplementedError):
    """A primitive without a rounding rule; the message names it and the line that called it."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["count", "mask"],
    meta_fields=["primitive", "source", "shape"],
)
@dataclass(frozen=True)
class Kink:
    """A decision that rounding could turn: elements where |a - b| <= da + db.

    mask: bool, of `shape`, behind the lengths of the scans around it; None where not asked for.
    """

    primitive: str
    source: str
    shape: tuple[int, ...]
    count: Any
    mask: Any = None


def unit(kind: Any) -> float:
    return float(jnp.finfo(kind).eps) / 2


def narrowed(r: Arithmetic, kind: Any) -> Arithmetic:
    """An arithmetic whose results are kept in a narrower type. Conversions to float16 round to its
    subnormals and flush none: there a result is off by their spacing at most."""
    info = jnp.finfo(kind)
    tiny = info.smallest_subnormal if kind == np.float16 else info.smallest_normal
    return replace(r, tiny=max(r.tiny, float(tiny)), huge=min(r.huge, float(info.max)))


@lru_cache(maxsize=256)
def of_results(r: Arithmetic, coarse: float, exact: bool, kind: Any) -> Arithmetic:
    """The arithmetic of an operation whose results are of this type: `coarse` times as rough."""
    r = replace(r, u=r.u * coarse, exact=exact)
    return narrowed(r, kind) if coarse > 1 else r


@lru_cache(maxsize=256)
def real(kind: Any) -> bool:
    return jnp.issubdtype(kind, jnp.floating)


@lru_cache(maxsize=256)
def is_complex(kind: Any) -> bool:
    return jnp.issubdtype(kind, jnp.complexfloating)


def dtype(v: Any) -> Any:
    """The type of a jaxpr's variable or literal."""
    return v.aval.dtype


def constant(x: Any, kind: Any, eager: bool = False) -> Array:
    """x as the program sees it, at its own type, then exactly in float64. eager: in NumPy."""
    if not jnp.issubdtype(kind, jnp.number) and kind != jnp.bool_:
        return x  # a random key
    if eager:
        given = np.asarray(x)
        given = given if given.dtype == kind else given.astype(kind)
        return given.astype(np.float64) if real(kind) else given
    if not real(kind):
        return jnp.asarray(x).astype(kind)
    if not isinstance(x, jax.core.Tracer):
        return jnp.asarray(np.asarray(x).astype(kind).astype(np.float64))
    x = x.astype(kind)
    if kind != jnp.float32:
        return x.astype(jnp.float64)
    # XLA on CPU reads a subnormal as zero, also when it only widens it; Torch doesn't.
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    small = (bits & 0x7FFFFF).astype(jnp.float64) * 2.0**-149
    subnormal = (bits & 0x7F800000) == 0
    return jnp.where(subnormal, jnp.where(bits >> 31, -small, small), x.astype(jnp.float64))


CONTROL = {"scan": "scan", "while": "loop", "cond": "branch"}  # by methods of Walk
_KINKS = {"eq", "ne", "lt", "le", "gt", "ge", "sign", "argmax", "argmin", "floor", "ceil", "round",
          "lt_to", "le_to"}  # fmt: skip
_STEPS = {"floor", "ceil", "round", "sign"}
_REAL_ONLY = {"div", "pow", "integer_pow", "square", "one_minus_square", "sign", "rem",
              "reduce_prod", "cumprod"}  # fmt: skip


# Sums see to their own overflow; the others return what they were given, which is in range.
_IN_RANGE = {"add", "add_any", "sub", "neg", "abs", "max", "min", "reduce_max", "reduce_min",
             "select_n", "copy", "stop_gradient", "name", "reshape", "broadcast_in_dim", "squeeze",
             "transpose", "expand_dims", "rev", "slice", "concatenate", "tile"}  # fmt: skip


def repeated(
    body: Callable[[Any, Any], Any], carry: Any, xs: Any, *, length: int, reverse: bool
) -> Any:
    """lax.scan in NumPy."""
    found = []
    for i in reversed(range(length)) if reverse else range(length):
        carry, y = body(carry, jax.tree.map(lambda x: x[i], xs))  # noqa: B023
        found.append(y)
    found = found[::-1] if reverse else found
    return carry, jax.tree.map(lambda *ys: np.stack(ys), *found)


@dataclass
class Walk(Interpreter[Approx]):
    """The interpreter: equation by equation, with the decisions that it met."""

    worst: Arithmetic
    chance: Arithmetic
    base: float  # unit roundoff of the program's own type
    eager: bool = False  # evaluate in NumPy rather than trace
    kinks: list[Kink] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    around: tuple[core.JaxprEqn, ...] = ()

    def within(self) -> Walk:
        return replace(self, kinks=[])

    def constant(self, x: Any, variable: Any) -> Approx:
        return Approx(constant(x, dtype(variable), self.eager), constant=True)

    def equation(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        name = eqn.primitive.name
        if self.eager:
            self.coverage.note(self.around, operands)
        if name in CONTROL:
            return getattr(self, CONTROL[name])(eqn, operands)
        if name == "optimization_barrier" or (name == "integer_pow" and eqn.params["y"] == 1):
            return operands
        kinds = [dtype(v) for v in (*eqn.invars, *eqn.outvars)]
        if any(map(is_complex, kinds)):
            raise self.unsupported(f"{name}' of complex numbers")
        exact = not any(map(real, kinds))
        if name not in RULES or (exact and name in _REAL_ONLY):
            found = self.discrete(eqn, operands)
        else:
            found = self.apply(eqn, operands, exact=exact)
        if self.worst.double and all(x.constant for x in operands):
            # An integer that nothing given reaches is, in float64, what both must compute.
            found = [replace(x, constant=True) for x in found]
            if name in _STEPS or not any(real(dtype(v)) for v in eqn.outvars):
                found = [replace(x, bound=EXACT, likely=EXACT) for x in found]
        if name in RULES:
            self.note(eqn, operands, found[0])
        return found

    def apply(self, eqn: core.JaxprEqn, operands: list[Approx], exact: bool) -> list[Approx]:
        aval: Any = eqn.outvars[0].aval
        coarse = max(1.0, unit(aval.dtype) / self.base) if real(aval.dtype) else 1.0
        op = Op(
            eqn.primitive.name,
            eqn.params,
            tuple(operands),
            partial(evaluate, eqn.primitive, eqn.params),
            aval.shape,
            jnp.float64 if real(aval.dtype) else aval.dtype,
            narrows=coarse > 1,
        )
        value, spread, *tag = RULES[op.name](op, *(x.value for x in operands))

        def here(r: Arithmetic) -> Arithmetic:
            return of_results(r, coarse, exact, aval.dtype)

        def spreads(r: Arithmetic) -> Any:
            r = here(r)
            return spread(r, *(r.of(x) for x in operands))

        bound = spreads(self.worst)
        likely = bound if self.chance is self.worst else spreads(self.chance)
        if not eqn.primitive.multiple_results:
            huge = here(self.worst).huge
            checked = op.name in _IN_RANGE and huge == self.worst.huge
            found = self.guard(value, bound, likely, next(iter(tag), None), checked, huge)
            if exact or found.bound is EXACT:
                return [found]
            return [replace(found, low=limit(op, here(self.worst)))]
        parts = [[d] * len(value) if d is EXACT else d for d in (bound, likely)]
        return [self.guard(*each) for each in zip(value, *parts, strict=True)]

    def guard(
        self,
        value: Array,
        bound: Delta,
        likely: Delta,
        tag: Any = None,
        checked: bool = False,
        huge: float | None = None,
    ) -> Approx:
        """No bound is NaN; where the judged arithmetic overflows, it's infinite."""
        most = self.worst.huge if huge is None else huge

        def sound(d: Delta) -> Delta:
            if d is EXACT:
                return d
            d = dense(d, value)
            if checked:
                return jnp.where(jnp.isnan(d) | (jnp.isnan(value) & (d > 0)), jnp.inf, d)
            # An exact infinity, of a mask perhaps, is no overflow.
            return jnp.where((d == 0) | (jnp.abs(value) + d < most), d, jnp.inf)

        if self.eager:
            value, bound, likely = map(settled, (value, bound, likely))
        sure = sound(bound)
        return Approx(value, sure, sure if likely is bound else sound(likely), tag)

    def note(self, eqn: core.JaxprEqn, operands: list[Approx], found: Approx) -> None:
        name = eqn.primitive.name
        if name in _KINKS:
            doubt = found.bound
        elif name in ("max", "min"):
            x, y = operands
            doubt = choices.undecided(self.worst, x.value, y.value, x.bound, y.bound)
        elif name == "select_n":
            doubt = operands[0].bound
        else:
            return
        if doubt is not EXACT:
            mask = jnp.broadcast_to(doubt > 0, found.value.shape)
            self.kinks.append(Kink(name, self.line, mask.shape, jnp.sum(mask), mask))

    def unsupported(self, what: str) -> UnsupportedPrimitive:
        return UnsupportedPrimitive(
            f"primitive '{what} has no rounding rule; called at {self.line}. "
            "Write the function without it, or add its rule: docs/primitives.md lists all rules"
        )

    def discrete(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        """Any primitive of integers and booleans: exact, or unknown where an operand is."""
        name = eqn.primitive.name
        if any(real(dtype(v)) for v in eqn.invars) or [*core.jaxprs_in_params(eqn.params)]:
            raise self.unsupported(f"{name}'")
        found = evaluate(eqn.primitive, eqn.params, *(x.value for x in operands))
        values = found if eqn.primitive.multiple_results else [found]
        delta: Delta = EXACT
        for x in operands:
            if x.bound is not EXACT:
                delta = delta + jnp.where(jnp.any(x.bound > 0), jnp.inf, 0.0)
        made = []
        for v, out in zip(values, eqn.outvars, strict=True):
            d = EXACT if delta is EXACT else dense(delta, v)
            made.append(Approx(constant(v, dtype(out), self.eager), d, d))
        return made

    # --- control flow ------------------------------------------------------------------------

    def scan(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        p = eqn.params
        first, n = scan_counts(p)
        last = first + n

        def body(carry: list[Approx], xs: list[Approx]) -> Any:
            walk = self.within()
            out = walk.closed(p["jaxpr"], [*operands[:first], *carry, *xs])
            return [x.dense() for x in out[:n]], (out[n:], walk.kinks)

        start = [x.dense() for x in operands[first:last]]
        repeat: Any = repeated if self.eager else lax.scan
        carry, (ys, kinks) = repeat(
            body, start, operands[last:], length=p["length"], reverse=p["reverse"]
        )
        self.kinks += [replace(k, count=jnp.sum(k.count)) for k in kinks]
        return [*carry, *ys]

    def loop(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        """A while loop whose end isn't certain makes everything in it uncertain.

        A mapped loop has an end for each of its lanes, and runs until the last.
        """
        p = eqn.params
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]

        def going(carry: list[Approx]) -> Approx:
            return self.within().closed(p["cond_jaxpr"], [*operands[:n], *carry])[0].dense()

        def each(lanes: Array, like: Array) -> Array:
            return lanes.reshape(lanes.shape + (1,) * (like.ndim - lanes.ndim))

        def body(state: Any) -> Any:
            carry, doubt, runs = state
            out = self.within().closed(p["body_jaxpr"], [*operands[n:m], *carry])
            new = [x.dense() for x in out]
            if runs.ndim:
                new = jax.tree.map(lambda a, b: jnp.where(each(runs, a), a, b), new, carry)
            again = going(new)
            return new, doubt + again.bound, again.value

        start = [x.dense() for x in operands[m:]]
        first = going(start)
        state: Any = start, first.bound, first.value
        if not self.eager:
            state = lax.while_loop(lambda s: jnp.any(s[2]), body, state)
        else:
            while np.any(state[2]):
                state = body(state)
        carry, doubt, _ = state

        def unless(d: Delta) -> Array:
            return jnp.where(each(doubt, d) > 0, jnp.inf, d)

        return [Approx(x.value, unless(x.bound), unless(x.likely)) for x in carry]

    def branch(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        """All branches are walked, then selected from, so that a doubt spans them."""
        which, *rest = operands
        results = []
        if self.eager and not np.any(dense(which.bound, which.value)):
            last = len(eqn.params["branches"]) - 1
            return self.closed(eqn.params["branches"][min(max(int(which.value), 0), last)], rest)
        for i, closed in enumerate(eqn.params["branches"]):
            walk = self.within()
            results.append(walk.closed(closed, rest))
            taken = (which.value == i) | (dense(which.bound, which.value) > 0)
            for k in walk.kinks:
                mask = k.mask & taken
                self.kinks.append(replace(k, mask=mask, count=jnp.sum(mask)))
        made = []
        for cases in zip(*results, strict=True):
            value, spread = choices.select(which.value, *(c.value for c in cases))
            ways = (self.worst, self.chance)
            deltas = [spread(r, *(r.of(x) for x in (which, *cases))) for r in ways]
            made.append(self.guard(value, *deltas))
        return made
