"""Which parameter of the Torch model is which of the JAX model, and how it lies there.

A porter says it by a table of names, or by a function that turns Torch's arrays into JAX's. Such a
function may move elements only: transpose, reshape, split, join. Where each element goes is read
off by sending numbers through it, so that arrays can be brought back, and gradients across.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mlp_core.weights import WeightsError, canonical_names
from parity.sides.side import SIDES
from parity.trees import Arrays, leaves

# Numbers are sent in two digits, for float32 holds integers up to 2^24 only; and each digit with a
# fraction of its own, so that a constant of the function's, such as 0, is no number that was sent.
DIGIT = 4096
MARKS = 0.25, 0.375


def pair_names(
    jax: Mapping[str, np.ndarray],
    torch: Mapping[str, np.ndarray],
    names: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, str]]:
    """{the ladder's name: (name in JAX, name in Torch)} for every parameter.

    names: {name in JAX: name in Torch} or the other way round; None pairs equal names, where Flax's
    kernel, scale and embedding are Torch's weight, or MLPs by their layers.
    Raises ValueError, with what there is on both sides, if that is not clear.
    """
    if names is not None:
        known = [
            len(set(ours) & set(jax)) + len(set(others) & set(torch))
            for ours, others in ((names, names.values()), (names.values(), names))
        ]
        table = names.items() if known[0] >= known[1] else ((b, a) for a, b in names.items())
        pairs = {name: (name, other) for name, other in table}
    elif {_as_torch(name) for name in jax} == set(torch):
        pairs = {name: (name, _as_torch(name)) for name in jax}
    elif set(jax) == set(torch):
        pairs = {name: (name, name) for name in jax}
    else:
        try:
            own = [
                canonical_names(side, where)[1]
                for side, where in zip((jax, torch), SIDES, strict=True)
            ]
            pairs = {name: (own[0][name], own[1].get(name, "")) for name in own[0]}
        except WeightsError:
            pairs = {}
    problems = []
    if {a for a, _ in pairs.values()} != set(jax) or {b for _, b in pairs.values()} != set(torch):
        problems = [
            f"not every parameter has a partner{_without(jax, torch, pairs)}; pass "
            "weights={jax path: torch name}"
        ]
    else:
        for a, b in pairs.values():
            if jax[a].shape != torch[b].shape:
                problems.append(
                    f"jax '{a}' has shape {jax[a].shape}, torch '{b}' (a Linear's as [in, out]) "
                    f"{torch[b].shape}; pass weights=function({{torch name: array}}) -> "
                    "{jax path: array}"
                )
    if problems:
        listed = [f"{s}: {', '.join(side)}" for s, side in zip(SIDES, (jax, torch), strict=True)]
        raise ValueError("\n  ".join(["cannot pair the parameters:", *problems, *listed]))
    return pairs


def _without(
    jax: Collection[str], torch: Collection[str], pairs: Mapping[str, tuple[str, str]]
) -> str:
    """What a table leaves out, and what it names that there isn't; "" without any table."""
    said = []
    for s, side, named in zip(SIDES, (jax, torch), zip(*pairs.values(), strict=True), strict=False):
        for what, names in (
            ("without one", [name for name in side if name not in named]),
            ("of this name there is none", [name for name in named if name and name not in side]),
        ):
            if names:
                said.append(f"{what} in {s}: {shortened(names)}")
    return "".join(f"; {one}" for one in said)


def shortened(names: Collection[str], most: int = 12) -> str:
    """Names in a row, of a large model the first ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join([*names][:most]) + more


class Turned:
    """Some matrices transposed, names as they are."""

    def __init__(self, turned: Collection[str], arrays: Mapping[str, np.ndarray]) -> None:
        self._turned = turned
        self.origins: dict[str, Collection[str]] = {name: (name,) for name in arrays}
        self._shapes = {name: np.shape(array) for name, array in arrays.items()}

    def there(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Copies, with the matrices turned."""
        return {n: (a.T if n in self._turned else a).copy() for n, a in arrays.items()}

    def back(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Views, turned back. Raises ValueError for other names or shapes."""
        if set(arrays) != set(self._shapes):
            raise ValueError(f"torch: parameters {sorted(arrays)}, expected {sorted(self._shapes)}")
        back = {n: np.asarray(a).T if n in self._turned else a for n, a in arrays.items()}
        for name, array in back.items():
            if np.shape(array) != (expected := self._shapes[name]):
                got = np.shape(array)
                raise ValueError(f"torch: '{name}' has shape {got}, expected {expected}")
        return back


class Rearrangement:
    """A function {name: array} -> {other name: other array} that moves elements only, both ways."""

    def __init__(self, function: Callable[[Arrays], Any], arrays: Mapping[str, np.ndarray]) -> None:
        """arrays: float32, such as the function takes; it gets copies. Its result may be nested,
        and is flattened to dotted names.

        Raises ValueError unless each element of `arrays` comes out once, and nothing else does.
        """
        self._shapes = {name: np.shape(array) for name, array in arrays.items()}
        self._ends = np.cumsum([np.size(array) for array in arrays.values()])
        numbers = np.arange(self._ends[-1])
        digits = numbers % DIGIT, numbers // DIGIT
        low, high = (
            self._made(function, self._cut((digit + mark).astype(np.float32)))
            for digit, mark in zip(digits, MARKS, strict=True)
        )
        sent = {name: _number(low[name], high[name]) for name in low}
        came = np.concatenate([numbers[:0], *(array.ravel() for array in sent.values())])
        if not np.array_equal(np.sort(came), numbers):
            raise ValueError(f"weights: {self._problem(sent)}")
        kind = np.int32 if len(numbers) < 2**31 else np.int64  # as large as the weights themselves
        self._places = {name: array.astype(kind) for name, array in sent.items()}
        owners = np.array([*self._shapes])
        self.origins: dict[str, Collection[str]] = {
            name: {str(o) for o in owners[np.unique(np.searchsorted(self._ends, p, side="right"))]}
            for name, p in self._places.items()
        }
        real = self._made(function, {name: np.array(array) for name, array in arrays.items()})
        for name, array in self.there(arrays).items():
            if not np.array_equal(real[name], array, equal_nan=True):
                raise ValueError(f"weights: the function changes the values of '{name}'")

    def there(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """What the function makes of these arrays."""
        flat = np.concatenate([np.ravel(arrays[name]) for name in self._shapes])
        return {name: flat[places] for name, places in self._places.items()}

    def back(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """The arrays of which the function makes these. Raises ValueError for other shapes."""
        expected = {name: places.shape for name, places in self._places.items()}
        if (got := {name: np.shape(array) for name, array in arrays.items()}) != expected:
            raise ValueError(f"weights: arrays of shapes {got}, expected {expected}")
        flat = np.empty(self._ends[-1], next(iter(arrays.values())).dtype)
        for name, places in self._places.items():
            flat[places] = arrays[name]
        return self._cut(flat)

    def _cut(self, flat: np.ndarray) -> Arrays:
        """One vector of all elements -> the function's arguments."""
        parts = np.split(flat, self._ends[:-1])
        shaped = zip(self._shapes.items(), parts, strict=True)
        return {name: part.reshape(shape) for (name, shape), part in shaped}

    def _made(self, function: Callable[[Arrays], Any], given: Arrays) -> Arrays:
        """{dotted name: array} of what a user's function makes, which may be nested.

        Raises ValueError, in one line, if it fails or makes other things than arrays.
        """
        names = shortened([*given])
        try:
            made = {name: np.asarray(leaf) for name, leaf in leaves(function(given)).items()}
        except Exception as error:
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise ValueError(
                f"weights: the function fails: {said:.300}; it is given {names}, NumPy arrays"
            ) from error
        for name, array in made.items():
            if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
                raise ValueError(
                    f"weights: the function's '{name or 'result'}' is no array of numbers, "
                    f"expected {{jax path: array}}, moved from those it is given: {names}"
                )
        return made

    def _problem(self, sent: Mapping[str, np.ndarray]) -> str:
        counts, strange = np.zeros(self._ends[-1], int), []
        for name, array in sent.items():
            known = (array >= 0) & (array < len(counts))
            np.add.at(counts, array[known].astype(int), 1)
            if not known.all():
                strange.append(f"'{name}' has numbers that are no elements of Torch's")
        for name, times in self._cut(counts).items():
            if (times != 1).any():
                how = "only in part" if (times <= 1).all() else "more than once"
                strange.append(f"'{name}' comes out {how if times.any() else 'nowhere'}")
        return (
            "the function must move elements, each to one place, and change none, so that "
            "gradients can be carried across: " + "; ".join(strange)
        )


def _number(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The numbers whose digits these are; -1 where a digit isn't one that was sent."""
    digits = [a.astype(float) - mark for a, mark in zip((low, high), MARKS, strict=True)]
    whole = (digits[0] == np.floor(digits[0])) & (digits[1] == np.floor(digits[1]))
    within = whole & (digits[0] >= 0) & (digits[0] < DIGIT) & (digits[1] >= 0)
    return np.where(within, digits[0] + DIGIT * digits[1], -1.0)


def pair_state(
    jax: Mapping[str, np.ndarray],
    torch: Mapping[str, np.ndarray],
    params: Mapping[str, tuple[str, str]],
    origins: Mapping[str, Collection[str]],
    table: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, str]]:
    """{JAX's name: (JAX's name, Torch's)} of statistics that both models hold.

    params: as pair_names gives them. origins: {parameter of the Torch side: Torch's own names that
    it came from}. Without a table, a layer's statistics go where its parameters do: "bn.mean" and
    "bn.scale" lie beside each other, as "norm.running_mean" and "norm.weight" do.
    Raises ValueError for a table that names what there isn't, or pairs other shapes.
    """
    if table is not None:
        turned = {b: a for a, b in table.items()}
        pairs = table if table.keys() <= set(jax) else turned
        for a, b in pairs.items():
            if a not in jax or b not in torch or jax[a].shape != torch[b].shape:
                have = [f"{s}: {', '.join(map(str, side)) or 'none'}"
                        for s, side in zip(SIDES, (jax, torch), strict=True)]  # fmt: skip
                raise ValueError(
                    f"state: '{a}' and '{b}' are no statistics of one shape; there are\n  "
                    + "\n  ".join(have)
                )
        return {a: (a, b) for a, b in pairs.items()}
    homes: dict[str, set[str]] = {}
    for ours, theirs in params.values():
        for origin in origins.get(theirs, (theirs,)):
            homes.setdefault(_layer(ours), set()).add(_layer(origin))
    found = {}
    for name in jax:
        kind = name.rpartition(".")[2]
        where = {_layer(name), _layer(name.partition(".")[2])}
        candidates = [
            f"{home}.{own}" if home else own
            for layer in where
            for home in sorted(homes.get(layer, ()))
            for own in (f"running_{kind}", kind)
        ]
        partner = next((c for c in candidates if c in torch), None)
        if partner is None and len(jax) == len(torch) == 1:
            partner = next(iter(torch))
        if partner is not None and torch[partner].shape == jax[name].shape:
            found[name] = (name, partner)
    return found


def _as_torch(name: str) -> str:
    """Flax's name of a parameter, with the last word that Torch has for it."""
    layer, dot, last = name.rpartition(".")
    return f"{layer}{dot}{'weight' if last in ('kernel', 'scale', 'embedding') else last}"


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
