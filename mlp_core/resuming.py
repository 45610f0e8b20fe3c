"""What both Trainers do to be killed at any moment and go on: when to save, what must agree.

    fit(epochs 0 ... n) = fit(resume) after fit(killed at any step),  in every bit

A side brings a `State`: its arrays, and how they are put back.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from mlp_core import random_states
from mlp_core.checkpoint import Checkpoint, CheckpointError, Checkpoints, add, read, told
from mlp_core.files import plain
from mlp_core.history import Epoch
from mlp_core.packing import Arrays, packed, unpacked
from mlp_core.shell import Point
from mlp_core.stopping import Stop, awaited

T = TypeVar("T")
Facts = dict[str, Any]

# What may be another when a run goes on: how long it is, where it computes, where the data lie.
# In native arithmetic another device rounds otherwise, and goes on to bits of its own.
FREE = ("max_epochs", "num_gpus", "devices", "processes", "at_nan", "data", "root", "num_workers")
BOARD = ("data", "raw_points")


@runtime_checkable
class State(Protocol):
    """What a side's Trainer keeps from step to step, beside its history. Facts are JSON.

    restore and its like raise CheckpointError for arrays of another model.
    """

    def held(self) -> tuple[Arrays, Facts]:
        """Weights and other state of the model, the optimiser's state."""

    def restore(self, arrays: Arrays, facts: Facts) -> None: ...

    def loaders(self) -> tuple[Arrays, Facts]:
        """Where the loaders are, between two epochs."""

    def restore_loaders(self, arrays: Arrays, facts: Facts) -> None: ...

    def generators(self) -> Arrays:
        """States of the framework's generators of random numbers."""

    def restore_generators(self, arrays: Arrays) -> None: ...

    def settings(self) -> Facts:
        """What must be the same when a run goes on, beside what its history tells of it."""

    def rank(self) -> int:
        """Which of the processes that train together this one is: 0 saves, all go on from it."""

    def gathered(self, number: int) -> list[int]:
        """The numbers of all of them, in each."""


