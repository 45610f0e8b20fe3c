"""A check that was killed goes on at the level where it was: what is kept of those before it."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlp_core.checkpoint import Checkpoint, Checkpoints, told
from mlp_core.history import Epoch, History
from mlp_core.packing import Arrays, restored, stored
from mlp_core.resuming import check_same, newest
from parity.comparison import Comparison
from parity.levels.every_step import Trajectory
from parity.levels.level import Level, Result
from parity.levels.pair import Pair
from parity.levels.question import Facts, question
from parity.locate.divergence import Divergence
from parity.problem import Problem
from parity.sides.pairs import Run


@dataclass
class SavedLevels:
    """The results of a check so far, in the order of the climb. Without a place nothing is saved.

    before: those that were found before it was killed.
    """

    place: Checkpoints | None
    asked: Facts
    before: list[Result]

    def save(self, results: Sequence[Result], pair: Pair) -> None:
        """Save what was found, once more than the last time. Raises CheckpointError."""
        if self.place is not None:
            arrays: Arrays = {}
            found = stored(_held(results, pair), arrays, "found", _array)
            facts = {"settings": self.asked, "found": found}
            self.place.start(Checkpoint(len(results), arrays, facts))


@contextlib.contextmanager
def saved_levels(
    place: Checkpoints | None, resume: bool, problem: Problem, pair: Pair, levels: Sequence[Level]
) -> Iterator[SavedLevels]:
    """What was saved in `place` for this very question, if `resume` asks for it.

    The pair then holds the runs and the certified steps that those levels made. Raises
    CheckpointError for results of another question, named by what differs, or of which no file is
    whole.
    """
    if place is None:
        yield SavedLevels(None, {}, [])
        return
    with place.opened():
        found = newest(place, resume)
        asked = question(problem, pair, levels)
        before: list[Result] = []
        if found is not None:
            with told(found.path):
                theirs = dict(found.facts["settings"])
                # What else a process happens to have imported is no part of the question.
                code = {n: was for n, was in theirs["code"].items() if n in asked["code"]}
                own = asked | {"code": {name: asked["code"][name] for name in code}}
                check_same(_by_name(own), _by_name(theirs | {"code": code}), found.path)
                before = _restored(found, pair, levels)
        yield SavedLevels(place, asked, before)


def _by_name(asked: Facts) -> Facts:
    """Each file of code by itself, so that an error names the one that was changed."""
    code = {f"code of {name}": digest for name, digest in asked["code"].items()}
    return {name: value for name, value in asked.items() if name != "code"} | code


def _held(results: Sequence[Result], pair: Pair) -> Facts:
    steps = pair.certified
    return {
        "results": [_result_held(result) for result in results],
        "runs": [
            {
                "of": key,
                "losses": np.array(run.history.train_loss, np.float64),
                "epochs": [asdict(epoch) for epoch in run.history.epochs],
                "params": run.params,
                "state": run.state,
            }
            for key, run in pair.runs()
        ],
        "every step": None if steps is None else asdict(steps),
        "remarks": list(pair.remarks),
        "not exercised": [list(never) for never in pair.all_unexercised()],
    }


def _result_held(result: Result) -> Facts:
    own = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    comparisons = [asdict(c) for c in result.comparisons]
    return own | {"level": result.level.name, "comparisons": comparisons}


def _restored(found: Checkpoint, pair: Pair, levels: Sequence[Level]) -> list[Result]:
    held = restored(found.facts["found"], found.arrays, lambda array: array)
    order = [(level, precision) for level in levels for precision in level.precisions]
    results = [
        Result(**own | {"level": level, "comparisons": tuple(map(_comparison, own["comparisons"]))})
        for own, (level, _) in zip(held["results"], order, strict=False)
    ]
    if [(r["level"], r["precision"]) for r in held["results"]] != [
        (level.name, precision) for level, precision in order[: found.step]
    ]:
        raise ValueError("levels in another order")
    for run in held["runs"]:
        epochs = [Epoch(**epoch) for epoch in run["epochs"]]
        history = History(run["losses"].tolist(), epochs)
        pair.take_up(run["of"], Run(history, run["params"], run["state"]))
    if (steps := held["every step"]) is not None:
        first = steps["divergence"] and Divergence(**steps["divergence"])
        pair.certified = Trajectory(**steps | {"divergence": first})
    pair.remarks += held["remarks"]
    pair.unexercised_before = held["not exercised"]
    return results


def _comparison(own: Any) -> Comparison:
    return Comparison(**own)


def _array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else None
