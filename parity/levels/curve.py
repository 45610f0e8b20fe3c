"""Whole training runs: losses of every step, validation figures of every epoch, final weights.

float64: the sides must stay closer to each other than a run whose every update is too large by one
part in 10^9 comes to JAX's in one epoch. The same fault moves the weights, to first order, by 10^-9
of the way that they have come since the start, which needs no run.

float32: each side's distance from the float64 curve, against the other's, as `effective_bits` says.

A ReLU whose sign rounding turns, for one example in one step, moves a run by more than all rounding
before it, and may do so to one side alone: of 40 honest ReLU networks, trained for 96 steps, 6 were
further from the float64 curve on one side than that allows. So what fails is asked once more: do
runs in float64 get as far, whose initial weights are off by as many bits as separate the two sides
at most?

    w -> w (1 + 2^6.5 u e),    e uniform in [-1, 1],    8 twins;    u of the precision that's judged

A side may go 4 times as far as the furthest twin. Where training amplifies such differences until
they are as large as they can be, a side is another draw of what the twins are: their log-distances
scattered by 0.2 to 0.7 in four networks, so that 4 times the furthest of 8 is 3 standard deviations
away and more. Before that the twins are ahead of what rounding does: they turn some 2^6.5 times as
many signs. Of 120 more honest networks 8 needed twins; a quarter of the room was the most used.
"""

import numpy as np

from parity.compare import Comparison, compare
from parity.levels.effective_bits import RATIO, distance, float64_room, same_bits
from parity.levels.rungs import ROUNDOFF, Rungs
from parity.sides.pairs import Run
from parity.sides.side import SIDES

YARDSTICK = 1e-9
TWINS, FURTHER = 8, 4.0

Curves = dict[str, np.ndarray]


def curves(run: Run) -> Curves:
    """Losses of all steps, and validation figures of all epochs, by name."""
    keys = run.history.epochs[0].val
    val = {f"val_{key}": np.array(run.history.val(key)) for key in keys}
    return {"train_loss": np.array(run.history.train_loss), **val}


def judge_curve(rungs: Rungs, precision: str) -> list[Comparison]:
    """Losses of every step, validation figures of every epoch, final weights, of whole runs."""
    judge = _in_float64 if precision == "float64" else _in_float32
    found = judge(rungs, [])
    if all(c.ok for c in found) or not _comparable(rungs, precision):
        return found
    return judge(rungs, rungs.twins(precision, TWINS, RATIO * ROUNDOFF[precision]))


def note_curve(rungs: Rungs, precision: str) -> str:
    if not rungs.has_twins(precision):
        return ""
    return (
        "further off than rounding alone brings, but a ReLU's sign may have turned: judged by "
        f"{TWINS} float64 runs, from weights off by up to {RATIO:.0f} roundings of {precision}"
    )


def _in_float64(rungs: Rungs, twins: list[Run]) -> list[Comparison]:
    ours, theirs = (rungs.run(s, "float64") for s in SIDES)
    off = curves(rungs.run("jax", "float64", 1 + YARDSTICK))
    floor = _rounding_of_loss(rungs)
    found = []
    for name, curve in curves(ours).items():
        # An accuracy is a count over n, rounded in float32: half an example is none.
        least = 0.5 / rungs.val_examples if name == "val_acc" else 2 * floor
        # How far it has come by then: it may cross the curve again and again.
        away = [FURTHER * _furthest(curves(run)[name] - curve) for run in twins]
        away += [_furthest(off[name] - curve[: len(off[name])])]
        room = least + np.max([_lengthened(a, len(curve)) for a in away], axis=0)
        found.append(compare(curve, curves(theirs)[name], room, name=name, sides=SIDES))
    for name, array in ours.params.items():
        room = YARDSTICK * np.abs(array - rungs.params[name]).max()
        strayed = [np.abs(twin.params[name] - array).max() for twin in twins]
        room = max([room, *(FURTHER * far for far in strayed)])
        found.append(compare(array, theirs.params[name], room, name=f"final {name}", sides=SIDES))
    return found


def _in_float32(rungs: Rungs, twins: list[Run]) -> list[Comparison]:
    found = []
    for name, exact in curves(rungs.run("jax", "float64")).items():
        own = {s: curves(rungs.run(s, "float32"))[name] for s in SIDES}
        # A prediction is a decision too: rounding may turn one, hardly two.
        least = [1.5 / rungs.val_examples] if name == "val_acc" else []
        strayed = [FURTHER * distance(curves(twin)[name], exact) for twin in twins]
        label = f"{name}: distance from the float64 curve"
        found += same_bits(exact, own, label, max([0.0, *least, *strayed]))
    return found


def _comparable(rungs: Rungs, precision: str) -> bool:
    """Whether twins can help: not where a run isn't finite, or of another length."""
    runs = [rungs.run(s, p) for s, p in (("jax", "float64"), *((s, precision) for s in SIDES))]
    shapes = [{name: curve.shape for name, curve in curves(run).items()} for run in runs]
    finite = (np.isfinite(curve).all() for run in runs for curve in curves(run).values())
    return all(shape == shapes[0] for shape in shapes) and all(finite)


def _furthest(difference: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(np.abs(difference))


def _lengthened(curve: np.ndarray, length: int) -> np.ndarray:
    return np.pad(curve, (0, length - len(curve)), mode="edge")


def _rounding_of_loss(rungs: Rungs) -> float:
    """How far rounding may move the first loss in float64."""
    batch = next(iter(rungs.batches))
    if not rungs.unbounded("float64"):
        return float(rungs.reference("float64", batch).bound.loss)
    exact, own = (
        {s: rungs.evaluate(s, p, batch).loss for s in SIDES} for p in ("float64", "float32")
    )
    return float64_room(exact, own)
