"""Every product of the model alone: exact on integers, and with how many bits of its operands.

A product is repeated where the side computes it, of the same shapes, layout and settings, with
numbers of which the result is known:

    integers below 8              each sum is below 2^24: same bits in any order and any format
    a single 1 and 24-bit numbers     the result is these, as the product's input format holds them

So both operands of every matrix product, convolution and fused attention of a training step are
measured, forward and backward, of any model. What else the compiler joins to a product isn't seen.
A product of a narrower type, on one side alone, has that type's bits. One of bytes by floats is
asked without its division by 255: bytes have 8 bits, the floats 24, in three passes of bfloat16.
"""

import math
from collections.abc import Iterator

import numpy as np

from parity.comparison import Comparison, compare
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.levels.precision import Product, measured
from parity.sides.bilinear import Attention, Bilinear, Operand, Products

LARGEST = 2**26  # elements of an operand or a result
SHARP = 128.0  # apart in a softmax: exp(-128) is 0 beside 1 in float32
SCORES = 17  # bits of a score that its softmax shows at least; three passes of bfloat16 have 16
BYTE = 8  # bits of an operand that has no more, nor a sign
SIGNIFICANT = 8.0  # integers below it


def judge_products(pair: Pair, precision: str) -> list[Comparison]:
    """Every product of both sides, or Skipped where there is none to judge."""
    if len(pair.narrower) == 2:
        kinds = ", ".join(f"{s} in {kind}" for s, kind in pair.narrower.items())
        raise Skipped(f"this level is for models that compute in float32; {kinds}")
    found: list[Comparison] = []
    for s, products in of_step(pair).items():
        for one in products.bilinear:
            found += _judged(s, one)
        for fused in products.attention:
            found += _attention(s, fused)
    if not found:
        raise Skipped("neither side makes a product that can be repeated alone")
    return found


def of_step(pair: Pair) -> dict[str, Products]:
    """{side: its products}, kept."""
    key = "products", "of a step"
    if key not in pair.kept:
        (inputs, targets), infer = next(iter(pair.batches.values())), pair.infer
        infer = infer or pair.outputs_alone
        sides = pair.sides("float32").items()
        pair.kept[key] = {s: side.products(inputs, targets, infer) for s, side in sides}
    return pair.kept[key]


def _judged(side: str, one: Bilinear) -> Iterator[Comparison]:
    name = f"{side} {one.name}"
    if max(math.prod(one.left.shape), math.prod(one.right.shape)) > LARGEST:
        return
    if one.dtype == "float32":
        yield _integers(side, one, name)
    for operand, product in zip(("left", "right"), measured_operands(one), strict=True):
        if product is not None:
            yield measured(side, product, f"{name}, {operand} operand")


def _integers(side: str, one: Bilinear, name: str) -> Comparison:
    """Integers of both signs, but for bytes: the result is the exact one, bit by bit."""
    rng = np.random.default_rng(0)
    size = min(SIGNIFICANT, math.sqrt(2**24 / max(one.left.terms, one.right.terms)))
    a, b = (
        rng.integers((1 - int(size)) * (o.bits != BYTE), int(size), o.shape).astype(np.float32)
        for o in (one.left, one.right)
    )
    got, expected = one.compute(a, b) + 0, one.exact(a, b).astype(np.float32) + 0  # -0 + 0 is 0
    return compare(got, expected, name=f"{name}, integers", sides=(side, "exact"))


def measured_operands(one: Bilinear) -> list[Product | None]:
    """What comes out for (left, right) operands of 24 bits; None for one that can't be seen alone,
    since some sum has more than one term whatever the other operand."""
    found: list[Product | None] = []
    for turned in (False, True):
        own, other = (one.right, one.left) if turned else (one.left, one.right)
        X, single = _random(own), other.one_each()
        given, ones = ((X, single), (np.ones_like(X), single))
        if turned:
            given, ones = given[::-1], ones[::-1]
        exact, terms = one.exact(*given), one.exact(*ones)
        seen = exact != 0
        if (terms > 1).any() or not seen.any():
            found.append(None)
            continue
        got = one.compute(*given)[seen]
        found.append(Product(one.name, exact[seen].astype(np.float32), got.astype(np.float32)))
    return found


