"""Is a model a perceptron, and which parameter is which layer's? Read off the jaxpr.

    H_0 = X;  Z_l = H_(l-1) W_l + b_l;  H_l = f(Z_l);  logits = Z_n

Names don't matter, only what is multiplied by what, in which order.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

from mlp_core.weights import WeightsError, canonical_names
from parity.kept import kept_with
from parity.levels.level import Skipped
from parity.levels.pair import Pair
from parity.rounding.jaxpr import Interpreter, primitives_of
from parity.sides.pairs import JaxSide
from parity.trees import Leaves

# What a ReLU perceptron is made of. Others may be right, but aren't what integer probes compute.
_PRIMITIVES = {"dot_general", "add", "max", "reshape", "broadcast_in_dim", "transpose", "squeeze",
               "convert_element_type", "copy", "optimization_barrier", "jit", "pjit", "closed_call",
               "custom_jvp_call", "custom_vjp_call"}  # fmt: skip
Layers = list[list[str]]
_SAME = {"convert_element_type", "copy", "optimization_barrier"}
_SPREAD = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims"}


class NoProbe(Skipped, ValueError):
    """The level can't be asked of this model; the message says why."""


class Parameter(NamedTuple):
    """A variable of the jaxpr that holds a parameter, perhaps transposed."""

    name: str
    turned: bool = False


class After(NamedTuple):
    """A variable computed from the inputs by so many layers."""

    layers: int


def perceptron(pair: Pair) -> dict[str, str]:
    """{W1: its name on the ladder, b1: ...} of a perceptron's parameters, from the inputs on.

    Raises NoProbe for a model that is none.
    """
    (X, _), side = next(iter(pair.batches.values())), pair.jax["float32"]
    if not isinstance(X, np.ndarray) or not np.issubdtype(X.dtype, np.floating):
        raise NoProbe("this level is for perceptrons; the inputs aren't one array of floats")
    layers, width = _layers(side, X.shape), int(np.prod(X.shape[1:]))
    params = side.params()
    try:
        return _checked(_lettered(layers), params, width)
    except NoProbe:
        # A port that forgets a bias, say, is one all the same if its names say so: let it be asked.
        try:
            named = canonical_names(params)[1]
        except WeightsError:
            named = {}
        if not named:
            raise
        return _checked(named, params, width)


def refuse_narrow(pair: Pair) -> None:
    """Raises NoProbe where both sides compute in a type whose own rounding hides what is asked."""
    if len(narrow := pair.narrower) == 2:
        kinds = ", ".join(f"{s} in {kind}" for s, kind in narrow.items())
        raise NoProbe(f"this level is for models that compute in float32; {kinds}")


def _lettered(layers: Layers) -> dict[str, str]:
    found: dict[str, str] = {}
    for i, layer in enumerate(layers, 1):
        if len(layer) != 2:
            raise NoProbe(f"this level is for perceptrons; layer {i} has the parameters {layer}")
        found |= zip((f"W{i}", f"b{i}"), layer, strict=True)
    return found


def _checked(own: dict[str, str], params: Mapping[str, np.ndarray], width: int) -> dict[str, str]:
    for i in range(1, len(own) // 2 + 1):
        shapes = [np.shape(params.get(own[f"{letter}{i}"], 0)) for letter in "Wb"]
        if len(shapes[0]) != 2 or shapes[0][0] != width or shapes[1] != shapes[0][1:]:
            raise NoProbe(
                f"this level is for perceptrons; '{own[f'W{i}']}' and its bias have shapes "
                f"{shapes[0]} and {shapes[1]} behind {width} units"
            )
        width = shapes[0][1]
    if len(set(own.values())) < len(own):
        raise NoProbe("this level is for perceptrons; two layers share a parameter")
    if not own or set(own.values()) != set(params):
        rest = sorted(set(params) - set(own.values()))
        raise NoProbe(f"this level is for perceptrons; no layer has the parameters {rest}")
    return own


def of_relu(side: JaxSide, X: np.ndarray) -> None:
    """Raises NoProbe for a model that computes with more than products, sums and ReLUs."""
    jaxpr = _traced(side, X.shape).jaxpr
    if strange := sorted(primitives_of(jaxpr) - _PRIMITIVES):
        raise NoProbe(f"this level is for ReLU perceptrons; the model uses {strange}")


@kept_with
def _traced(side: JaxSide, shape: tuple[int, ...]) -> core.ClosedJaxpr:
    """The model's output, of its parameters and inputs of this shape."""
    state, side = side.state(), side.on_floats()

    def output(params: Leaves, X: Any) -> Any:
        outputs = side.outputs(params, state, X)
        if len(outputs) != 1:
            raise NoProbe(f"this level is for perceptrons; the model has outputs {[*outputs]}")
        return next(iter(outputs.values()))

    with side._settings():
        X = jax.ShapeDtypeStruct(shape, side.dtype)
        return jax.make_jaxpr(output)(side.params(), X)


def _layers(side: JaxSide, shape: tuple[int, ...]) -> Layers:
    reader = _Reader()
    given = [*map(Parameter, sorted(side.params())), After(0)]  # a dict's leaves are sorted
    if reader.closed(_traced(side, shape), given) != [After(len(reader.layers))]:
        raise NoProbe("this level is for perceptrons; the last product isn't the output's")
    return reader.layers


class _Reader(Interpreter[Any]):
    """Follows parameters and inputs through a jaxpr. layers: [matrix, bias] of each product."""

    def __init__(self) -> None:
        self.layers: Layers = []

    def constant(self, x: Any, variable: Any) -> None:
        return None

    def equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        """What its results are: a Parameter, After some layers, or None for a constant."""
        name, first = eqn.primitive.name, operands[0] if operands else None
        if name in _SAME:
            return operands
        if isinstance(first, Parameter):
            if name == "transpose" and eqn.params["permutation"] == (1, 0):
                return [first._replace(turned=not first.turned)]
            if name in _SPREAD and len(eqn.invars[0].aval.shape) == 1:  # a bias, along the batch
                return [first]
        if name == "dot_general":
            return [self.product(eqn, operands)]
        named = [x for x in operands if isinstance(x, Parameter)]
        after = {x for x in operands if isinstance(x, After)}
        if name == "add" and self.layers and after == {After(len(self.layers))} and named:
            self.layers[-1].append(named[0].name)
            return [*after]
        if named or len(after) > 1:
            what = named[0].name if named else "the results of two layers"
            raise NoProbe(f"this level is for perceptrons; '{name}' takes {what}")
        return [next(iter(after), None)] * len(eqn.outvars)

    def product(self, eqn: Any, operands: list[Any]) -> After:
        (left, right), (batch, _) = eqn.params["dimension_numbers"]
        contracted = dict(zip(map(type, operands), (left, right), strict=True))
        named = [x for x in operands if isinstance(x, Parameter)]
        if (
            set(contracted) != {Parameter, After}
            or After(len(self.layers)) not in operands
            or batch
        ):
            raise NoProbe("this level is for perceptrons; a product isn't one layer's by the next")
        if contracted[Parameter] != (int(named[0].turned),):
            raise NoProbe(f"this level is for perceptrons; '{named[0].name}' isn't [in, out]")
        self.layers.append([named[0].name])
        return After(len(self.layers))
