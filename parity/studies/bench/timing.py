"""What a row of the benchmark says: medians over interleaved rounds, or that it can't say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A figure is printed if its median is known to 10% with 95% confidence: two digits, the last one
# uncertain. The interval is that of order statistics, which asks nothing of the distribution.
CONFIDENCE, KNOWN_TO = 0.95, 0.10


@dataclass(frozen=True)
class Figure:
    """A median with its confidence interval."""

    median: float
    low: float
    high: float
    count: int

    @property
    def steady(self) -> bool:
        """Whether it may be printed; never of so few that their extremes may miss the median."""
        known = 1 - 2 * 0.5**self.count >= CONFIDENCE
        return (
            known and max(self.high - self.median, self.median - self.low) <= KNOWN_TO * self.median
        )

    def __str__(self) -> str:
        if self.steady:
            return f"{self.median:.3g}"
        return f"{self.low:.2g}..{self.high:.2g}"


def figure(values: Sequence[float]) -> Figure:
    """The median of measurements, and the order statistics that enclose the true one.

        P(x_(k) <= median <= x_(n+1-k)) = 1 - 2 Binomial(n, 1/2).cdf(k - 1)

    Outliers need no rule: a median ignores them, and if there are many, the interval is wide. Of
    fewer than six values not even the extremes enclose it with 95%: they are given, but not steady.
    Source: Hahn & Meeker, Statistical Intervals (1991), 5.2.
    """
    from scipy import stats

    x = np.sort(np.asarray(values, np.float64))
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"measurements {list(values)}: expected finite ones, at least one")
    k = max(1, int(stats.binom.ppf((1 - CONFIDENCE) / 2, len(x), 0.5)))
    return Figure(float(np.median(x)), float(x[k - 1]), float(x[-k]), len(x))


@dataclass(frozen=True)
class Size:
    """Of the network and the batch, and how many examples an epoch takes."""

    width: int = 256
    depth: int = 1
    batch: int = 256
    examples: int = 60_000

    @property
    def hiddens(self) -> tuple[int, ...]:
        return (self.width,) * self.depth

    @property
    def flops(self) -> float:
        """Floating-point operations in the matrix products of an epoch.

        A layer has three, forward and both gradients; the first needs none by its inputs.
        """
        first, inner, last = 784 * self.width, self.width**2, self.width * 10
        return 2.0 * self.examples * (2 * first + 3 * (self.depth - 1) * inner + 3 * last)

    @property
    def intensity(self) -> float:
        """Operations for each byte of weights, activations and gradients that a step must move."""
        weights = 784 * self.width + (self.depth - 1) * self.width**2 + 10 * self.width
        activations = self.batch * (784 + 2 * self.depth * self.width + 2 * 10)
        steps = -(-self.examples // self.batch)
        return self.flops / steps / (4 * (3 * weights + 2 * activations))

    def __str__(self) -> str:
        hidden = "-".join(map(str, self.hiddens))
        return f"784-{hidden}-10, batch {self.batch}"


@dataclass(frozen=True)
class Row:
    """One way of training at one size: a figure of each round, and what was read off once."""

    name: str
    size: Size
    seconds: tuple[float, ...]
    compile_seconds: float
    host_bytes: int
    device_bytes: int | None
    versions: dict[str, str]
    device: str

    @property
    def epoch(self) -> Figure:
        return figure(self.seconds)

    @property
    def rate(self) -> float:
        """Floating-point operations a second in the products."""
        return self.size.flops / self.epoch.median

    def share(self, floor: "Row") -> Figure:
        """Floor's time over this row's, round by round: what slows both cancels."""
        pairs = zip(floor.seconds, self.seconds, strict=False)
        return figure([f / own for f, own in pairs])
