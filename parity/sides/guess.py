"""weights="guess": which Torch parameter is which of JAX's, from shapes, names and order.

Parameters are taken by layers: a kernel and its bias go to one partner. A layer's partner is the
only one whose shapes fit; else, of those that fit, the one whose name is most like its own, each
way; else, of layers that differ in their numbers alone, the one at the same place in their order.
What is left has two choices, and is refused. A list (W, b) is a layer; where names don't tell
weights from biases at all, every parameter is taken for itself.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from parity.sides.layer_names import ROLE_OF, LayerName, in_order, likeness, read, role_and_layer
from parity.trees import Arrays

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
PACKED = {"qkv", "in", "attn"}  # words of a layer that holds q, k and v in this order


class Way(NamedTuple):
    """How an array comes from Torch's. text: its expression, after the array's own."""

    text: str
    move: Callable[[np.ndarray], np.ndarray]


class Piece(NamedTuple):
    """A parameter, or one of the equal parts of it."""

    name: str
    shape: Shape
    word: str = ""
    rows: slice | None = None

    @property
    def text(self) -> str:
        cut = f"[{self.rows.start}:{self.rows.stop}]" if self.rows else ""
        return f't["{self.name}"]{cut}'


@dataclass(frozen=True)
class Layer:
    """kind: of Torch's layers, see `layer_kinds` there; "" is any other."""

    name: LayerName
    pieces: dict[str, Piece]
    kind: str = ""


class Guess:
    """Torch's {name: array} -> JAX's {path: array}. text: the same, to paste as weights=."""

    def __init__(self, moves: Mapping[str, tuple[Piece, Way]], table: bool) -> None:
        self._moves = dict(moves)
        lines = {ours: piece.text + way.text for ours, (piece, way) in moves.items()}
        self.text = (
            _dict({ours: f'"{piece.name}"' for ours, (piece, _) in moves.items()})
            if table
            else _function(lines)
        )

    def __call__(self, arrays: Arrays) -> dict[str, Any]:
        found = {}
        for ours, (piece, way) in self._moves.items():
            array = arrays[piece.name]
            found[ours] = way.move(array if piece.rows is None else array[piece.rows])
        return found


def guess(
    jax: Shapes, torch: Shapes, kinds: Mapping[str, str], as_torch: Collection[str] = ()
) -> Guess:
    """The one way in which these parameters are each other's.

    torch: as in a state_dict. kinds: {Torch's name: kind of its layer}. as_torch: JAX's matrices
    that are known to lie [out, in].

    A linear kernel is turned to [in, out], a convolution's to [..., in, out]. A square matrix with
    a name that doesn't tell how it lies may lie either way. Gates of recurrent layers have no order
    that shapes or names would tell.
    Raises ValueError, with what fits where, and the clear part to paste, if it isn't clear.
    """
    ours, theirs = _layers(jax), _torch_layers(torch, kinds, jax)
    if any(not _fits(ours, theirs, as_torch, loose=True)[a] for a in _roleless(ours)):
        ours, theirs = _each_alone(ours), _each_alone(theirs)  # shapes must tell, without layers
    for loose in (False, True):  # W is [in, out], as here and in haiku, unless that fits nowhere
        fits = _fits(ours, theirs, as_torch, loose)
        if all(fits.values()):
            break
    found = _matched(ours, theirs, {a: set(f) for a, f in fits.items()})
    moves, open_ = {}, {}
    for a, own in ours.items():
        for role, piece in own.pieces.items():
            choices = [
                (theirs[b].pieces[role], way)
                for b in ([found[a]] if a in found else fits[a])
                for way in fits[a][b][role]
            ]
            if len(choices) == 1 and a in found and theirs[found[a]].kind != "gates":
                moves[piece.name] = choices[0]
            else:
                open_[piece] = [p.text + way.text for p, way in choices]
    moves = {name: moves[name] for name in jax if name in moves}
    taken = {piece.name for piece, _ in moves.values()}
    if open_ or taken != set(torch):
        lone = {name: shape for name, shape in torch.items() if name not in taken}
        raise ValueError(_refusal(moves, open_, lone))
    table = all(
        piece.rows is None
        and way.text == (".T" if kinds.get(piece.name) == "linear" and name not in as_torch else "")
        and (name not in as_torch or kinds.get(piece.name) == "linear")
        for name, (piece, way) in moves.items()
    )
    return Guess(moves, table)


def _fits(
    ours: Mapping[str, Layer],
    theirs: Mapping[str, Layer],
    as_torch: Collection[str],
    loose: bool,
) -> dict[str, dict[str, dict[str, list[Way]]]]:
    return {
        a: {b: w for b, its in theirs.items() if (w := _ways(own, its, as_torch, loose))}
        for a, own in ours.items()
    }


def _roleless(layers: Mapping[str, Layer]) -> list[str]:
    """The layers of one parameter whose name doesn't say whether it is a weight or a bias."""
    return [
        at
        for at, layer in layers.items()
        if len(layer.pieces) == 1 and not next(iter(layer.pieces.values())).word
    ]


