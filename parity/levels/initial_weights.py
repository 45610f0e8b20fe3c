"""Initial weights: are those of both sides draws from the same distribution?"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from parity.comparison import Comparison, compare
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.sides.side import SIDES
from parity.trees import Arrays

DRAWS = 4  # models whose initial weights are pooled
FALSE_ALARM = 1e-9  # of a comparison of two samples of one distribution, at most


def judge_initial(pair: Pair, precision: str) -> list[Comparison]:
    """Kolmogorov-Smirnov: initial parameters of both sides, leaf by leaf.

        D = max_x |F(x) - G(x)|  <=  e(n) + e(m),    e(n) = sqrt(ln(4 / alpha) / 2n)

    F, G: empirical distributions of n and m values. Each is within e of its true one with
    probability 1 - alpha/2 (Massart 1990), so alpha = 1e-9 bounds the rate of false alarms; and
    true distributions at least 2 (e(n) + e(m)) apart are found with probability 1 - alpha.
    That is 0.03 for the 200,704 weights of a first layer in each of 4 models, and 0.41 for its 256
    biases; Torch's uniform and Flax's LeCun normal are 0.16 apart, and 0.5 from zero biases.
    """
    if pair.initial is None:
        raise Skipped(
            "nothing draws new models: pass initial=(seed -> Torch model, seed -> JAX model)"
        )
    samples = [pooled(pair, s) for s in SIDES]
    found = []
    for name in samples[0]:
        a, b = (sample[name] for sample in samples)
        room = sum(np.sqrt(np.log(4 / FALSE_ALARM) / (2 * len(x))) for x in (a, b))
        label = f"distribution of initial {name} ({len(a):,} values; shows {2 * room:.2g})"
        found.append(compare(distance(a, b), 0.0, room, name=label, sides=("distance", "expected")))
    return found


def distance(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> float:
    """The Kolmogorov-Smirnov distance of two sorted samples."""
    x = np.concatenate([a, b])
    F, G = (np.searchsorted(s, x, side="right") / len(s) for s in (a, b))
    return float(np.abs(F - G).max())


def pooled(pair: Pair, side: str) -> Arrays:
    """All values of each leaf of several models, sorted."""
    key = "initial weights", side
    if key not in pair.kept:
        draw: Callable[[int], Any] = pair.initial[side]
        models = [draw(seed) for seed in range(DRAWS)]
        pair.kept[key] = {
            n: np.sort(np.concatenate([np.ravel(m[n]) for m in models])) for n in models[0]
        }
    return pair.kept[key]


LEVEL = Level(
    "initial weights",
    "Are initial weights drawn from the same distribution?",
    f"Kolmogorov-Smirnov, false alarms below {FALSE_ALARM:g}",
    judge_initial,
    ("bits",),
)
