"""A jaxpr over finite fields: a rule for each primitive. Integers and booleans stay as they are."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jax.extend import core

from parity.identity import functions
from parity.identity.field import Algebra, Array
from parity.identity.lines import Lines
from parity.identity.number import Field, Undecided
from parity.rounding import primitives
from parity.rounding.backend import evaluate
from parity.rounding.jaxpr import Interpreter, frames_to_user, scan_counts

Value = Any  # a Field, or an array of integers, booleans or random keys
Rule = Callable[..., Any]


class JaxGraph(Interpreter[Value]):
    """Evaluates a jaxpr on one draw. Raises Undecided for a primitive without a rule."""

    def __init__(self, of: Algebra, lines: Lines | None = None) -> None:
        self.of, self.lines = of, lines

    def constant(self, x: Any, variable: Any) -> Value:
        kind = variable.aval.dtype
        if jnp.issubdtype(kind, jnp.floating):
            return self.of.lift(np.asarray(x, np.float64))
        return np.asarray(x, kind) if isinstance(kind, np.dtype) else x

    def equation(self, eqn: core.JaxprEqn, operands: list[Value]) -> list[Value]:
        name, p = eqn.primitive.name, eqn.params
        if name in ("scan", "while", "cond"):
            return getattr(self, name + "_")(p, operands)
        if name in SAME:
            return operands
        try:
            if not any(isinstance(x, Field) for x in operands) and name != "convert_element_type":
                found = evaluate(eqn.primitive, p, *operands)
            elif name in MOVES:
                found = self._moves(eqn, operands)
            elif name in RULES:
                found = RULES[name](self.of, p, *operands)
            else:
                raise Undecided(f"primitive '{name}'")
        except Undecided as why:
            raise Undecided(f"JAX: {why}, at {self.line}" if "JAX" not in str(why) else str(why)) \
                from None  # fmt: skip
        found = found if isinstance(found, (list, tuple)) else [found]
        results = [
            self.of.lift(np.asarray(x, np.float64))
            if not isinstance(x, Field) and jnp.issubdtype(v.aval.dtype, jnp.floating)
            else x
            for x, v in zip(found, cast(Any, eqn.outvars), strict=True)
        ]
        if (renewals := self.of.renewals) is not None:
            results = [
                renewals.of(self.of, "JAX", name, lambda: _line(self.around), x)
                if isinstance(x, Field)
                else x
                for x in results
            ]
        if self.lines is not None:
            self.lines.note(name, _line(self.around), operands, results)
        return results

    def _moves(self, eqn: core.JaxprEqn, operands: list[Value]) -> Any:
        """A primitive that puts elements elsewhere, applied to each part."""
        if eqn.primitive.name == "select_n" and np.all(operands[0] == np.ravel(operands[0])[0]):
            return operands[1 + int(np.ravel(operands[0])[0])]  # as it is, with what is known of it
        places = [i for i, x in enumerate(operands) if isinstance(x, Field)]

        def run(*planes: Any, which: int | None = None) -> Any:
            given = list(operands)
            for i, plane in zip(places, planes, strict=True):
                given[i] = plane
            found = evaluate(eqn.primitive, eqn.params, *given)
            return np.asarray(found if which is None else found[which])

        fields = [operands[i] for i in places]
        if eqn.primitive.name in VIEWS:
            return self.of.viewed(run, *fields)
        if not eqn.primitive.multiple_results:
            return self.of.moved(run, *fields)
        return [self.of.moved(partial(run, which=i), *fields) for i in range(len(eqn.outvars))]

    # --- control flow ----------------------------------------------------------------------------

    def scan_(self, p: dict[str, Any], operands: list[Value]) -> list[Value]:
        first, n = scan_counts(p)
        last = first + n
        carry, rows = operands[first:last], []
        turns = range(p["length"])
        for i in reversed(turns) if p["reverse"] else turns:
            xs = [self._at(x, i) for x in operands[last:]]
            out = self.closed(p["jaxpr"], [*operands[:first], *carry, *xs])
            carry = out[:n]
            rows.append(out[n:])
        if not rows:
            raise Undecided("JAX: a scan of length 0")
        rows = rows[::-1] if p["reverse"] else rows
        return [*carry, *(self._stack(column) for column in zip(*rows, strict=True))]

    def while_(self, p: dict[str, Any], operands: list[Value]) -> list[Value]:
        n, m = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
        carry = operands[m:]
        for _ in range(10_000):
            going = self.closed(p["cond_jaxpr"], [*operands[:n], *carry])[0]
            if not np.any(going):
                return carry
            carry = self.closed(p["body_jaxpr"], [*operands[n:m], *carry])
        raise Undecided("JAX: a loop of more than 10,000 turns")

    def cond_(self, p: dict[str, Any], operands: list[Value]) -> list[Value]:
        which, *rest = operands
        branches = p["branches"]
        return self.closed(branches[min(max(int(which), 0), len(branches) - 1)], rest)

    def _at(self, x: Value, i: int) -> Value:
        return self.of.moved(lambda v: v[i], x) if isinstance(x, Field) else x[i]

    def _stack(self, xs: tuple[Value, ...]) -> Value:
        if isinstance(xs[0], Field):
            return self.of.moved(lambda *v: np.stack(v), *xs)
        return np.stack(xs)


def _line(around: tuple[core.JaxprEqn, ...]) -> str:
    """The user's line; of what our own trainer calls, the place in the optimiser's code."""
    between, line = frames_to_user(around)
    if line and "/jax_mlp/" not in line:
        return line
    theirs = [f"{file} ({function})" for file, function in between if "/optax/" in file]
    return theirs[0] if theirs else line or ""


MOVES = {
    "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice",
    "concatenate", "pad", "gather", "dynamic_slice", "dynamic_update_slice", "select_n", "split",
    "tile", "scatter", "stack", "unstack",
}  # fmt: skip
VIEWS = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims", "transpose", "rev", "slice"}
SAME = {"copy", "copy_p", "stop_gradient", "reduce_precision", "optimization_barrier", "name"}
RULES: dict[str, Rule] = {}


def _enter(*names: str) -> Callable[[Rule], Rule]:
    def enter(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, f))
        return f

    return enter


# Of the algebra and its arguments alone.
_ELEMENTWISE: dict[str, Rule] = {
    **functions.SHARED,
    "add": functions.method("add"), "add_any": functions.method("add"),
    "sub": functions.method("sub"), "div": functions.method("div"),
    "max": functions.maximum, "min": functions.minimum,
    "abs": functions.absolute, "sign": functions.sign, "sqrt": functions.sqrt,
    "rsqrt": functions.rsqrt, "exp": functions.exp, "log": functions.log,
    "tanh": functions.tanh, "logistic": functions.logistic, "erf": functions.erf,
    "square": lambda of, x: of.power(x, 2),
    "one_minus_square": lambda of, x: of.sub(of.lift(1.0), of.power(x, 2)),
    "log2": lambda of, x: of.div(functions.log(of, x), of.lift(math.log(2))),
    "exp2": lambda of, x: functions.exp(of, of.mul(x, of.lift(math.log(2)))),
    "erfc": lambda of, x: of.sub(of.lift(1.0), functions.erf(of, x)),
    "pow": lambda of, x, y: functions.power(of, of.lift(x), of.lift(y)),
    "is_finite": lambda of, x: np.broadcast_to(
        np.asarray(True) if x.inf is None else x.inf == 0, x.shape),
    "clamp": lambda of, low, x, high: functions.minimum(of, functions.maximum(of, x, low), high),
}  # fmt: skip


def _plain(f: Rule) -> Rule:
    return lambda of, p, *xs: f(of, *(x for x in xs))


RULES |= {name: _plain(f) for name, f in _ELEMENTWISE.items()}


@_enter("integer_pow")
def _integer_pow(of: Algebra, p: Any, x: Field) -> Field:
    return of.power(x, p["y"])


@_enter("convert_element_type")
def _convert(of: Algebra, p: Any, x: Value) -> Value:
    kind = p["new_dtype"]
    if jnp.issubdtype(kind, jnp.floating):
        return of.lift(x)
    if not isinstance(x, Field):
        return np.asarray(x).astype(kind)
    if kind == np.bool_:
        return of.sign_of(x) != 0
    return _given(x, f"a conversion to {np.dtype(kind)}").astype(kind)


@_enter("floor", "ceil", "round", "rem")
def _steps(of: Algebra, p: Any, *xs: Field) -> Value:
    given = [_given(x, "rounding to integers") for x in xs]
    if len(given) == 2:
        return of.lift(np.fmod(*given))
    raise Undecided("rounding to integers")


def _given(x: Field, what: str) -> Array:
    if x.const is None:
        raise Undecided(what)
    return x.const


# --- reductions ----------------------------------------------------------------------------------


@_enter("reduce_sum")
def _reduce_sum(of: Algebra, p: Any, x: Field) -> Field:
    return of.linear(lambda v: v.sum(tuple(p["axes"])), x)


@_enter("cumsum")
def _cumsum(of: Algebra, p: Any, x: Field) -> Field:
    return of.linear(lambda v: primitives.cumsum(v, p["axis"], p["reverse"]), x)


@_enter("reduce_max", "argmax")
def _reduce_max(of: Algebra, p: Any, x: Field, least: bool = False) -> Value:
    axes = tuple(p["axes"])
    kept = [i for i in range(len(x.shape)) if i not in axes]

    def front(v: Array) -> Array:
        return v.transpose([*axes, *kept]).reshape(-1, *(v.shape[i] for i in kept))

    best, index = functions.largest(of, of.moved(front, x), least)
    return index.astype(p["index_dtype"]) if "index_dtype" in p else best


RULES["reduce_min"] = RULES["argmin"] = partial(_reduce_max, least=True)


@_enter("reduce_prod")
def _reduce_prod(of: Algebra, p: Any, x: Field) -> Field:
    for axis in sorted(p["axes"], reverse=True):
        rows = [
            of.moved(lambda v, i=i, axis=axis: v.take(i, axis), x) for i in range(x.shape[axis])
        ]
        x = rows[0]
        for row in rows[1:]:
            x = of.mul(x, row)
    return x


@_enter("dot_general")
def _dot_general(of: Algebra, p: Any, a: Field, b: Field) -> Field:
    return of.bilinear(
        lambda x, y: primitives.dot_general(x, y, p["dimension_numbers"]), of.lift(a), of.lift(b)
    )


@_enter("conv_general_dilated")
def _convolution(of: Algebra, p: Any, a: Field, b: Field) -> Field:
    from jax import lax

    wanted = p | {"preferred_element_type": np.dtype(np.float64), "precision": None}
    return of.bilinear(partial(evaluate, lax.conv_general_dilated_p, wanted), a, b)


@_enter("scatter-add", "scatter_add")
def _scatter_add(of: Algebra, p: Any, x: Field, indices: Array, updates: Field) -> Field:
    from jax import lax

    zeros = np.zeros(of.lift(x).shape)
    added = of.linear(
        lambda v: np.asarray(evaluate(lax.scatter_add_p, p, zeros, indices, v)), of.lift(updates)
    )
    return of.add(of.lift(x), added)


# --- windows -------------------------------------------------------------------------------------


def _places(p: Any, shape: tuple[int, ...]) -> Array:
    """[entries of a window, windows along each axis]: where each comes from, -1 for padding."""
    n = len(shape)
    ones = (1,) * n
    view = primitives._windows(
        np.arange(math.prod(shape)).reshape(shape), -1, p["window_dimensions"],
        p["window_strides"], p["padding"], p.get("base_dilation", ones),
        p.get("window_dilation", ones),
    )  # fmt: skip
    return np.moveaxis(view.reshape(*view.shape[:n], -1), -1, 0)


def _windowed(of: Algebra, p: Any, x: Field, fill: float) -> tuple[Field, Array]:
    places = _places(p, x.shape)
    taken = of.moved(lambda v: v.ravel()[places], x)
    return of.chosen(places >= 0, taken, of.lift(fill)), places


@_enter("reduce_window_max")
def _reduce_window_max(of: Algebra, p: Any, x: Field, least: bool = False) -> Field:
    entries, _ = _windowed(of, p, x, np.inf if least else -np.inf)
    return functions.largest(of, entries, least)[0]


RULES["reduce_window_min"] = partial(_reduce_window_max, least=True)


@_enter("reduce_window_sum")
def _reduce_window_sum(of: Algebra, p: Any, x: Field) -> Field:
    return of.linear(lambda v: np.asarray(primitives.NUMPY["reduce_window_sum"](p, v)), x)


@_enter("select_and_scatter_add")
def _select_and_scatter_add(of: Algebra, p: Any, source: Field, x: Field) -> Field:
    least = p["select_prim"].name == "le"
    entries, places = _windowed(of, p, x, np.inf if least else -np.inf)
    best, index = functions.largest(of, entries, least)
    at = np.take_along_axis(places, index[None], 0)[0]

    def back(v: Array) -> Array:
        found = np.zeros(math.prod(x.shape))
        np.add.at(found, at, v)
        return found.reshape(x.shape)

    made = of.linear(back, source)
    return Field(**(vars(made) | {"doubt": made.doubt | best.doubt}))


@_enter("sort", "cummax", "cummin", "cumprod", "top_k")
def _of_constants(of: Algebra, p: Any, *xs: Value) -> Value:
    raise Undecided("an order of numbers")