def fingerprint(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over types, shapes and bytes: whether training data are the same."""
    total = hashlib.sha256()
    for array in arrays:
        add(total, array)
    return total.hexdigest()


def checkpoints(given: Any) -> Checkpoints | None:
    """What `Trainer(checkpoint=...)` takes: a folder, Checkpoints, or None."""
    if given is None or isinstance(given, Checkpoints):
        return given
    if isinstance(given, (str, os.PathLike)):
        return Checkpoints(Path(given))
    raise TypeError(f"checkpoint = {given!r}, expected a folder or Checkpoints(folder, every=...)")


class Keeper:
    """Saves one `fit`, and knows where it goes on. Without a place it saves nothing.

    epoch: the one to begin with. within: steps of it that were taken before.
    """

    epoch = within = 0
    several = False  # processes

    def __init__(self, trainer: Any, state: State, place: Checkpoints | None, stop: Stop) -> None:
        self.trainer, self.state, self.place, self.stop = trainer, state, place, stop
        self._order: tuple[Arrays, Facts] = {}, {}
        self._generators: Arrays = {}

    @property
    def seconds(self) -> float:
        """Spent on writing."""
        return self.place.seconds if self.place else 0.0

    def epoch_begins(self) -> None:
        """Called before an epoch draws anything."""
        if self.place and not self.within:
            arrays, facts = self.state.loaders()
            self._order = _under("loaders", arrays) | self._now(), facts

    def rest(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of an epoch that are left to train on. Those before are drawn once more."""
        left = iter(batches)
        for _ in range(self.within):
            next(left, None)
        self.passed()
        yield from left

    def passed(self) -> None:
        """Called when the order of an epoch has been drawn: the steps taken before drew more."""
        if self.within:
            self._restore_generators(self._generators)
            self.within = 0

    def free(self, steps: int) -> int | None:
        """How many steps may be taken at once after so many; None: as many as there are."""
        every = self.place.every if self.place else None
        return every and every - steps % every

    def step_done(self) -> None:
        """Called between two steps of an epoch. Ends the training if that was asked for."""
        if self.place is None:
            return
        every = self.place.every
        due = bool(every) and self.trainer.train_batch_idx % every == 0
        if self.several and not due:
            return  # they agree where all of them come by
        self._agree()
        if due or self.stop.asked is not None:
            self._save(self.trainer.epoch, self.trainer.history.epochs[-1].steps)
        self.stop.raised()

    def epoch_done(self) -> None:
        """Called after an epoch and its validation. Ends the training if that was asked for."""
        if self.place is None:
            return
        self._agree()
        self.epoch_begins()
        self._save(self.trainer.epoch + 1, 0)
        self.stop.raised()

    def _agree(self) -> None:
        """What any process was asked, all are."""
        self.stop.asked = max(self.state.gathered(self.stop.asked or 0)) or None

    def resume(self, found: Checkpoint) -> None:
        """Put everything where the checkpoint left it. Raises CheckpointError, which names it."""
        where, trainer = found.path, self.trainer
        with told(where):
            check_same(self.settings, found.facts["settings"], where)
            epoch, within = (_count(found.facts, name) for name in ("epoch", "within"))
            if epoch + (within > 0) > trainer.max_epochs:
                raise CheckpointError(
                    f"{where}: has trained for {epoch} epochs and {within} steps, and max_epochs = "
                    f"{trainer.max_epochs}: ask for more epochs, or start anew in another folder"
                )
            records = [Epoch(**record) for record in _unpacked(found.facts["epochs"])]
            losses = found.arrays["history/train_loss"].tolist()
            taken = sum(record.steps for record in records)
            if len(records) != epoch + (within > 0) or {taken, len(losses)} != {found.step}:
                raise ValueError("its counts contradict each other")
            curves = _unpacked(found.facts["board"])
            order = _of("order", found.arrays), found.facts["loaders"]
            self.state.restore(_of("state", found.arrays), found.facts["state"])
            self.state.restore_loaders(_of("loaders", order[0]), order[1])
            self._order, self._generators = order, _of("now", found.arrays)
            self._restore_generators(order[0] if within else self._generators)
            val_batches = _count(found.facts, "val_batch_idx")
        self.epoch, self.within = epoch, within
        trainer.train_batch_idx, trainer.val_batch_idx = found.step, val_batches
        trainer.history.train_loss, trainer.history.epochs = losses, records
        resumed = [*found.facts.get("resumed", []), found.step]
        trainer.history.about["resumed"] = resumed
        board = getattr(trainer.model, "board", None)
        for name in BOARD if board is not None else ():
            found_points = curves.get(name, {}).items()
            setattr(board, name, {label: [Point(*p) for p in line] for label, line in found_points})
        trainer.bar.update(found.step)

    @cached_property
    def settings(self) -> Facts:
        """What must be the same when the run goes on. Of the data a hash, which takes a while."""
        about, trainer = self.trainer.history.about, self.trainer
        chosen = {k: v for k, v in about["hyperparameters"].items() if k not in FREE}
        own: Facts = {"side": about["side"], "model": about["model"], **chosen}
        own["steps in an epoch"] = trainer.num_train_batches
        return plain(own | self.state.settings(), other=lambda value: type(value).__name__)

    def _now(self) -> Arrays:
        own = random_states.held() | _under("framework", self.state.generators())
        return own

    def _restore_generators(self, arrays: Arrays) -> None:
        self.state.restore_generators(_of("framework", arrays))
        random_states.restore(arrays)

    def _save(self, epoch: int, within: int) -> None:
        assert self.place is not None
        if self.state.rank():
            return
        start, trainer = time.perf_counter(), self.trainer
        arrays, state = self.state.held()  # first: what is measured may wait for it
        board = getattr(trainer.model, "board", None)
        curves = {
            name: {label: [tuple(p) for p in line] for label, line in getattr(board, name).items()}
            for name in (BOARD if board is not None else ())
        }
        arrays = _under("state", arrays) | _under("order", self._order[0])
        arrays |= _under("now", self._now())
        arrays["history/train_loss"] = np.array(trainer.history.train_loss, np.float64)
        facts = {
            "settings": self.settings,
            "epoch": epoch,
            "within": within,
            "val_batch_idx": trainer.val_batch_idx,
            "epochs": packed([asdict(record) for record in trainer.history.epochs], _nothing),
            "state": state,
            "loaders": self._order[1],
            "board": packed(curves, _nothing),
            "resumed": trainer.history.about.get("resumed", []),
        }
        self.place.seconds += time.perf_counter() - start
        self.place.start(Checkpoint(trainer.train_batch_idx, arrays, facts))


@contextlib.contextmanager
def keeping(trainer: Any, state: State, resume: bool | str | os.PathLike) -> Iterator[Keeper]:
    """The Keeper of a `fit`, gone on from where `resume` says; while it lasts Ctrl-C and SIGTERM
    wait for the next checkpoint, if there are any.

    resume: True: the newest of the Trainer's checkpoints, or a new start if there is none. A path:
    that file, or the newest in that folder. Raises CheckpointError.
    """
    place = trainer.checkpoint
    if place is None:
        keeper = Keeper(trainer, state, None, Stop())
        _resumed(keeper, resume)
        yield keeper
        return
    alone = contextlib.nullcontext() if state.rank() else place.opened()
    with alone, awaited("this step, with a checkpoint") as stop:
        keeper = Keeper(trainer, state, place, stop)
        _resumed(keeper, resume)
        yield keeper


def _resumed(keeper: Keeper, resume: bool | str | os.PathLike) -> None:
    place = keeper.place
    found: Checkpoint | None
    # Process 0 has finished what it wrote in a fit before this one, too.
    keeper.several = len(keeper.state.gathered(0)) > 1
    if isinstance(resume, bool):
        if resume and place is None:
            raise CheckpointError("resume: expected Trainer(checkpoint=FOLDER), or resume=FILE")
        found = newest(place, resume) if place else None
    elif Path(resume).is_dir():
        found = Checkpoints(Path(resume)).newest()
        if found is None:
            raise CheckpointError(f"{resume}: holds no checkpoint, expected one to go on from")
    else:
        found = read(Path(resume))
    steps = keeper.state.gathered(found.step if found else -1)
    if len({*steps}) > 1:
        there = ", ".join(f"step {step}" if step >= 0 else "none" for step in steps)
        raise CheckpointError(
            f"{place.folder if place else resume}: the processes find different checkpoints there "
            f"({there}): name a folder that they share"
        )
    if found is not None:
        keeper.resume(found)


def newest(place: Checkpoints, resume: bool) -> Checkpoint | None:
    """Where to go on; None: at the beginning. Raises CheckpointError if there is where to go on,
    and that isn't asked for: nothing is overwritten."""
    if resume:
        return place.newest()
    if there := place.paths():
        raise CheckpointError(
            f"{place.folder}: holds checkpoints of a run, the last is {there[0].name}: go on "
            "from it with resume (--resume), or name another folder"
        )
    return None


def check_same(own: Facts, theirs: Any, where: Any) -> None:
    if not isinstance(theirs, dict):
        raise ValueError("settings")
    names = [*own, *(name for name in theirs if name not in own)]
    wrong = [
        f"{name} = {_shown(theirs.get(name))}, now {_shown(own.get(name))}"
        for name in names
        if own.get(name) != theirs.get(name)
    ]
    if wrong:
        remedy = "go on with the settings of the checkpoint, or name another folder"
        lines = [f"{where}: of another run:", *wrong, remedy]
        raise CheckpointError("\n  ".join(lines))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _count(facts: Facts, name: str) -> int:
    value = facts[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} = {value!r}")
    return value


def _under(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _of(prefix: str, arrays: Arrays) -> Arrays:
    start = f"{prefix}/"
    return {name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)}


def _nothing(value: Any) -> Any:
    raise TypeError(f"a {type(value).__name__} in the history or on the board, expected numbers")


def _unpacked(json: Any) -> Any:
    def refuse(value: Any) -> Any:
        raise ValueError(f"no value: {str(value)[:80]}")

    return unpacked(json, refuse)
