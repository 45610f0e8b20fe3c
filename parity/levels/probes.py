"""Integer probes: weights, inputs and cotangents on which every arithmetic must give the same bits.

    H_0 = X;  Z_l = H_(l-1) W_l + b_l;  H_l = relu(Z_l);  logits = Z_n
    D_n = cotangent;  dW_l = H_(l-1)' D_l;  db_l = 1' D_l;  D_(l-1) = relu'(Z_(l-1)) (D_l W_l')

A product of A and B is exact in any order and on any device if every operand fits the input format
of the matrix unit and every partial sum is a multiple of one power of two, and below 2^24 of them:

    significant bits of every entry of A and B <= 8         (bfloat16; TF32 has 11, float32 24)
    sum |A| |B| < 2^24 lsb(A) lsb(B)

Both are checked on the integers themselves, in int64, forward and backward. So no tolerance exists,
not even on a TPU. The sign of a zero isn't judged: -0 + 0 depends on the order of summation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from parity.comparison import Comparison, compare, compare_trees
from parity.levels.level import Level
from parity.levels.pair import Pair
from parity.levels.perceptrons import NoProbe, of_relu, perceptron, refuse_narrow
from parity.sides.pairs import Pullback
from parity.sides.side import Arrays

OPERAND_BITS, SUM_BITS = 8, 24
TIES = (Fraction(1, 2), Fraction(0))  # what honest ReLUs have for a gradient at 0


class Unfit(Exception):
    """These integers don't stay exact: which layer asks for less."""

    def __init__(self, layer: int, reason: str) -> None:
        self.layer = layer
        super().__init__(f"layer {layer}: {reason}")


@dataclass(frozen=True)
class Probe:
    """Integers W1 b1 ... Wn bn (W [in, out]), inputs [batch, in], cotangent [batch, out], as int64.

    The cotangent is a multiple of 2^(hidden layers), so that halves at ReLU ties stay integers.
    """

    params: Arrays
    X: Int[np.ndarray, "batch inputs"]
    cotangent: Int[np.ndarray, "batch outputs"]

    @property
    def layers(self) -> int:
        return len(self.params) // 2

    def first(self, examples: int) -> "Probe":
        """The same with fewer examples: a partial batch."""
        return replace(self, X=self.X[:examples], cotangent=self.cotangent[:examples])


class Product(NamedTuple):
    """One product A B + b (b broadcast) of the exact evaluation, as far as rounding goes."""

    layer: int
    what: str
    A: np.ndarray
    B: np.ndarray
    b: np.ndarray


def build(sizes: Sequence[int], batch: int, seed: int = 0) -> Probe:
    """A probe for layers of these widths (inputs first) and a batch of this many examples.

    Weights are +-1 and +-2, dense where the sums allow it, thinned out layer by layer where they
    don't; the bias of every third hidden unit puts it at zero for some example, so that ties
    occur. Every leaf has a gradient, and in every hidden layer some tie is felt.
    Raises NoProbe where no thinning helps: a sum over the batch that reaches 2^24 whatever the
    weights, or a layer so much wider than its neighbour that even one weight a unit is too many.
    """
    reason = ""
    for attempt in range(8):
        density = [1.0] * (len(sizes) - 1)
        while True:
            probe = _draw(sizes, batch, density, np.random.default_rng([seed, attempt]))
            try:
                _check(probe)
            except Unfit as unfit:
                reason = str(unfit)
                # Below half a weight a unit only the way in and the way out are left: no thinner.
                thick = [i for i, p in enumerate(density) if p * min(sizes[i : i + 2]) > 0.5]
                if not thick:
                    break
                _, nearest = min((abs(i + 1 - unfit.layer), i) for i in thick)
                density[nearest] /= 2
                continue
            if not (blind := _blind(probe)):
                return probe
            reason = f"it would not feel {blind}"
            break
    shape = "-".join(map(str, sizes))
    raise NoProbe(f"no integer probe for a perceptron {shape} at batch {batch}: {reason}")


