"""Named float32 arrays of an MLP, and the names that each framework gives them.

The canonical names are the book's: W1 [inputs, hidden], b1 [hidden], ..., Wn, bn; output =
input @ W + b. Other layouts exist only in LAYOUTS below.
"""

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mlp_core.files import write_atomically
from mlp_core.idx import MOST_DIMS


@dataclass(frozen=True)
class Layout:
    """How a framework names the two arrays of layer i, and whether its matrix is [out, in].

    pattern finds the layer's number as written, which need not count from 1 without gaps: an
    nn.Sequential counts its activations too. matrix and vector name layer i (from 1) when writing.
    """

    pattern: str
    matrix: str
    vector: str
    transposed: bool

    def names(self, layer: int) -> tuple[str, str]:
        place = {"i": layer, "k": 2 * layer - 1}  # k: Sequential(flatten, linear, relu, linear, ..)
        return self.matrix.format(**place), self.vector.format(**place)


LAYOUTS = {
    "scratch": Layout(r"(W|b)(\d{1,9})", "W{i}", "b{i}", transposed=False),
    "torch": Layout(
        r"(?:.*\.)?(\d{1,9})\.(weight|bias)", "net.{k}.weight", "net.{k}.bias", transposed=True
    ),
    "flax": Layout(
        r"(?:.*\.)?(\d{1,9})\.(kernel|bias)",
        "net.layers.{k}.kernel",
        "net.layers.{k}.bias",
        transposed=False,
    ),
}


def layer_sizes(
    num_inputs: int, num_hiddens: int | Sequence[int], num_outputs: int
) -> tuple[int, ...]:
    """Widths of all layers. num_hiddens: the width of the hidden layer, or one for each of many.

    Raises ValueError for a width below 1.

    >>> layer_sizes(784, 256, 10), layer_sizes(784, [256, 128], 10)
    ((784, 256, 10), (784, 256, 128, 10))
    """
    hiddens = [num_hiddens] if isinstance(num_hiddens, (int, np.integer)) else num_hiddens
    sizes = (num_inputs, *hiddens, num_outputs)
    if any(size < 1 for size in sizes):
        raise ValueError(f"layer widths {sizes}: expected each to be at least 1")
    return sizes


def initial(sizes: Sequence[int], seed: int) -> "Weights":
    """Initial weights that need no framework, the same in every version and on every machine.

        W, b ~ U(-s, +s),    s = float32(1 / sqrt(fan_in)),    as torch.nn.Linear draws them

    From the raw bits of NumPy's Philox, which NumPy keeps fixed (NEP 19): an odd integer over 2^24,
    exact, times s, rounded once. Layer i takes the stream (seed, 2^64 - i); a Schedule of the same
    seed takes those of its epochs, 0, 1, ...

    >>> initial((784, 256, 10), seed=0)
    Weights(784-256-10)
    """
    arrays = {}
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        key = np.array([seed, 2**64 - i], np.uint64)
        bits = np.random.Philox(key=key).random_raw((inputs + 1) * outputs)
        odd = 2 * (bits >> np.uint64(40)).astype(np.int64) + 1 - 2**24
        spread = np.float32(1 / math.sqrt(inputs))
        values = (odd * 2.0**-24 * np.float64(spread)).astype(np.float32)
        arrays[f"W{i}"] = values[: inputs * outputs].reshape(inputs, outputs)
        arrays[f"b{i}"] = values[inputs * outputs :]
    return Weights(arrays, sizes=sizes, where=f"initial weights of seed {seed}")