def _attention(side: str, one: Attention) -> Iterator[Comparison]:
    yield measured(side, attended_values(one), f"{side} {one.name}, values")
    yield measured(side, attended_scores(one), f"{side} {one.name}, scores", SCORES)


def attended_values(one: Attention) -> Product:
    """Each query attends to one key alone, so its value comes out, as the product holds it.

    Keys are distinct rows of signs; a query is its key, so long that any other score is SHARP less.
    """
    length, size = one.keys[-2:]
    V = _random(Operand(one.values, (0,)))
    if one.causal:  # all see the first key, and the others are its opposite
        signs = np.where(np.arange(length)[:, None] == 0, 1.0, -np.ones((length, size)))
        chosen = np.zeros(one.queries[-2], int)
    else:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (length, size))
        first = np.sort(np.unique(signs, axis=0, return_index=True)[1])
        chosen = first[np.arange(one.queries[-2]) % len(first)]
        alike = (signs[:, None] == signs[chosen]).all(-1)  # they share the weight
        for key, query in np.argwhere(alike):
            V[..., key, :] = V[..., chosen[query], :]
    long = 2.0 ** math.ceil(math.log2(SHARP / (2 * one.scale)))
    Q, K = np.broadcast_to(long * signs[chosen], one.queries), np.broadcast_to(signs, one.keys)
    got = one.compute(*(np.array(x, np.float32) for x in (Q, K)), V)
    given = _heads(V, got.shape)[..., chosen, :]
    return Product(one.name, given.ravel(), got.ravel())


def attended_scores(one: Attention) -> Product:
    """The share of two keys tells the score of the first: out = 1/(1 + exp(-score)).

    q = (s, 1, 0, ...), the first two keys (1, 0, ...) and 0, all others far below. What comes out
    is 24 bits of a number whose score is told to 2^-20 by it.
    """
    length, size = one.keys[-2:]
    queries = one.queries[-2]
    rng = np.random.default_rng(1)
    s = _bits(rng, (queries,)) / np.float32(2 ** round(math.log2(one.scale)))
    Q, K, V = (np.zeros(shape, np.float32) for shape in (one.queries, one.keys, one.values))
    Q[..., 0], Q[..., 1] = s, 1
    K[..., 0, 0], K[..., 2:, 1] = 1, -np.float32(2 ** math.ceil(math.log2(SHARP / one.scale)))
    V[..., 0, :] = 1
    got = one.compute(Q, K, V).astype(np.float64)
    seen = slice(1 if one.causal else 0, None)  # the first query sees the first key alone
    out = got[..., seen, 0].ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.log(out) - np.log1p(-out)
    given = np.broadcast_to(s[seen] * one.scale, got[..., seen, 0].shape).ravel()
    return Product(one.name, given, score)


def _heads(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Values as the result has them, where several heads of queries share one of values."""
    if len(shape) < 4 or values.shape[1] == shape[1]:
        return values
    return np.repeat(values, shape[1] // values.shape[1], axis=1)


def _random(operand: Operand) -> np.ndarray:
    rng = np.random.default_rng(0)
    if operand.bits == BYTE:
        return rng.integers(2 ** (BYTE - 1), 2**BYTE, operand.shape).astype(np.float32)
    return _bits(rng, operand.shape)


def _bits(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 numbers in [1, 2) with all 24 bits in use."""
    return (1 + rng.integers(1, 2**23, shape) * 2.0**-23).astype(np.float32)


def _note(pair: Pair, precision: str) -> str:
    found = of_step(pair)
    unknown = [f"{s} {name}" for s, p in found.items() for name in p.unknown]
    return f"not asked, for their products can't be repeated: {', '.join(unknown)}" * bool(unknown)


def on_accelerator(pair: Pair) -> bool:
    return pair.on_accelerator


def asked_unasked(pair: Pair) -> bool:
    """Also where images are bytes: a pass too few would hide in the bound of a long sum."""
    return pair.on_accelerator or getattr(pair.jax["float32"], "images", "floats") == "bytes"


LEVEL = Level(
    "products",
    "Each matrix product, convolution and attention alone: exact on integers, with all 24 bits?",
    "same bits; half an ulp of float32",
    judge_products,
    ("float32",),
    _note,
    needs="gradient",
    applies=asked_unasked,
)
