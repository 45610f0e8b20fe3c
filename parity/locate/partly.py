"""Tensors that the other side has in parts, or but for a factor: another way to write the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.sides.tensors import Fingerprint, Traced

_FINE = 1e-6  # of a tensor's size: wider bounds, as of what rounding alone leaves, tell nothing


def in_parts(lone: Sequence[Traced], there: Sequence[Traced]) -> dict[int, tuple[int, ...]]:
    """{number of a tensor: those that it is made of, up to three, and of zeros}.

    Counts of numbers and sums of their first four powers are those of the parts together, and its
    largest and smallest number lie in one of them. So a packed product of queries, keys and values
    is found where the other side has three; and a gradient put among zeros.
    """
    there = [t for t in there if _generic(t)]
    found: dict[int, tuple[int, ...]] = {}
    if not there:
        return found
    sums = np.stack([t.fingerprint.sums for t in there])
    ends = np.stack([_ends(t) for t in there])
    for t in lone:
        if not _generic(t):
            continue
        whole, (least, most) = t.fingerprint.sums, _ends(t)
        # Zeros around the parts may lie beyond their ends.
        inside = (ends[:, 1, 0] <= max(most[1], 0)) & (ends[:, 0, 1] >= min(least[0], 0))
        fit = np.flatnonzero(inside & (sums[:, 0, 0] <= whole[0, 1]))
        if len(fit) and (parts := _adding_up(whole, most, sums[fit], ends[fit])):
            found[t.number] = tuple(there[fit[i]].number for i in parts)
    return found


def _adding_up(
    whole: np.ndarray, most: np.ndarray, sums: np.ndarray, ends: np.ndarray
) -> tuple[int, ...]:
    """Indices of parts [n, 5, 2] that add up to the whole; one has its largest number."""

    def fits(together: np.ndarray) -> np.ndarray:
        return np.all(
            (together[..., 0] <= whole[:, 1]) & (whole[:, 0] <= together[..., 1]), axis=-1
        )

    if len(one := np.flatnonzero(fits(sums))):
        return (int(one[0]),)
    first = (ends[:, 1, 0] <= most[1]) & (most[0] <= ends[:, 1, 1]) | (most[0] <= 0)
    for i in np.flatnonzero(first):
        both = sums[i] + sums
        for j in np.flatnonzero(fits(both)):
            if j != i:
                return int(i), int(j)
        for k in range(len(sums)):
            if k == i or sums[i, 0, 0] + sums[k, 0, 0] >= whole[0, 1]:
                continue
            for j in np.flatnonzero(fits(both + sums[k])):
                if j not in (i, k):
                    return int(i), int(k), int(j)
    return ()


def proportional(lone: Sequence[Traced], there: Sequence[Traced]) -> dict[int, tuple[int, float]]:
    """{number of a tensor: (number of the other side's, its factor)} of those whose numbers agree
    but for a factor. Of fewer than 3 numbers, none."""
    there = [t for t in there if _usable(t)]
    found: dict[int, tuple[int, float]] = {}
    if not there:
        return found
    phases = np.array([t.phase for t in there])
    both = [[_middle(t.fingerprint, turned) for t in there] for turned in (False, True)]
    ways = [tuple(map(np.stack, zip(*way, strict=True))) for way in both]
    for t in lone:
        if not _usable(t):
            continue
        own, room = _middle(t.fingerprint, False)
        at = int(np.argmax(np.abs(own)))
        for sign, (middles, rooms) in zip((1, -1), ways, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = middles[:, at] / own[at]
                off = rooms + np.abs(factor)[:, None] * room
                doubt = off[:, at] / np.abs(middles[:, at])
                near = np.abs(middles - factor[:, None] * own) <= off + (
                    doubt[:, None] * np.abs(middles)
                )
            sure = doubt < (_FINE if len(t.shape) == 0 or np.prod(t.shape) < 16 else 1e-3)
            hits = np.flatnonzero(near.all(axis=1) & (factor > 0) & sure)
            if len(hits):
                same = hits[phases[hits] == t.phase]
                at_ = (same if len(same) else hits)[0]
                found[t.number] = there[at_].number, sign * float(factor[at_])
                break
    return found


def _middle(f: Fingerprint, turned: bool) -> tuple[np.ndarray, np.ndarray]:
    """Middles and rooms of the statistics; turned: of the negated tensor."""
    middle, room = (f.low + f.high) / 2, (f.high - f.low) / 2
    if not turned:
        return middle, room
    n = len(f.ranks[0])
    return tuple(  # type: ignore[return-value]
        np.concatenate([s * x[:n][::-1], s * x[n : n + 1], x[n + 1 :][::-1]])
        for s, x in ((-1, middle), (1, room))
    )


def _ends(t: Traced) -> np.ndarray:
    """[smallest, largest], each from its least to its greatest."""
    low, high = t.fingerprint.ranks
    return np.array([[low[0], high[0]], [low[-1], high[-1]]])


def _distinct(t: Traced) -> int:
    low, high = t.fingerprint.ranks
    return 1 + int((low[1:] > high[:-1]).sum())


def _usable(t: Traced) -> bool:
    finite = np.all(np.isfinite(t.fingerprint.low)) and np.all(np.isfinite(t.fingerprint.high))
    return bool(finite and np.prod(t.shape) >= 3 and _distinct(t) >= 3)


def _generic(t: Traced) -> bool:
    """Enough different numbers, known well enough, for their sums to mean something."""
    sums = t.fingerprint.sums
    fine = sums[2, 1] - sums[2, 0] <= _FINE * sums[2, 0]
    return bool(np.all(np.isfinite(sums)) and fine and _distinct(t) >= 3)
