"""Masks: which hidden units are active for which example, read off both sides.

    H_l = relu(Z_l),  Z_l = H_(l-1) W_l + b_l;    active where H_l > 0

What goes into a matrix product is what the layer before made active, however it was written. A unit
may be active on one side alone only where rounding may turn the sign of Z: |Z| <= bound. Any other
flip is a fault, even one that changes no logit.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Bool, Float

from parity.comparison import Comparison, compare
from parity.kept import kept_with
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.levels.perceptrons import of_relu, perceptron
from parity.rounding.bound import bound
from parity.rounding.jaxpr import Interpreter
from parity.sides.pairs import JaxSide
from parity.sides.reference import ROUNDOFF
from parity.sides.side import SIDES


@dataclass(frozen=True)
class Layer:
    """One hidden layer on the examples of all batches. Z: float64 values; bound: how far rounding
    may move them. uncertain: where that may turn a sign. read: {side: (Z, H)}, as it computed them.
    """

    name: str
    Z: Float[np.ndarray, "examples units"]
    bound: Float[np.ndarray, "examples units"]
    uncertain: Bool[np.ndarray, "examples units"]
    read: dict[str, tuple[np.ndarray, np.ndarray]]

    def active(self, side: str) -> np.ndarray:
        """1 or 0 of each unit; NaN stays, and fails."""
        _, H = self.read[side]
        return np.where(np.isnan(H), np.nan, H > 0)

    def at(self, example: int, unit: int) -> str:
        place, values = (example, unit), {s: Z for s, (Z, _) in self.read.items()}
        shown = ", ".join(f"{s} {Z[place]:.9g}" for s, Z in values.items())
        return f"{self.name} example {example} unit {unit}: {shown}, bound {self.bound[place]:.3g}"


def judge_masks(pair: Pair, precision: str) -> list[Comparison]:
    """Every hidden unit of every example is active on both sides or on neither, or uncertain.

    Raises NoProbe for a model that isn't a ReLU perceptron, Skipped for one whose products can't be
    read off.
    """
    found = []
    layers = layers_of(pair, precision)
    if not layers:
        raise Skipped("the models have no hidden layer")
    for layer in layers:
        expected = (layer.Z > 0).astype(np.float64)
        room = layer.uncertain.astype(np.float64)
        for s in SIDES:
            judged = compare(
                layer.active(s), expected, room, name=f"{layer.name} active", sides=(s, "expected")
            )
            found.append(judged if judged.ok else _named(layer, s, judged))
    return found


def note_masks(pair: Pair, precision: str) -> str:
    """How many signs are uncertain, and the first few of them."""
    layers = layers_of(pair, precision)
    places = [(one, int(e), int(u)) for one in layers for e, u in np.argwhere(one.uncertain)]
    total = sum(one.uncertain.size for one in layers)
    listed = "".join(f"; {one.at(e, u)}" for one, e, u in places[:4])
    return f"{len(places)} of {total:,} signs of pre-activations uncertain{listed}"


def layers_of(pair: Pair, precision: str) -> list[Layer]:
    """All hidden layers, with what both sides computed; kept for the next caller."""
    kept, key = pair.kept, ("masks", "torch", precision)
    if key in kept:
        return kept[key]
    own = perceptron(pair)
    X = np.concatenate([X for X, _ in pair.batches.values()])
    if (shared := ("masks", precision)) not in kept:  # whatever Torch does
        of_relu(pair.jax[precision], X)
        params = {letter: pair.params[name].astype(precision) for letter, name in own.items()}
        with jax.enable_x64(precision == "float64"):
            b = bound(signs, params, X.astype(precision), roundoff=ROUNDOFF[precision])
        kept[shared] = b, jax_hidden(pair.jax[precision], X)
    b, ours = kept[shared]
    read = {"jax": ours, "torch": pair.torch[precision].hidden(X)}
    shapes = [np.shape(Z) for Z, _ in b.value]
    for s, hidden in read.items():
        if (own_shapes := [H.shape for _, H in hidden]) != shapes:
            raise Skipped(
                f"{s}: products are given {own_shapes} behind the inputs, not the hidden layers "
                f"{shapes}"
            )
    found = []
    for i, ((Z, _), (room, uncertain)) in enumerate(zip(b.value, b.bound, strict=True)):
        pairs = {s: arrays[i] for s, arrays in read.items()}
        found.append(Layer(f"layer {i + 1}", Z, room, uncertain > 0, pairs))
    kept[key] = found
    return found


def signs(params: Any, X: Any) -> list[tuple[Any, Any]]:
    """(Z_l, Z_l > 0) of each hidden layer of the ReLU perceptron W1 b1 ... Wn bn.

    Its bounds are those of Z, and of the sign: 1 where rounding may turn it.
    """
    found, H = [], X.reshape((len(X), -1))
    for i in range(1, len(params) // 2):
        Z = H @ params[f"W{i}"] + params[f"b{i}"]
        found.append((Z, Z > 0))
        H = jnp.maximum(Z, 0)
    return found


def jax_hidden(side: JaxSide, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(Z, H) of each hidden layer of the JAX model at its loaded weights; see TorchSide.hidden."""
    return jax.device_get(_reader(side)(side.params(), X.astype(side.dtype)))


_FOLLOWED = ("add", "optimization_barrier", "transpose")  # from a product to its layer's result


@kept_with
def _reader(side: JaxSide) -> Any:
    """Compiled: (params, X) -> [(Z, H)]."""

    def hidden(params: Any, X: Any) -> list[tuple[Any, Any]]:
        closed = jax.make_jaxpr(lambda params, X: side.outputs(params, side.state(), X))(params, X)
        walk = _Products()
        walk.closed(closed, jax.tree.leaves((params, X)))
        return [(Z, H) for (_, Z), (H, _) in itertools.pairwise(walk.products)]

    return side.compiled(hidden)


class _Products(Interpreter[Any]):
    """Evaluates a jaxpr, forward only. products: [inputs, result with its bias] of each.

    A narrow layer's product is W^T X^T behind a barrier, see jax_mlp.layers: turned back, it's the
    same.
    """

    def __init__(self) -> None:
        self.products: list[list[Any]] = []

    def constant(self, x: Any, variable: Any) -> Any:
        return x

    def equation(self, eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        out: Any = eqn.primitive.bind(*operands, **eqn.params)
        results = out if eqn.primitive.multiple_results else [out]
        if eqn.primitive.name in ("dot_general", "by_bytes"):
            turned = eqn.params.get("dimension_numbers", ((),))[0] == ((1,), (1,))
            self.products.append([operands[turned], out])
        elif eqn.primitive.name in _FOLLOWED and self.products:
            if any(x is self.products[-1][1] for x in operands):
                self.products[-1][1] = results[0]
        return results


def _named(layer: Layer, side: str, judged: Comparison) -> Comparison:
    """The flip in words: layer, example, unit, both pre-activations, and the bound."""
    if not judged.index:
        return judged
    flips = int((layer.active(side) != (layer.Z > 0))[~layer.uncertain].sum())
    wrongly = "active" if layer.read[side][1][judged.index] > 0 else "not active"
    problem = f"{flips:,} flipped outside the uncertain set; {layer.at(*judged.index)}: {wrongly}"
    return replace(judged, problem=problem)


LEVEL = Level(
    "masks",
    "Same hidden units active for each example?",
    "equal, but where rounding may turn the sign",
    judge_masks,
    note=note_masks,
)