class WeightsError(ValueError):
    """A file or mapping that does not hold the weights of an MLP; lists every problem found."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        # A file may call its tensors what it likes: no terminal shall obey it.
        plain = ("".join(c if c.isprintable() else repr(c)[1:-1] for c in p) for p in problems)
        shown = (p if len(p) < 300 else f"{p[:200]} ... {p[-60:]}" for p in plain)
        super().__init__("\n  ".join([f"{where}: not usable as the weights of an MLP:", *shown]))


class Weights(Mapping[str, Float[np.ndarray, "..."]]):
    """The weights of one MLP under canonical names, checked: complete, chained, float32, finite.

    >>> weights = initial((784, 256, 10), seed=0)
    >>> weights.sizes, weights["W1"].shape
    ((784, 256, 10), (784, 256))
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        sizes: Sequence[int] | None = None,
        where: str = "weights",
    ) -> None:
        """arrays: in any layout of LAYOUTS, recognised by its names.

        sizes: expected widths, inputs first, outputs last; None accepts any chain.
        Raises WeightsError with all problems at once.
        """
        layout, own = canonical_names(arrays, where)
        problems = [f"'{name}' is missing" for name in own.values() if name not in arrays]
        known = set(own.values())
        problems += [f"'{name}' is not part of an MLP" for name in arrays if name not in known]
        if sizes is not None and len(own) != 2 * (len(sizes) - 1):
            layers, expected = len(own) // 2, len(sizes) - 1
            problems.append(f"{layers} layers, expected {expected} for sizes {list(sizes)}")
        for name, given in own.items():
            if given in arrays:
                problems += _problems_of(given, arrays[given], ndim=2 if name[0] == "W" else 1)
        if not problems:
            self._arrays = {
                name: np.ascontiguousarray(arrays[given].T if layout.transposed else arrays[given])
                for name, given in own.items()
            }
            problems += self._chain_problems(own, layout, sizes)
        if problems:
            raise WeightsError(where, problems)

    def _chain_problems(
        self,
        given: Mapping[str, str],
        layout: Layout,
        sizes: Sequence[int] | None,
    ) -> Iterator[str]:
        width = sizes[0] if sizes is not None else len(self["W1"])
        for i in range(1, len(self) // 2 + 1):
            W, b = self[f"W{i}"], self[f"b{i}"]
            outputs = sizes[i] if sizes is not None else W.shape[1]
            for name, array, shape in (("W", W, (width, outputs)), ("b", b, (outputs,))):
                if array.shape != shape:
                    flip = slice(None, None, -1 if layout.transposed else 1)
                    hint = ""
                    if name == "W" and array.shape == shape[::-1]:
                        hint = (
                            "; transposed? Torch's Linear is [out, in], W and kernel are [in, out]"
                        )
                    yield (
                        f"'{given[f'{name}{i}']}' has shape {array.shape[flip]}, "
                        f"expected {shape[flip]}{hint}"
                    )
            width = outputs

    def __getitem__(self, name: str) -> Float[np.ndarray, "..."]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Weights({'-'.join(map(str, self.sizes))})"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths of all layers: inputs, hidden ones, outputs."""
        matrices = [array for array in self._arrays.values() if array.ndim == 2]
        return (matrices[0].shape[0], *(W.shape[1] for W in matrices))

    def to_layout(self, layout: str) -> dict[str, np.ndarray]:
        """The same arrays under the names and in the orientation of "scratch", "torch", "flax"."""
        into, named = LAYOUTS[layout], {}
        for i in range(1, len(self) // 2 + 1):
            matrix, vector = into.names(i)
            W = self[f"W{i}"]
            named[matrix] = np.ascontiguousarray(W.T) if into.transposed else W
            named[vector] = self[f"b{i}"]
        return named

    def save(self, path: str | os.PathLike, layout: str = "scratch") -> Path:
        """Write a safetensors file, whole or not at all."""
        from safetensors.numpy import save

        named = self.to_layout(layout)
        return write_atomically(Path(path), save(named, metadata={"format": "np"}))

    @classmethod
    def load(cls, path: str | os.PathLike, sizes: Sequence[int] | None = None) -> "Weights":
        """Read a safetensors file in any layout, for instance a saved Torch state_dict.

        Raises WeightsError, which names the file and lists every problem.
        """
        return cls(read_safetensors(path), sizes=sizes, where=str(path))


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file. Raises WeightsError if it is none, or not of float32.

    The types are read from the header first: NumPy lacks some of them, and nothing is allocated
    for a file that is refused.

    >>> import tempfile
    >>> path = initial((6, 4, 3), seed=0).save(tempfile.mkdtemp() + "/w.safetensors", "torch")
    >>> {name: array.shape for name, array in read_safetensors(path).items()}
    {'net.1.bias': (4,), 'net.1.weight': (4, 6), 'net.3.bias': (3,), 'net.3.weight': (3, 4)}
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            kinds = {name: part.get_dtype() for name, part in slices.items()}
            shapes = {name: part.get_shape() for name, part in slices.items()}
            # NumPy has no more dimensions, and none for 2^32 x 2^32 x 0, which is nothing.
            if wrong := [
                f"'{n}' has shape {tuple(s)}, expected a non-empty matrix or vector"
                for n, s in shapes.items()
                if len(s) > MOST_DIMS or 0 in s
            ]:
                raise WeightsError(str(path), wrong)
            if wrong := [f"'{n}' is {k}, expected F32" for n, k in kinds.items() if k != "F32"]:
                raise WeightsError(str(path), wrong)
            return {name: file.get_tensor(name) for name in kinds}
    except OSError as error:
        raise WeightsError(str(path), [f"cannot be read: {error.strerror or error}"]) from None
    except SafetensorError as error:
        raise WeightsError(str(path), [f"not a whole safetensors file: {error}"]) from None


def canonical_names(
    names: Collection[str], where: str = "weights"
) -> tuple[Layout, dict[str, str]]:
    """The layout that most of `names` fit, and for W1 b1 ... Wn bn the name that it has there.

    Names that belong to no layer are left out, and a layer may be named whose array is absent.
    Raises WeightsError if no layout fits.

    >>> canonical_names(["net.1.weight", "net.1.bias"])[1]
    {'W1': 'net.1.weight', 'b1': 'net.1.bias'}
    """
    fits = {
        key: [m for name in names if (m := re.fullmatch(layout.pattern, name))]
        for key, layout in LAYOUTS.items()
    }
    # "bias" fits two layouts: the matrices' names decide.
    best = max(fits, key=lambda key: sum(not m[0].endswith("bias") for m in fits[key]))
    if not fits[best]:
        expected = ", or ".join(f"'{' '.join(layout.names(1))} ...'" for layout in LAYOUTS.values())
        got = ", ".join(f"'{name}'" for name in list(names)[:6]) or "nothing"
        raise WeightsError(where, [f"names expected: {expected}; got {got}"])
    layout = LAYOUTS[best]
    if best == "scratch":
        # A file may name a layer 99999999; its missing neighbours are not all worth a line.
        last = min(max(int(m[2]) for m in fits[best]), len(names) + 1)
        pairs = [layout.names(i) for i in range(1, last + 1)]
    else:
        kind = layout.matrix.rsplit(".", 1)[1]
        stems = sorted({m[0].rsplit(".", 1)[0] for m in fits[best]}, key=_numbers)
        pairs = [(f"{stem}.{kind}", f"{stem}.bias") for stem in stems]
    return layout, {
        f"{letter}{i}": name
        for i, pair in enumerate(pairs, 1)
        for letter, name in zip("Wb", pair, strict=True)
    }


def _numbers(name: str) -> list[tuple[int, str]]:
    """Sort key: net.10 after net.9. A part of many digits, which no layer has, is a word."""
    parts = name.split(".")
    return [(int(p), "") if p.isdecimal() and len(p) < 10 else (-1, p) for p in parts]


def _problems_of(name: str, array: np.ndarray, ndim: int) -> Iterator[str]:
    if array.dtype != np.float32:
        yield f"'{name}' is {array.dtype}, expected float32"
    elif bad := int(np.size(array) - np.isfinite(array).sum()):
        yield f"'{name}' holds {bad} non-finite values, expected none"
    if array.ndim != ndim or 0 in array.shape:
        wanted = "a non-empty matrix" if ndim == 2 else "a non-empty vector"
        yield f"'{name}' has shape {array.shape}, expected {wanted}"