def _each_alone(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Every parameter as a layer of its own."""
    return {
        f"{at}.{role}": Layer(
            LayerName(
                (*layer.name.words, *([role] if len(layer.pieces) > 1 else [])), layer.name.numbers
            ),
            {"weight": piece},
            layer.kind if role == "weight" or layer.kind == "gates" else "",
        )  # fmt: skip
        for at, layer in layers.items()
        for role, piece in layer.pieces.items()
    }


def _matched(
    ours: Mapping[str, Layer], theirs: Mapping[str, Layer], fits: dict[str, set[str]]
) -> dict[str, str]:
    """{layer: its partner}, of those that are clear."""
    found: dict[str, str] = {}
    while True:
        left = {a: fits[a] - set(found.values()) for a in ours if a not in found}
        free = set(theirs) - set(found.values())
        takers = {b: {a for a in left if b in left[a]} for b in free}
        new = [(a, next(iter(bs))) for a, bs in left.items() if len(bs) == 1]
        if len(left) == len(free):
            new += [(next(iter(s)), b) for b, s in takers.items() if len(s) == 1]
        new = new[:1] or _by_name(ours, theirs, left, takers)
        if not new:
            return found
        found.update(new)


def _by_name(
    ours: Mapping[str, Layer],
    theirs: Mapping[str, Layer],
    left: Mapping[str, set[str]],
    takers: Mapping[str, set[str]],
) -> list[tuple[str, str]]:
    """Pairs of one group of layers that differ in their numbers alone, with the group most like it
    in name, each way."""
    for a, bs in left.items():
        rivals = {r for b in bs for r in takers[b]}
        one, other = _groups(ours, rivals), _groups(theirs, bs)
        mine = ours[a].name.meaning
        best = _most_like(mine, other)
        if best is None or _most_like(best, one) != mine:
            continue
        alone = len(one) == len(other) == 1
        if not (alone or likeness(mine, best)):
            continue
        group, partners = one[mine], other[best]
        if any(not set(partners) <= left[member] for member in group):
            continue
        if pairs := in_order(group, partners):
            return pairs
    return []


def _groups(
    layers: Mapping[str, Layer], which: Collection[str]
) -> dict[frozenset[str], dict[str, LayerName]]:
    found: dict[frozenset[str], dict[str, LayerName]] = {}
    for name in sorted(which):
        found.setdefault(layers[name].name.meaning, {})[name] = layers[name].name
    return found


def _most_like(words: frozenset[str], groups: Collection[frozenset[str]]) -> frozenset[str] | None:
    """None where two are as like."""
    scores = sorted(((likeness(words, g), sorted(g)) for g in groups), reverse=True)
    if not scores or (len(scores) > 1 and scores[0][0] == scores[1][0]):
        return None
    return frozenset(scores[0][1])


def _ways(
    own: Layer, layer: Layer, as_torch: Collection[str], loose: bool
) -> dict[str, list[Way]] | None:
    """{role: how its array comes from Torch's}, if all of them fit."""
    if own.pieces.keys() != layer.pieces.keys():
        return None
    if layer.kind == "attention" and not own.name.meaning & PACKED:
        return None
    found = {}
    for role, piece in own.pieces.items():
        told = {ROLE_OF.get(p.word.lower()) for p in (piece, layer.pieces[role])} - {None}
        if len(told) > 1:  # a weight and a bias
            return None
        ways = _of_weight(piece, layer.pieces[role], layer.kind, piece.name in as_torch, loose)
        if not ways:
            return None
        found[role] = ways
    return found


def _of_weight(piece: Piece, theirs: Piece, kind: str, as_torch: bool, loose: bool) -> list[Way]:
    shape, given = piece.shape, theirs.shape
    kept = [AS_IT_IS] if shape == given else []
    if len(given) < 2:  # Equinox's convolutions have biases [out, 1, 1]
        return kept or ([_reshaped(shape, "")] if given and prod(shape) == given[0] else [])
    if as_torch or kind == "embedding":
        return kept
    kernel = piece.word == "kernel"
    if kind in ("conv", "transposed"):
        if len(shape) != len(given):
            return []
        ways = _convolved(len(given), kind == "transposed")
        turned = [w for axes, w in ways if tuple(given[i] for i in axes) == shape]
        return turned + ([] if kernel else kept)
    if kind == "" and piece.word.lower() == theirs.word.lower() and kept:
        return kept  # a matrix of the user's own on both sides, under one name
    turned = [TURNED] if shape == given[::-1] and len(given) == 2 else []
    if not turned and len(shape) > 2 and len(given) == 2 and kernel:
        inner, outer = given[::-1]
        heads = shape[0] == inner or shape[-1] == outer  # [in, heads, size] or [heads, size, out]
        turned = [_reshaped(shape, ".T")] if heads and prod(shape) == inner * outer else []
    known = kernel or (piece.word in ("W", "w") and not loose)
    return turned + ([] if known and kind else kept)


def _turned(array: np.ndarray) -> np.ndarray:
    return array.T


AS_IT_IS, TURNED = Way("", lambda array: array), Way(".T", _turned)


def _reshaped(shape: Shape, turn: str) -> Way:
    return Way(f"{turn}.reshape{shape}", lambda a: (a.T if turn else a).reshape(shape))


def _convolved(rank: int, transposed: bool) -> list[tuple[Shape, Way]]:
    """[(axes, way)]: from [out, in, ...] to [..., in, out]; of a transposed convolution, [in, out,
    ...] to [..., out, in] (Flax's transpose_kernel=True), or to [..., in, out] turned round, for
    Torch's is the gradient of a convolution."""
    space = tuple(range(2, rank))
    axes, flipped = (*space, 1, 0), (*space, 0, 1)
    ways = [(axes, Way(f".transpose{axes}", lambda a: a.transpose(axes)))]
    if transposed:
        back = (slice(None, None, -1),) * len(space)
        text = f".transpose{flipped}[{', '.join(['::-1'] * len(space))}]"
        ways.append((flipped, Way(text, lambda a: a.transpose(flipped)[back])))
    return ways


def _layers(shapes: Shapes) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for name, shape in shapes.items():
        role, at, word = role_and_layer(name)
        if at in found and role in found[at].pieces:
            role, at = "weight", name
        layer = found.setdefault(at, Layer(read(at or name), {}))
        layer.pieces[role] = Piece(name, shape, word)
    return _by_rank(found)


def _by_rank(layers: dict[str, Layer]) -> dict[str, Layer]:
    """A list or tuple of two that is a matrix and a vector, (W, b), is one layer."""
    lists: dict[str, list[str]] = {}
    for at in _roleless(layers):
        above, _, last = at.rpartition(".")
        if last.isdigit():
            lists.setdefault(above, []).append(at)
    found = dict(layers)
    for above, two in lists.items():
        pieces = sorted((layers[at].pieces["weight"] for at in two), key=lambda p: len(p.shape))
        if (
            len(two) == 2
            and above
            and above not in layers
            and len(pieces[0].shape) == 1 < len(pieces[1].shape)
        ):
            found |= {above: Layer(read(above), {"weight": pieces[1], "bias": pieces[0]})}
            found = {at: layer for at, layer in found.items() if at not in two}
    return found


def _torch_layers(shapes: Shapes, kinds: Mapping[str, str], jax: Shapes) -> dict[str, Layer]:
    """As _layers; with q, k and v that attention packs as one layer, or as three where JAX's model
    has no parameter of that size."""
    plain = _layers({n: s for n, s in shapes.items() if kinds.get(n) not in ("attention", "gates")})
    found = {
        at: Layer(layer.name, layer.pieces, kinds.get(layer.pieces["weight"].name, ""))
        if "weight" in layer.pieces
        else layer
        for at, layer in plain.items()
    }
    sizes = {prod(shape) for shape in jax.values() if len(shape) > 1}
    for name, shape in shapes.items():
        kind = kinds.get(name)
        if kind not in ("attention", "gates"):
            continue
        at, _, leaf = name.rpartition(".")
        role = "bias" if "bias" in leaf else "weight"
        if kind == "gates":
            key = f"{at}.{leaf.replace('weight_', '').replace('bias_', '')}"
            found.setdefault(key, Layer(read(key), {}, kind)).pieces[role] = Piece(name, shape)
            continue
        rows = shape[0] // 3
        if 3 * rows * rows in sizes:
            key = f"{at}.qkv"
            found.setdefault(key, Layer(read(key), {}, kind)).pieces[role] = Piece(name, shape)
        else:
            for i, part in enumerate("qkv"):
                piece = Piece(name, (rows, *shape[1:]), "", slice(i * rows, (i + 1) * rows))
                key = f"{at}.{part}"
                found.setdefault(key, Layer(read(key), {}, "linear")).pieces[role] = piece
    return found


def _refusal(
    moves: Mapping[str, tuple[Piece, Way]],
    open_: Mapping[Piece, list[str]],
    left: Shapes,
) -> str:
    lines = ["weights: cannot guess, for it isn't clear which parameter is which:"]
    for piece, choices in open_.items():
        what = " or ".join(choices) or "nothing of Torch's that is left"
        lines.append(f"jax '{piece.name}' {piece.shape} fits {what}")
    if not open_:
        lines.append("all of JAX's parameters have partners, and these of Torch's have none:")
    lines.append(f"torch, left: {', '.join(f'{n} {s}' for n, s in left.items()) or 'none'}")
    clear = {ours: piece.text + way.text for ours, (piece, way) in moves.items()}
    unclear = {piece.name: "..." for piece in open_}
    return (
        "\n  ".join(lines)
        + "\ncomplete this, and pass weights=weights:\n"
        + _function(clear | unclear)
    )


def _dict(lines: Mapping[str, str], indent: str = "") -> str:
    inner = "".join(f'{indent}    "{ours}": {text},\n' for ours, text in lines.items())
    return f"{{\n{inner}{indent}}}"


def _function(lines: Mapping[str, str]) -> str:
    return f"def weights(t):\n    return {_dict(lines, '    ')}"
