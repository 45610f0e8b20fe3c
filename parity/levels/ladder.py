"""The levels, from the first input byte to the last weight, and the climb. Later levels join by a
line in LEVELS."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from parity.comparison import Comparison
from parity.levels import (
    accuracy,
    curve,
    determinism,
    devices,
    every_step,
    gradients,
    identity,
    initial_weights,
    inputs,
    logits,
    loss,
    masks,
    precision,
    probes,
    products,
    refit,
    same_bits,
    state,
    step,
    weights,
)
from parity.levels.level import Level, Result, Skipped
from parity.levels.pair import Pair
from parity.sides.side import ModelFails, lacks

LEVELS = (
    inputs.LEVEL,
    weights.LEVEL,
    identity.LEVEL,
    initial_weights.LEVEL,
    probes.LEVEL,
    precision.LEVEL,
    products.LEVEL,
    determinism.LEVEL,
    devices.LEVEL,
    logits.LEVEL,
    masks.LEVEL,
    loss.LEVEL,
    accuracy.LEVEL,
    gradients.LEVEL,
    step.LEVEL,
    state.LEVEL,
    every_step.LEVEL,
    curve.LEVEL,
    refit.LEVEL,
    same_bits.LEVEL,
)


def climb(
    pair: Pair, levels: Sequence[Level] = LEVELS, before: Sequence[Result] = ()
) -> Iterator[Result]:
    """Judge every level at each of its precisions, from the first input to the last weight.

    before: the results of the first of them, which are taken as they are.
    """
    yield from before
    done = len(before)
    for level in levels:
        if not (pair.chosen or level.applies(pair)):
            continue
        if level is identity.LEVEL and not done:
            # Python computes there for seconds: XLA may compile meanwhile. What can't be compiled
            # is told by the level that needs it.
            with contextlib.suppress(Exception):
                pair.prepare()
        for dtype in level.precisions:
            if done:
                done -= 1
                continue
            pair.on_start(f"{level.name} {dtype}")
            start = time.perf_counter()
            comparisons: tuple[Comparison, ...] = ()
            skipped = note = ""
            try:
                for s, side in pair.sides("float32").items():
                    if lacks(side, level.needs):
                        raise Skipped(f"{s}: this side has no {level.needs}")
                if dtype == "float64" and (why := pair.without_float64):
                    raise Skipped(why)
                comparisons = tuple(level.judge(pair, dtype))
                note = level.note(pair, dtype)
            except Skipped as reason:
                skipped = str(reason)
            except ModelFails as error:
                where = f"level '{level.name}', {dtype}"
                raise ModelFails(f"{where}: {error}") from error.__cause__
            known = tuple(_known(pair, level, comparisons))
            seconds = time.perf_counter() - start
            yield Result(level, dtype, comparisons, seconds, skipped, note, known)


def named(levels: Sequence[Level | str]) -> list[Level]:
    """Levels, given by themselves or by name. Raises ValueError for a name that there isn't."""
    known = {level.name: level for level in LEVELS}
    levels = [levels] if isinstance(levels, str) else levels
    if not levels:
        raise ValueError(f"levels: none, expected some of {list(known)}")
    if unknown := [name for name in levels if isinstance(name, str) and name not in known]:
        raise ValueError(f"levels: no {unknown}; there are {list(known)}")
    return [known[level] if isinstance(level, str) else level for level in levels]


def _known(
    pair: Pair, level: Level, comparisons: Sequence[Comparison]
) -> Iterator[tuple[str, str]]:
    """(comparison, reason) of each that differs as the user said it would."""
    for c in comparisons:
        for difference in pair.known:
            pattern = f"*{difference.leaf}*"
            here = fnmatchcase(level.name, difference.level)
            here |= difference.level == "state" and c.name.startswith("state.")
            here |= level is identity.LEVEL and c.name.partition(".")[0] == difference.level
            if not c.ok and here and fnmatchcase(c.name, pattern):
                yield c.name, difference.reason
                break
