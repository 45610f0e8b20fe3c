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

from parity.comparison import Comparison, compare
from parity.levels.effective_bits import RATIO, distance, float64_room, same_bits
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.levels.same_bits import diverged
from parity.sides.pairs import Run
from parity.sides.reference import ROUNDOFF
from parity.sides.side import SIDES

YARDSTICK = 1e-9
TWINS, FURTHER = 8, 4.0

Curves = dict[str, np.ndarray]


def curves(run: Run) -> Curves:
    """Losses of all steps, and validation figures of all epochs, by name."""
    keys = run.history.epochs[0].val
    val = {f"val_{key}": np.array(run.history.val(key)) for key in keys}
    return {"train_loss": np.array(run.history.train_loss), **val}


def judge_curve(pair: Pair, precision: str) -> list[Comparison]:
    """Losses of every step, validation figures of every epoch, final weights, of whole runs."""
    if pair.infer:
        raise Skipped("there are no targets: nothing is trained")
    if why := pair.without_float64:
        raise Skipped(f"no float64 curve to hold it against: {why}")
    judge = _in_float64 if precision == "float64" else _in_float32
    found = judge(pair, [])
    if all(c.ok for c in found) or not _comparable(pair, precision):
        return found
    if why := pair.narrow:
        raise Skipped(f"no float64 curve to hold it against: {why}")
    return judge(pair, pair.twins(precision, TWINS, RATIO * ROUNDOFF[precision]))


def note_curve(pair: Pair, precision: str) -> str:
    if end := _diverged(pair, precision):
        pair.remarks.append(f"both {precision} runs diverge at step {end:,}: one story until there")
        return f"both runs diverge at step {end:,}, and were compared until there"
    if not pair.has_twins(precision):
        return ""
    return (
        "further off than rounding alone brings, but a ReLU's sign may have turned: judged by "
        f"{TWINS} float64 runs, from weights off by up to {RATIO:.0f} roundings of {precision}"
    )


def _in_float64(pair: Pair, twins: list[Run]) -> list[Comparison]:
    ours, theirs = (pair.run(s, "float64") for s in SIDES)
    off = curves(pair.run("jax", "float64", 1 + YARDSTICK))
    if end := _diverged(pair, "float64"):  # one story, told until there
        curve, other = (curves(run)["train_loss"][:end] for run in (ours, theirs))
        wrong = off["train_loss"][:end]
        with np.errstate(invalid="ignore"):
            away = _furthest(wrong - curve[: len(wrong)])
        away = np.where(np.isnan(away), np.inf, away)
        room = 2 * loss_floor(pair) + _lengthened(away, curve)
        return [compare(curve, other, room, name="train_loss", sides=SIDES)]
    floor = loss_floor(pair)
    found = []
    for name, curve in curves(ours).items():
        # An accuracy is a count over n, rounded in float32: half an example is none.
        least = 0.5 / pair.val_examples if name == "val_acc" else 2 * floor
        # How far it has come by then: it may cross the curve again and again.
        ways = [FURTHER * _furthest(curves(run)[name] - curve) for run in twins]
        ways += [_furthest(off[name] - curve[: len(off[name])])]
        room = least + np.max([_lengthened(way, curve) for way in ways], axis=0)
        found.append(compare(curve, curves(theirs)[name], room, name=name, sides=SIDES))
    for name, array in ours.params.items():
        room = YARDSTICK * np.abs(array - pair.params[name]).max()
        strayed = [np.abs(twin.params[name] - array).max() for twin in twins]
        room = max([room, *(FURTHER * far for far in strayed)])
        found.append(compare(array, theirs.params[name], room, name=f"final {name}", sides=SIDES))
    return found


def _in_float32(pair: Pair, twins: list[Run]) -> list[Comparison]:
    found = []
    if _diverged(pair, "float32"):
        runs = [pair.run(s, p) for s, p in (("jax", "float64"), *((s, "float32") for s in SIDES))]
        end = _finite(*runs)
        exact, *both = (curves(run)["train_loss"][:end] for run in runs)
        label = "train_loss: distance from the float64 curve"
        return same_bits(exact, dict(zip(SIDES, both, strict=True)), label)
    for name, exact in curves(pair.run("jax", "float64")).items():
        own = {s: curves(pair.run(s, "float32"))[name] for s in SIDES}
        # A prediction is a decision too: rounding may turn one, hardly two.
        least = [1.5 / pair.val_examples] if name == "val_acc" else []
        strayed = [FURTHER * distance(curves(twin)[name], exact) for twin in twins]
        label = f"{name}: distance from the float64 curve"
        found += same_bits(exact, own, label, max([0.0, *least, *strayed]))
    return found


def _diverged(pair: Pair, precision: str) -> int:
    """The step at which the losses of both sides cease to be finite, if it is the same; else 0."""
    return diverged(*(np.array(pair.run(s, precision).history.train_loss) for s in SIDES))


def _finite(*runs: Run) -> int | None:
    """How many losses of all runs are finite before the first that isn't; None if all are."""
    losses = [np.array(run.history.train_loss) for run in runs]
    if len({len(x) for x in losses}) > 1 or all(np.isfinite(x).all() for x in losses):
        return None
    return int(np.flatnonzero(~np.isfinite(losses).all(axis=0))[0])


def _comparable(pair: Pair, precision: str) -> bool:
    """Whether twins can help: not where a run isn't finite, or of another length."""
    runs = [pair.run(s, p) for s, p in (("jax", "float64"), *((s, precision) for s in SIDES))]
    shapes = [{name: curve.shape for name, curve in curves(run).items()} for run in runs]
    finite = (np.isfinite(curve).all() for run in runs for curve in curves(run).values())
    return all(shape == shapes[0] for shape in shapes) and all(finite)


def _furthest(difference: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(np.abs(difference))


def _lengthened(away: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """How far an update off by 10^-9 brings a run, past its end: as far as it was there, or, where
    the curve has grown since, by the same share of it."""
    last = len(away) - 1
    so_far, later = np.abs(curve[: last + 1]).max(), np.maximum.accumulate(np.abs(curve[last:]))[1:]
    with np.errstate(over="ignore"):
        grown = np.maximum(later, so_far) / so_far if so_far else np.ones_like(later)
        return np.concatenate([away, away[-1] * grown])


def loss_floor(pair: Pair) -> float:
    """How far rounding may move the first loss in float64."""
    batch = next(iter(pair.batches))
    if not pair.unbounded("float64"):
        return float(pair.expected("float64", batch).bound.loss)
    exact, own = (
        {s: pair.evaluate(s, p, batch).loss for s in SIDES} for p in ("float64", "float32")
    )
    return float64_room(exact, own)


LEVEL = Level(
    "curve",
    "Same losses, step by step, and same weights at the end?",
    "closer than updates off by 1e-9 would bring; in float32, same effective bits; or no "
    "further than weights off by 6.5 bits of their precision at the start bring a run",
    judge_curve,
    note=note_curve,
    needs="train",
)
