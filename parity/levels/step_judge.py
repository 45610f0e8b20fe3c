"""The judge of one training step: both sides' new weights against its rounding bound, compiled."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from parity.levels.rungs import ROUNDOFF
from parity.locate.divergence import ROOM
from parity.rounding.bound import Bounds, bounded
from parity.sides.side import SIDES
from parity.sides.stages import Stages, Tree


class Judged(NamedTuple):
    """What one step showed, on its way from the device.

    margins: [sides, leaves], the largest error over its bound; at most 1 inside, inf where
    something isn't finite or is missing. visible: the smallest relative error of the update that
    would certainly have been seen. apart: [leaves], largest difference of the sides over the
    largest value. kinks: [decisions], how many rounding could have turned.
    """

    margins: Any
    visible: Any
    apart: Any
    kinks: Any

    @property
    def inside(self) -> bool:
        return bool((np.asarray(self.margins) <= 1).all())


class StepJudge:
    """(params, X, y, {side: loss}, {side: new params}) -> Judged, without waiting for it.

    leaves: what the margins are of. decisions: what the kinks are of, "max mlp.py:30"; both known
    after the first call.
    """

    def __init__(self, stages: Stages) -> None:
        roundoff = ROUNDOFF[stages.side.dtype]
        self._certain = bounded(stages.step, roundoff=roundoff, masks=False)
        # Two programs: in one, XLA computes the bounds again for each use of them.
        self._bounds, self._judge = jax.jit(self._bounded), jax.jit(_judged)
        self.leaves: tuple[str, ...] = ()
        self.decisions: tuple[str, ...] = ()

    def __call__(self, params: Tree, X: Any, y: Any, loss: Tree, new: Tree) -> Judged:
        given = {s: {"loss": loss[s], **new[s]} for s in SIDES}
        with jax.enable_x64(True):
            value, bound, kinks = self._bounds(params, X, y)
            self.leaves = tuple(value)  # in the order that jit gives, as in `_judged`
            return self._judge(params, value, bound, given)._replace(kinks=kinks)

    def _bounded(self, params: Tree, X: Any, y: Any) -> tuple[Tree, Tree, Any]:
        """(loss and new weights, their bounds, kinks)."""
        b: Bounds = self._certain(params, X, y)
        value, bound = ({"loss": loss, **tree} for loss, tree in (b.value, b.bound))
        self.decisions = tuple(f"{k.primitive} {k.source.rsplit('/', 1)[-1]}" for k in b.kinks)
        return value, bound, jnp.array([k.count for k in b.kinks], int)


def _judged(params: Tree, value: Tree, bound: Tree, given: Tree) -> Judged:
    margins = [
        [_margin(given[s][leaf], value[leaf], ROOM * bound[leaf]) for leaf in value] for s in SIDES
    ]
    seen = [
        jnp.min(jnp.where(moved > 0, bound[leaf] / moved, jnp.inf))
        for leaf, w in params.items()
        for moved in [jnp.abs(value[leaf] - w)]
    ]
    apart = [_apart(given["jax"][x], given["torch"][x], value[x]) for x in value]
    visible = 2 * jnp.min(jnp.array(seen))
    return Judged(jnp.array(margins), visible, jnp.array(apart), None)


def _apart(x: Any, y: Any, value: Any) -> Any:
    if jnp.shape(x) != jnp.shape(y):
        return jnp.inf
    return jnp.max(jnp.abs(x - y)).astype(jnp.float64) / jnp.max(jnp.abs(value))


def _margin(x: Any, value: Any, room: Any) -> Any:
    """Largest |x - value| / room; inf for anything not finite, or any difference without room."""
    if jnp.shape(x) != jnp.shape(value):
        return jnp.inf
    error = jnp.abs(jnp.asarray(x).astype(jnp.float64) - value)
    margin = jnp.where(error == 0, 0.0, error / room)
    return jnp.max(jnp.where(jnp.isfinite(error) & jnp.isfinite(room), margin, jnp.inf))
