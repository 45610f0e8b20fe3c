"""Refit: does a second fit from the same weights repeat the first, on each side?"""

from typing import Any

import numpy as np

from parity.comparison import Comparison, compare
from parity.levels.curve import YARDSTICK, curves, loss_floor
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.levels.same_bits import diverged
from parity.sides.side import SIDES, Run
from parity.trees import Arrays

EPOCHS = 3  # what a fit leaves behind shows in the next one's first; whole runs are compared whole


def judge_refit(pair: Pair, precision: str) -> list[Comparison]:
    """A second fit from the same weights against the first, on each side.

    As close as on the level `curve`: nearer than a run whose updates are off by one part in 10^9.
    """
    if pair.infer:
        raise Skipped("there are no targets: nothing is trained")
    if precision == "float64" and (why := pair.without_float64):
        raise Skipped(why)
    epochs = pair.epochs if pair.epochs <= EPOCHS else 1
    exact = pair.run("jax", precision)
    reach = _reach(pair, exact, pair.run("jax", precision, 1 + YARDSTICK))
    found = []
    for s in SIDES:
        again = _again(pair, s, precision, epochs)
        whole = epochs == pair.epochs
        first = _of_epochs(pair.run(s, precision), epochs, whole)
        second = _of_epochs(again, epochs, whole)
        if end := diverged(first["train_loss"], second["train_loss"]):  # one story, told until then
            first, second = ({"train_loss": run["train_loss"][:end]} for run in (first, second))
            room = reach["train_loss"][:end]
            reach = reach | {"train_loss": np.where(np.isnan(room), np.inf, room)}
        for name in first:
            label = f"{s} second fit: {name}"
            room, sides = _of_length(reach[name], first[name]), ("first", "second")
            found.append(compare(first[name], second[name], room, name=label, sides=sides))
    return found


def _again(pair: Pair, s: str, precision: str, epochs: int) -> Run:
    key = "refit", s, precision
    if key not in pair.kept:
        pair.on_start(f"{epochs} epochs again, {s} {precision}")
        pair.kept[key] = pair.sides(precision)[s].train(epochs)
    return pair.kept[key]


def _of_epochs(run: Run, epochs: int, whole: bool) -> Arrays:
    """The curves of the first epochs; of a whole run the final weights too."""
    steps = sum(record.steps for record in run.history.epochs[:epochs])
    found = {
        name: curve[: steps if name == "train_loss" else epochs]
        for name, curve in curves(run).items()
    }
    return (
        found | {f"final {name}": array for name, array in run.params.items()} if whole else found
    )


def _reach(pair: Pair, exact: Run, off: Run) -> dict[str, Any]:
    floor = loss_floor(pair)
    room: dict[str, Any] = {}
    for name, curve in curves(exact).items():
        wrong = curves(off)[name]
        away = np.maximum.accumulate(np.abs(curve[: len(wrong)] - wrong))
        least = 0.5 / pair.val_examples if name == "val_acc" else 2 * floor
        room[name] = least + np.pad(away, (0, len(curve) - len(away)), mode="edge")
    for name, array in exact.params.items():
        room[f"final {name}"] = YARDSTICK * np.abs(array - pair.params[name]).max()
    return room


def _of_length(room: Any, curve: np.ndarray) -> Any:
    """For a faulty run that has more steps, or fewer."""
    if np.ndim(room) == 0:
        return room
    return np.pad(room, (0, max(0, len(curve) - len(room))), mode="edge")[: len(curve)]


LEVEL = Level(
    "refit",
    "Does a second fit from the same weights repeat the first?",
    "closer than a run with updates off by 1e-9",
    judge_refit,
    ("float64",),
    needs="train",
)
