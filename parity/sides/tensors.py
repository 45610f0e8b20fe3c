"""The tensors of a training step as data: what made them, where, and fingerprints of their values.

A fingerprint doesn't change by reshape, transposition or broadcast, so that tensors of two programs
that lay them out differently have the same. Tensors themselves aren't kept.

Two fingerprints meet if they can be of the same numbers. Let a formula give v over the reals, and
its rounding bound be b: JAX's number j and Torch's t have |j - v| <= b and |t - v| <= b, whatever
the order of summation, so |t - j| <= 2 b. By another formula Torch may be further off; then its
tensor has no partner, which is no claim that it's wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PHASES = ("forward", "backward", "optimiser")
_RANKS = 128  # order statistics kept
_CENTRES = (-0.5, -0.1, 0.1, 0.5)  # in units of the largest absolute value
_POWERS = (1, 2, 3, 4)
MEAN = _RANKS  # which of the statistics is the mean
# JAX's value and Torch's each lie within JAX's bound b of what the formula gives over the reals
# (parity.rounding.bound: in any order of summation, fused or not): |torch - jax| <= 2 b.
ROOM = 2.0
UNIT = 2.0**-53
FLOAT32 = 2.0**-24


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """Where the numbers of a tensor lie, up to their order and how often all are repeated.

    low, high [k]: between these each statistic lies if every element is within its bound.
    Statistics: order statistics, sorted(x)[floor(q n)] for q in 0, 1/128, ..., and as many counted
    from the largest down: all numbers of a tensor that has at most 128; mean(x); and
    mean |x - c max|x|| for four c. Each moves by no more than the elements do (an order statistic
    of x + e lies between those of x - |e| and x + |e|; a mean moves by at most the mean of |e|).

    sums [5, 2]: least and greatest of how many numbers aren't zero, and of sum(x^k), k = 1 to 4. Of
    a tensor in parts, the parts' add up, and zeros around them count nothing. With |d| <= e,
    |(x + d)^k - x^k| <= k e (|x| + e)^(k-1); a sum of n in any order adds 2 n u sum|x|^k.
    """

    low: np.ndarray
    high: np.ndarray
    constant: bool  # all elements are one number
    sums: np.ndarray

    @classmethod
    def of(cls, value: Any, bound: Any = 0.0) -> Fingerprint:
        """value: any array of real numbers. bound: how far an element may be off, of its shape."""
        x = np.ravel(np.asarray(value)).astype(np.float64)
        if x.size == 0:
            return cls(np.zeros(0), np.zeros(0), True, np.zeros((1 + len(_POWERS), 2)))
        e = np.ravel(np.broadcast_to(bound, np.shape(value))).astype(np.float64)
        e = e + UNIT * np.abs(np.where(np.isfinite(x), x, 0))
        half = np.arange(_RANKS // 2) * x.size // _RANKS
        ranks = np.concatenate([half, x.size - 1 - half[::-1]])
        low, high = np.sort(x - e)[ranks], np.sort(x + e)[ranks]
        finite = np.isfinite(x) & np.isfinite(e)
        y, d = (x[finite], e[finite]) if finite.any() else (np.zeros(1), np.zeros(1))
        largest, error = np.abs(y).max(), d.mean()
        means = np.array([y.mean(), *(np.abs(y - c * largest).mean() for c in _CENTRES)])
        # Summation in any order, by Higham's gamma, and the centre's own error.
        much = error + d.max() * np.array([0, *np.abs(_CENTRES)]) + 2 * y.size * UNIT * largest
        if not finite.all():
            much = np.full(len(means), np.inf)
        return cls(
            np.concatenate([low, means - much]),
            np.concatenate([high, means + much]),
            bool(np.ptp(y) <= 2 * d.max()) and bool(finite.all()),
            _sums(y, d) if finite.all() else np.full((1 + len(_POWERS), 2), np.nan),
        )

    @property
    def ranks(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest of the order statistics, from the smallest to the largest."""
        return self.low[:_RANKS], self.high[:_RANKS]

    @property
    def largest(self) -> float:
        """The largest absolute value, to within the bound; 0 of an empty tensor."""
        with np.errstate(invalid="ignore"):
            middle = np.abs((self.low[:_RANKS] + self.high[:_RANKS]) / 2)
        return float(np.max(middle, initial=0.0, where=np.isfinite(middle)))

    @property
    def key(self) -> bytes:
        """Of the order statistics; two layouts of the same numbers have the same."""
        return self.low[:_RANKS].tobytes()

    @property
    def number(self) -> float:
        """The smallest."""
        low, high = float(self.low[0]), float(self.high[0])
        return low if low == high else (low + high) / 2

    def statistic(self, at: int) -> str:
        """What one of the statistics is."""
        if at < _RANKS:
            return {0: "smallest", _RANKS - 1: "largest"}.get(at, f"the {at}/{_RANKS} quantile")
        at -= _RANKS
        return "mean" if at == 0 else f"mean distance from {_CENTRES[at - 1]} of the largest"

    def meets(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Which of the fingerprints [n, k] may be of the same numbers."""
        return np.all((self.low <= high) & (low <= self.high), axis=1)

    def same(self, other: Fingerprint) -> bool:
        """Whether another may be of the same numbers."""
        return self.low.shape == other.low.shape and bool(
            self.meets(other.low[None], other.high[None])[0]
        )


def telling(value: Any, bound: Any, largest: float = 0.0) -> Any:
    """The bound of float64 numbers, but at most one rounding to float32.

    A deep model amplifies the worst case until it says nothing; there levels judge by effective
    bits, and so does this: by one rounding to float32 of the largest number of the tensor, or of
    largest, which went in (what is left of a difference of equal numbers is all rounding).
    """
    most = FLOAT32 * max(float(np.max(np.abs(value), initial=0.0)), largest)
    return np.minimum(bound, most)


def _sums(x: np.ndarray, e: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    found = [((size > e).sum(), (size + e > 0).sum())]
    with np.errstate(over="ignore", invalid="ignore"):
        for k in _POWERS:
            power = size**k
            off = (k * e * (size + e) ** (k - 1)).sum() + 2 * (x.size + k) * UNIT * power.sum()
            total = (x**k).sum()
            found.append((total - off, total + off))
    return np.array(found, np.float64)


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor that a step computed, or was given.

    inputs: numbers of the tensors it was made of. module: path in the user's model. line:
    "file:line (function)", the user's; "" where no frame is. moved: number of the tensor whose
    numbers these are, only laid out otherwise. given: name of what the step was given. depends:
    whether anything given reaches it. scalars: literal numbers among the operands.
    inside: the fused operation that this is a step of. clock: whether nothing but counts of steps
    reaches it, which Torch keeps outside of its graph. settings: of a convolution, see `window`.
    """

    number: int
    op: str
    inputs: tuple[int, ...]
    shape: tuple[int, ...]
    module: str
    line: str
    phase: str
    fingerprint: Fingerprint
    depends: bool
    moved: int | None = None
    given: str = ""
    scalars: tuple[float, ...] = ()
    inside: str = ""
    boolean: bool = False
    real: bool = True
    clock: bool = False
    settings: tuple[Any, ...] = ()

    def __str__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        module = f" in {self.module}" if self.module else ""
        at = f" at {self.line}" if self.line else ""
        return f"{self.given or self.op} [{shape}]{module}{at}"


@dataclass
class Graph:
    """All tensors of one step of one side, in the order they were made.

    results: {part: {leaf: number of its tensor}}; parts are those of an Evaluation. narrow: whether
    a number was rounded to less than float32.
    """

    side: str
    tensors: list[Traced] = field(default_factory=list)
    results: dict[str, dict[str, int]] = field(default_factory=dict)
    narrow: bool = False

    def add(
        self,
        op: str,
        inputs: Sequence[int],
        value: Any,
        bound: Any = 0.0,
        *,
        module: str = "",
        line: str = "",
        phase: str = "forward",
        given: str = "",
        depends: bool | None = None,
        moves: bool = False,
        scalars: Sequence[float] = (),
        inside: str = "",
        settings: tuple[Any, ...] = (),
    ) -> int:
        """Number of a new tensor. moves: whether the operation only lays out its first input."""
        made = [self.tensors[i] for i in inputs]
        wide = [t for t in made if t.depends] or made
        known = depends if depends is not None else any(t.depends for t in made)
        moved = None
        if moves and made and np.size(value) == np.prod(made[0].shape, dtype=int):
            print_, moved = made[0].fingerprint, inputs[0]
        else:
            print_ = Fingerprint.of(value, bound)
            if len(wide) == 1 and _same(print_, wide[0].fingerprint):
                moved = wide[0].number
        number = len(self.tensors)
        self.tensors.append(
            Traced(
                number,
                op,
                tuple(dict.fromkeys(inputs)),
                np.shape(value),
                module,
                line,
                phase,
                print_,
                known,
                moved,
                given,
                tuple(scalars),
                inside,
                np.asarray(value).dtype == bool,
                np.asarray(value).dtype.kind == "f",
                self._is_clock(made, phase, value),
                settings,
            )
        )
        return number

    def _is_clock(self, made: list[Traced], phase: str, value: Any) -> bool:
        wide = [t for t in made if t.depends]
        count = phase == "optimiser" and np.asarray(value).dtype.kind in "iu"
        return all(t.clock for t in wide) if wide else count

    def origin(self, number: int) -> int:
        """The tensor whose numbers these first were."""
        while (before := self.tensors[number].moved) is not None:
            number = before
        return number

    def layouts(self, number: int) -> list[int]:
        """The tensors between this one and its origin, the last first."""
        found = []
        while (before := self.tensors[number].moved) is not None:
            found.append(number)
            number = before
        return found

    @property
    def own(self) -> list[Traced]:
        """Real tensors with numbers of their own, more than one number, that what was given
        reaches."""
        return [
            t
            for t in self.tensors
            if t.moved is None
            and t.depends
            and t.real
            and not t.given
            and not (t.fingerprint.constant and t.shape)
        ]

    @property
    def computed(self) -> list[Traced]:
        """Real tensors with numbers of their own, on which what was given has an influence.

        Steps of a fused operation aren't among them, nor is a tensor all of one number."""
        return [
            t
            for t in self.tensors
            if (t.moved is None or self.tensors[t.moved].inside)
            and t.depends
            and t.real
            and not t.given
            and not t.inside
            and not (t.fingerprint.constant and t.shape)
        ]


def window(
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    spread: Sequence[int],
    groups: int,
) -> tuple[Any, ...]:
    """A convolution's settings, by JAX's rule. padding: (before, after) of each axis; spread: how
    far apart the input's numbers are put, a transposed convolution's stride."""
    return (
        tuple(map(int, stride)),
        tuple((int(a), int(b)) for a, b in padding),
        tuple(map(int, dilation)),
        tuple(map(int, spread)),
        int(groups),
    )


def _same(one: Fingerprint, other: Fingerprint) -> bool:
    """Means are of sums in another order."""
    return one.key == other.key and one.same(other)
