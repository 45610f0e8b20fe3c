"""Effective precision: how many bits of an operand each matrix product really uses.

A row of the identity times W is a row of W, exactly, in any order of summation: what comes out is W
as the product's input format holds it. So all layers but one are rectangular identities, that one
has random weights of 24 bits, and the bits that survive are counted:

    float32 24, bfloat16 in three passes or in two of bytes 16, TF32 and float16 11, bfloat16 8

The products of the backward pass are measured with random cotangents in the same way. A product is
seen through those that follow it, so a low figure belongs to the last product that has it.

Numbers must pass the activations unchanged, and their cotangents too. ReLU lets 1 pass, every GELU
what is large; tanh what is small, for it is x (1 - x^2/3 ...). Nothing passes a sigmoid.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from parity.comparison import Comparison, compare
from parity.levels.level import Level, Result
from parity.levels.pair import Pair
from parity.levels.perceptrons import NoProbe, perceptron, refuse_narrow
from parity.sides.side import Differentiable, Pullback
from parity.trees import Arrays

# Sizes of numbers to try: for ReLU; for GELU, whose erf is 1 there; for tanh, where 1 + x is 1.
UNITS = (1.0, 2.0**7, 2.0**-30)
INPUTS = "input gradient"
MEASURED = ("precision", "products")  # the levels that count bits
FEWEST = 7  # bits: a format has more, for bfloat16 has 8
FORMATS = {
    24: "float32",
    16: "bfloat16 in three passes, or in two of bytes",
    11: "TF32 or float16",
    8: "bfloat16",
}
CURES = {
    "jax": "jax.default_matmul_precision('highest'), or a dtype or precision set in the model",
    "torch": "torch.set_float32_matmul_precision('highest'), or autocast or a dtype in the model",
}


@dataclass(frozen=True)
class Product:
    """One matrix product: which, what went in, what came out; both [n]."""

    name: str
    given: np.ndarray
    got: np.ndarray

    @property
    def bits(self) -> float:
        """Effective bits: significant ones in what came out, the most of any element.

        Half of all numbers rounded to p bits use the last, so n elements show p but for a chance of
        2^-n. What came out with more bits than its error has, but other ones, is counted by its
        error: two numbers of 8 bits that are added (three passes of bfloat16) may lie far apart.
        """
        got = self.got.astype(np.float64)
        if not np.isfinite(got).all():
            return math.nan
        if (got == self.given).all():
            return 24.0
        fraction, _ = np.frexp(got)
        digits = np.abs(fraction * 2.0**24).astype(np.int64)
        lowest = np.where(digits, digits & -digits, 2**24)
        bits = 24 - math.log2(lowest.min())
        right = -math.log2(float(np.max(np.abs(got / self.given - 1))))
        return right if bits == 24 or right < bits - 1 else bits  # rounded or cut: 2^(1-p)

    @property
    def rounded(self) -> bool:
        """Whether what came out is what went in, in fewer bits: no further off than p bits round or
        cut, by 2^(1-p), and not all of it by one factor. p < FEWEST is no format."""
        got = self.got.astype(np.float64)
        if not np.isfinite(got).all() or self.bits < FEWEST:
            return False
        off = got / self.given - 1
        one_factor = self.bits < 24 and np.ptp(off) < np.abs(off.mean()) / 2 and self.got.size > 1
        return bool(np.abs(off).max() <= 2 ** (1 - self.bits)) and not one_factor


@np.errstate(over="ignore")  # what overflows is named
def measure(
    side: Differentiable, names: dict[str, str], shape: tuple[int, ...], unit: float = 1.0
) -> list[Product]:
    """All products of a perceptron. names: {W1: its name on this side, b1: ...}.

    shape: of one input example. unit: a power of two that passes the activations, see `passing`.
    """
    sizes = _sizes(side, names)
    rows, layers = min(sizes), range(1, len(sizes))
    rng = np.random.default_rng(0)
    nothing = np.zeros((rows, sizes[-1]), np.float32)
    found = []
    for k in layers:
        W = _random(rng, (sizes[k - 1], sizes[k]))
        logits = _through(side, names, shape, unit, nothing, {f"W{k}": W}).logits / unit
        columns = min(sizes[k:])
        found.append(
            Product(f"forward {k}", W[:rows, :columns].ravel(), logits[:, :columns].ravel())
        )
    # Unit r is active in row r alone: there the cotangent comes through unchanged.
    diagonal = np.arange(rows), np.arange(rows)
    cotangent = _random(rng, (rows, sizes[-1]))
    back = _through(side, names, shape, unit, cotangent)
    for k in layers:
        gradient = back.gradients[names[f"W{k}"]][diagonal] / unit
        found.append(Product(f"weight gradient {k}", cotangent[diagonal], gradient))
    by_X = back.inputs.reshape((rows, sizes[0]))
    found.append(Product(INPUTS, cotangent[diagonal], by_X[diagonal]))
    return found


def passing(side: Differentiable, names: dict[str, str], shape: tuple[int, ...]) -> float:
    """The first of UNITS that passes the activations of a perceptron, forward and backward.

    Operands are powers of two here, so that every product is exact in any format.
    Raises NoProbe if there is none.
    """
    rows = min(_sizes(side, names))
    for unit in UNITS:
        cotangent = np.eye(rows, _sizes(side, names)[-1], dtype=np.float32)
        one = _through(side, names, shape, unit, cotangent)
        there, back = np.diag(one.logits), np.diag(one.inputs.reshape((rows, -1)))
        if (there == unit).all() and (back == 1).all():
            return unit
    raise NoProbe("no number passes these activations unchanged, so bits can't be counted")


def _through(
    side: Differentiable,
    names: dict[str, str],
    shape: tuple[int, ...],
    unit: float,
    cotangent: np.ndarray,
    other: Arrays | None = None,
) -> Pullback:
    """unit times the identity through layers that are rectangular identities, but for `other`."""
    sizes = _sizes(side, names)
    layers = range(1, len(sizes))
    eye = {f"W{i}": np.eye(sizes[i - 1], sizes[i]) for i in layers}
    flat = {f"b{i}": np.zeros(sizes[i]) for i in layers}
    params = {names[key]: a.astype(np.float32) for key, a in (eye | flat | (other or {})).items()}
    X = (unit * np.eye(min(sizes), sizes[0])).reshape((-1, *shape)).astype(np.float32)
    return side.pullback(params, X, cotangent)


def judge_precision(pair: Pair, precision: str) -> list[Comparison]:
    """Every product of both sides keeps all 24 bits of float32, or is named.

    Raises NoProbe for a model that isn't a perceptron, or whose activations let nothing pass.
    """
    own = perceptron(pair)
    refuse_narrow(pair)
    shape = next(iter(pair.batches.values()))[0].shape[1:]
    unit = passing(pair.jax[precision], own, shape)
    layers = range(1, len(own) // 2 + 1)  # Torch has no gradient of a frozen one
    frozen = {f"weight gradient {k}" for k in layers if own[f"W{k}"] in pair.frozen}
    return [
        measured(s, product, f"{s} product {product.name}")
        for s, side in pair.sides(precision).items()
        for product in measure(side, own, shape, unit)
        if product.name not in frozen
    ]


def measured(side: str, product: Product, label: str, full: int = 24) -> Comparison:
    """Whether a product keeps all bits of its operand, or at least `full`; else which format."""
    bits = f": {product.bits:.1f} effective bits" if product.rounded else ""
    room = 2.0**-full * np.abs(product.given)
    judged = compare(
        product.got.astype(np.float64),
        product.given.astype(np.float64),
        room,
        name=f"{label}{bits}",
        sides=(side, "given"),
    )
    if judged.ok:
        return judged
    if not product.rounded:
        return replace(judged, problem=_other(judged, product))
    nearest = FORMATS[min({*FORMATS} - {24}, key=lambda bits: abs(bits - product.bits))]
    return replace(judged, problem=f"as of {nearest}, expected 24. To cure it: {CURES[side]}")


def bits_used(side: str, results: Iterable[Result]) -> str:
    """The fewest bits of an operand that a product of a side was seen to use, by this level or by
    "products"."""
    names = (c.name for r in results if r.level.name in MEASURED for c in r.comparisons)
    told = (re.search(r"([\d.]+) effective bits$", n) for n in names if n.startswith(f"{side} "))
    bits = [float(found[1]) for found in told if found]
    return f"{min(bits):g}" if bits else "not measured"


def _other(c: Comparison, product: Product) -> str:
    """What to say of a product whose numbers no format of fewer bits makes of those given."""
    got = "0 everywhere" if not product.got.any() else f"{c.left!r} at {c.index} for {c.right!r}"
    said = f"{got}: other numbers, not fewer bits"
    if product.name != INPUTS:
        return said
    return f"{said}; the inputs' gradient trains nothing here, but would train what gives them"


def _sizes(side: Differentiable, names: dict[str, str]) -> list[int]:
    params = side.params()
    layers = range(1, len(names) // 2 + 1)
    return [params[names["W1"]].shape[0], *(params[names[f"W{i}"]].shape[1] for i in layers)]


def _random(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 numbers in [1, 2) with all 24 bits in use."""
    return (1 + rng.integers(1, 2**23, shape) * 2.0**-23).astype(np.float32)


LEVEL = Level(
    "precision",
    "Does every matrix product use all 24 bits of its float32 operands?",
    "half an ulp of float32",
    judge_precision,
    ("float32",),
    needs="gradient",
)
