"""The judge of one training step: both sides' new weights against its rounding bound.

For thousands of steps the bound is compiled; for a few it is computed as it comes, which takes some
milliseconds a step where compiling takes seconds.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parity.rounding.bound import Bounds, bound, bounded
from parity.sides.reference import Reference, flat, room
from parity.sides.side import SIDES, Batch
from parity.trees import Leaves

FEW = 200  # steps for which compiling isn't worth it


class Judged(NamedTuple):
    """What one step showed, on its way from the device.

    margins: [sides, leaves], the largest error over its bound; at most 1 inside, inf where
    something isn't finite or is missing. visible: the smallest relative error of the update that
    would certainly have been seen. apart: [leaves], largest difference of the sides over the
    largest value. kinks: [decisions], how many rounding could have turned. unjudged: [leaves],
    elements whose bound is infinite.
    """

    margins: Any
    visible: Any
    apart: Any
    kinks: Any
    unjudged: Any

    @property
    def inside(self) -> bool:
        return bool((np.asarray(self.margins) <= 1).all())


class StepJudge:
    """(params, state, memory, batches, {side: {leaf: after the step}}) -> Judged.

    A compiled one doesn't wait for it. leaves: what the margins are of. decisions: what the kinks
    are of, "max mlp.py:30"; both known after the first call.
    """

    def __init__(self, reference: Reference, steps: int) -> None:
        self.reference, self.compiled = reference, steps > FEW
        self._certain = bounded(reference.step, roundoff=reference.roundoff, masks=False)
        # Two programs: in one, XLA computes the bounds again for each use of them.
        self._bounds, self._judge = jax.jit(self._bounded), jax.jit(_judged)
        self.leaves: tuple[str, ...] = ()
        self.decisions: tuple[str, ...] = ()
        self.sizes = np.array([])

    def __call__(
        self,
        params: Leaves,
        state: Leaves,
        memory: Leaves,
        batches: tuple[Batch, ...],
        given: dict[str, Leaves],
    ) -> Judged:
        shared = set.intersection(*(set(after) for after in given.values()))
        with jax.enable_x64(True):
            if self.compiled:
                value, bounds, kinks = self._bounds(params, state, memory, batches)
            else:
                args = (params, state, memory, batches)
                value, bounds, kinks = self._taken(
                    bound(
                        self.reference.step, *args, roundoff=self.reference.roundoff, likely=False
                    )
                )
            value, bounds = ({n: t[n] for n in sorted(shared & set(t))} for t in (value, bounds))
            self.leaves = tuple(value)
            self.sizes = np.array([np.size(leaf) for leaf in value.values()])
            given = {s: {name: given[s][name] for name in value} for s in SIDES}
            if self.compiled:
                return self._judge(params, value, bounds, given)._replace(kinks=kinks)
            params, given = jax.tree.map(np.asarray, (params, given))
            with np.errstate(all="ignore"):  # inf / inf: not finite, so never inside
                return _judged(params, value, bounds, given, np)._replace(kinks=kinks)

    def blind(self, judged: Judged) -> bool:
        """Whether no element had a finite bound."""
        return bool((np.asarray(judged.unjudged) >= self.sizes).all())

    def _bounded(self, params: Any, state: Any, memory: Any, batches: Any) -> tuple[Any, Any, Any]:
        """(leaves after the step, their bounds, kinks)."""
        return self._taken(self._certain(params, state, memory, batches))

    def _taken(self, b: Bounds) -> tuple[Leaves, Leaves, Any]:
        value, bounds = (flat(loss, parts) for loss, parts in (b.value, b.bound))
        names = tuple(f"{k.primitive} {k.source.rsplit('/', 1)[-1]}" for k in b.kinks)
        if self.compiled:
            self.decisions = names
            return value, bounds, jnp.array([k.count for k in b.kinks], int)
        # Only decisions that something reached are listed: they differ from step to step.
        counts = dict.fromkeys(self.decisions, 0)
        for name, kink in zip(names, b.kinks, strict=True):
            counts[name] = counts.get(name, 0) + kink.count
        self.decisions = tuple(counts)
        return value, bounds, np.array([*counts.values()], int)


def _judged(params: Leaves, value: Leaves, bounds: Leaves, given: Any, xp: Any = jnp) -> Judged:
    margins = [
        [_margin(xp, given[s][leaf], value[leaf], room(bounds[leaf])) for leaf in value]
        for s in SIDES
    ]
    seen = [
        xp.min(xp.where(moved > 0, bounds[leaf] / xp.where(moved > 0, moved, 1.0), xp.inf))
        for leaf, w in params.items()
        if leaf in value
        for moved in [xp.abs(value[leaf] - w)]
    ]
    apart = [_apart(xp, given["jax"][x], given["torch"][x], value[x]) for x in value]
    visible = 2 * xp.min(xp.array(seen))
    unjudged = xp.array([xp.sum(xp.isposinf(bounds[leaf])) for leaf in value])
    return Judged(xp.array(margins), visible, xp.array(apart), None, unjudged)


def _apart(xp: Any, x: Any, y: Any, value: Any) -> Any:
    if xp.shape(x) != xp.shape(y):
        return xp.inf
    largest = xp.max(xp.abs(value))
    return xp.max(xp.abs(x - y)).astype(xp.float64) / xp.where(largest > 0, largest, 1.0)


def _margin(xp: Any, x: Any, value: Any, limit: Any) -> Any:
    """Largest |x - value| / limit; inf for anything not finite, or any difference without room."""
    if xp.shape(x) != xp.shape(value):
        return xp.inf
    error = xp.abs(xp.asarray(x).astype(xp.float64) - value)
    safe = xp.where(limit > 0, limit, 1.0)
    margin = xp.where(limit > 0, error / safe, xp.where(error == 0, 0.0, xp.inf))
    return xp.max(xp.where(xp.isfinite(error) & ~xp.isnan(limit), margin, xp.inf))
