"""What the name of a parameter says: its role, its layer, and the layer's words and numbers."""

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)

ROLES = {
    "weight": ("weight", "weights", "kernel", "w", "scale", "gamma", "g", "embedding"),
    "bias": ("bias", "biases", "b", "beta", "offset"),
}
ROLE_OF = {word: role for role, words in ROLES.items() for word in words}
SYNONYMS = {
    word: one
    for one, words in {
        "norm": ("ln", "layernorm", "bn", "batchnorm", "rmsnorm", "groupnorm", "gn"),
        "linear": ("fc", "dense", "lin"),
        "attn": ("attention", "mha", "selfattn", "selfattention"),
        "emb": ("embed", "embedding", "embeddings"),
        "conv": ("convolution",),
        "q": ("query",),
        "k": ("key",),
        "v": ("value",),
        "out": ("output", "o"),
        "emb token": ("wte",),
        "emb position": ("wpe",),
        "token": ("tokens", "tok"),
        "position": ("positions", "pos", "places"),
        "mlp": ("ffn", "feedforward", "ff"),
    }.items()
    for word in words
}
SAYS_NOTHING = {"layer", "layers", "block", "blocks", "model", "module", "net", "params", "proj",
                "h", "c", "self"}  # fmt: skip


class LayerName(NamedTuple):
    """words: in order, with '#' for each number. numbers: in order."""

    words: tuple[str, ...]
    numbers: tuple[int, ...]

    @property
    def meaning(self) -> frozenset[str]:
        return frozenset(self.words) - {"#"}


def role_and_layer(name: str) -> tuple[str, str, str]:
    """(role, layer, the word that told the role): "a.kernel" is the weight of "a", "W1" that of
    "1", and "tokens" that of "tokens"."""
    layer, _, leaf = name.rpartition(".")
    found = re.fullmatch(r"([A-Za-z]+?)_?(\d*)", leaf)
    if found and (role := ROLE_OF.get(found[1].lower())):
        number = found[2]
        return role, f"{layer}.{number}".strip(".") if number else layer, found[1]
    return "weight", name, ""


def read(layer: str) -> LayerName:
    """Its words in lower case, synonyms as one; "blocks_0.LayerNorm_1" is "# norm #", (0, 1)."""
    parted = re.sub(r"([a-z])(?=[A-Z])", r"\1 ", re.sub(r"(?i)(layer|batch|group|rms)_?norm",
                                                       "norm", layer))  # fmt: skip
    words, numbers = [], []
    for token in re.findall(r"[A-Za-z]+|\d+", parted):
        if token.isdigit():
            words.append("#")
            numbers.append(int(token))
        else:
            for word in SYNONYMS.get(token.lower(), token.lower()).split():
                words += [] if word in SAYS_NOTHING else [word]
    return LayerName(tuple(words), tuple(numbers))


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared words among all, 0 to 1."""
    return len(one & other) / len(one | other) if one | other else 1.0


def in_order(
    ours: Mapping[Key, LayerName], theirs: Mapping[Key, LayerName]
) -> list[tuple[Key, Key]]:
    """Pairs by the order of the numbers that vary; none if that isn't one order on both sides."""
    if len(ours) != len(theirs):
        return []
    shared = next(iter(ours.values())).meaning & next(iter(theirs.values())).meaning
    sides = [_ranked(side, shared) for side in (ours, theirs)]
    patterns = {pattern for side in sides for pattern, _ in side.values()}
    ranks = [{rank: key for key, (_, rank) in side.items()} for side in sides]
    if len(patterns) > 1 or any(len(r) < len(ours) for r in ranks) or ranks[0].keys() - ranks[1]:
        return []
    return [(key, ranks[1][rank]) for rank, key in ranks[0].items()]


def _ranked(
    side: Mapping[Key, LayerName], shared: Collection[str]
) -> dict[Key, tuple[tuple[str, ...], tuple[int, ...]]]:
    """{key: (shared words and the places of the numbers that vary, the numbers' ranks)}."""
    if len({name.words for name in side.values()}) > 1:
        return {}
    columns: list[Sequence[int]] = [*zip(*(name.numbers for name in side.values()), strict=True)]
    varying = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    found = {}
    for key, name in side.items():
        places = iter(range(len(name.numbers)))
        pattern = [w for w in name.words if (next(places) in varying if w == "#" else w in shared)]
        if len(varying) == 1:  # one number is one order, wherever it stands
            pattern = []
        ranks = [sorted(set(columns[i])).index(name.numbers[i]) for i in varying]
        found[key] = tuple(pattern), tuple(ranks)
    return found