def exact(probe: Probe, tie: Fraction = TIES[0]) -> Pullback:
    """Logits and gradients in int64. tie: the gradient of ReLU at 0, 0 or 1/2."""
    H, Z = _forward(probe)
    gradients: Arrays = {}
    D = probe.cotangent
    for i in range(probe.layers, 0, -1):
        gradients |= {f"W{i}": _mul(H[i - 1].T, D), f"b{i}": D.sum(axis=0)}
        D = _mul(D, probe.params[f"W{i}"].T)
        if i > 1:
            D = _through_relu(D, Z[i - 1], tie)
    return Pullback(Z[-1], gradients, D)


def judge_probes(pair: Pair, precision: str) -> list[Comparison]:
    """Both sides against the integers, on a full and a partial batch: the same bits or a fault.

    Which gradient a tie has, 0 or 1/2, is read off the JAX side; Torch must have the same.
    Raises NoProbe for a model that isn't a ReLU perceptron.
    """
    own = perceptron(pair)
    refuse_narrow(pair)
    of_relu(pair.jax[precision], next(iter(pair.batches.values()))[0])
    sizes = [pair.params[own[f"W{i}"]].shape[0] for i in range(1, len(own) // 2 + 1)]
    sizes.append(pair.params[own[f"b{len(own) // 2}"]].size)
    batches = list(pair.batches.values())
    probe = build(sizes, max(len(y) for _, y in batches))
    found: list[Comparison] = []
    for X, y in batches:
        part = probe.first(len(y))
        results = {}
        params = {own[letter]: array for letter, array in part.params.items()}
        for s, side in pair.sides(precision).items():
            results[s] = side.pullback(params, part.X.reshape(X.shape), part.cotangent)
        found += against(results, part, own, f"integers, batch of {len(y)}", precision)
    return found


def against(
    results: Mapping[str, Pullback], probe: Probe, own: Mapping[str, str], name: str, dtype: str
) -> list[Comparison]:
    """Each side's result against the exact one. own: {canonical name: name in the results}."""
    expected = {tie: _typed(exact(probe, tie), own, dtype) for tie in TIES}
    first = next(iter(results.values())).gradients
    wrong = {
        tie: sum(int((first[k] != e.gradients[k]).sum()) for k in first)
        for tie, e in expected.items()
        if all(first[k].shape == e.gradients[k].shape for k in first)
    }
    tie = min(wrong, key=wrong.__getitem__) if wrong else TIES[0]
    right = expected[tie]
    found = []
    for s, result in results.items():
        sides = (s, "integers")
        logits, inputs = _plus(result.logits), _plus(result.inputs.reshape(right.inputs.shape))
        gradients = {key: _plus(leaf) for key, leaf in result.gradients.items()}
        found.append(compare(logits, right.logits, name=f"{name}: logits", sides=sides))
        label = f"{name}, relu'(0) = {tie}: gradients"
        found += compare_trees(gradients, right.gradients, name=label, sides=sides)
        found.append(compare(inputs, right.inputs, name=f"{label} by inputs", sides=sides))
    return found


def _draw(
    sizes: Sequence[int], batch: int, density: Sequence[float], rng: np.random.Generator
) -> Probe:
    hidden = len(sizes) - 2
    X = rng.integers(0, 4, (batch, sizes[0]))
    signs = rng.choice([-1, 1], (batch, sizes[-1]))
    cotangent = signs * rng.integers(1, 4, (batch, sizes[-1])) * 2**hidden
    params: Arrays = {}
    H = X
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        p = density[i - 1]
        W = rng.choice([-1, 1], (inputs, outputs)) * (1 + (rng.random((inputs, outputs)) < p / 2))
        kept = rng.random((inputs, outputs)) < p
        long = np.arange(max(inputs, outputs))  # every unit keeps a way in and a way out
        kept[rng.permutation(inputs)[long % inputs], long % outputs] = True
        b = rng.choice([-1, 1], outputs) * rng.integers(1, 5, outputs)
        Z = _mul(H, W * kept)
        if i <= hidden:
            tied = np.arange(0, outputs, 3)
            b[tied] = -Z[(7 * tied) % batch, tied]
        params |= {f"W{i}": W * kept, f"b{i}": b}
        H = np.maximum(Z + b, 0)
    return Probe(params, X, cotangent)


def _forward(probe: Probe) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(H_0 ... H_(n-1), Z_0 ... Z_n), where Z_0 is X too."""
    H, Z = [probe.X], [probe.X]
    for i in range(1, probe.layers + 1):
        Z.append(_mul(H[-1], probe.params[f"W{i}"]) + probe.params[f"b{i}"])
        H.append(np.maximum(Z[-1], 0))
    return H[:-1], Z


def _mul(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """A @ B of integers, by float64's fast product: no sum of it reaches 2^53."""
    if len(B) * int(np.abs(A).max(initial=0)) * int(np.abs(B).max(initial=0)) >= 2**53:
        return A @ B
    return (A.astype(float) @ B.astype(float)).astype(np.int64)


def _through_relu(D: np.ndarray, Z: np.ndarray, tie: Fraction) -> np.ndarray:
    at_tie = D * tie.numerator // tie.denominator  # even, by the cotangent's power of two
    return np.where(Z > 0, D, np.where(Z == 0, at_tie, 0))


def _products(probe: Probe, tie: Fraction) -> Iterator[Product]:
    """Every product of the evaluation, forward then backward, with the layer that can cure it."""
    H, Z = _forward(probe)
    for i in range(1, probe.layers + 1):
        W, b = probe.params[f"W{i}"], probe.params[f"b{i}"]
        # An activation that is too large was made by the weights of the layer before.
        yield Product(max(i - 1, 1), f"inputs of layer {i}", H[i - 1], W[:, :0], b[:0])
        yield Product(i, f"sums of layer {i}", H[i - 1], W, b)
    D = probe.cotangent
    nothing = np.zeros(1, np.int64)
    for i in range(probe.layers, 0, -1):
        W = probe.params[f"W{i}"]
        yield Product(min(i + 1, probe.layers), f"gradient of W{i}", H[i - 1].T, D, nothing)
        yield Product(i, f"gradient by the inputs of layer {i}", D, W.T, nothing)
        D = _mul(D, W.T)
        if i > 1:
            D = _through_relu(D, Z[i - 1], tie)
            yield Product(i, f"gradient below layer {i}", D, W[:, :0], nothing[:0])


def _check(probe: Probe) -> None:
    """Raises Unfit at the first product that some order or device could round."""
    for tie in TIES:
        for layer, what, A, B, b in _products(probe, tie):
            for operand in (A, B):
                odd = np.abs(operand) // np.maximum(operand & -operand, 1)
                if odd.size and (bits := int(odd.max()).bit_length()) > OPERAND_BITS:
                    raise Unfit(layer, f"{what} take {bits} significant bits of {OPERAND_BITS}")
            if B.size:
                most = int((_mul(np.abs(A), np.abs(B)) + np.abs(b)).max())
                unit = min(_lsb(A) * _lsb(B), _lsb(b))
                if most >= unit * 2**SUM_BITS:
                    raise Unfit(layer, f"{what} reach {most / unit:.3g} units of 2^{SUM_BITS}")


def _blind(probe: Probe) -> str:
    """What the probe would not show: a leaf without a gradient, a layer whose ties are not felt."""
    half, none = (exact(probe, tie).gradients for tie in TIES)
    dead = [name for name, leaf in half.items() if not leaf.any()]
    hidden = range(1, probe.layers)
    dead += [f"ties of layer {i}" for i in hidden if (half[f"b{i}"] == none[f"b{i}"]).all()]
    return ", ".join(dead)


def _lsb(x: np.ndarray) -> int:
    """The largest power of two that divides every entry; 2^62 if all are zero."""
    bits = x & -x
    return int(bits[bits != 0].min(initial=2**62))


def _typed(one: Pullback, own: Mapping[str, str], dtype: str) -> Pullback:
    gradients = {own[key]: leaf.astype(dtype) for key, leaf in one.gradients.items()}
    return Pullback(one.logits.astype(dtype), gradients, one.inputs.astype(dtype))


def _plus(x: np.ndarray) -> np.ndarray:
    return x + np.zeros((), x.dtype)  # -0 + 0 is 0


LEVEL = Level(
    "probes",
    "Small integers through the model and back: the same bits, whatever the arithmetic?",
    "same bits",
    judge_probes,
    ("float32",),
    needs="gradient",
)
