"""Long work of any kind that is saved now and then, and goes on from there: a sweep, a study."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from mlp_core.checkpoint import Checkpoint, Checkpoints, told
from mlp_core.files import plain
from mlp_core.packing import Arrays
from mlp_core.resuming import check_same, newest
from mlp_core.stopping import Stop, awaited

Facts = dict[str, Any]


class Work:
    """found: where it goes on, or None. Without a place nothing is saved."""

    def __init__(
        self, place: Checkpoints | None, settings: Facts, stop: Stop, found: Checkpoint | None
    ) -> None:
        self.place, self.settings, self.stop, self.found = place, settings, stop, found

    @property
    def step(self) -> int:
        """How many steps were taken before."""
        return self.found.step if self.found else 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due within an epoch: every N steps, and when asked to stop."""
        every = self.place.every if self.place else None
        return self.stop.asked is not None or bool(every and step % every == 0)

    def save(self, step: int, held: Callable[[], tuple[Arrays, Facts]]) -> None:
        """Save what `held` gives, arrays and JSON; then stop, if that was asked for."""
        if self.place is None:
            return
        arrays, facts = held()
        settings = {"settings": self.settings}
        self.place.start(Checkpoint(step, arrays, plain(facts) | settings))
        self.stop.raised()


@contextlib.contextmanager
def working(
    place: Checkpoints | None, settings: Facts, resume: bool, what: str = "this epoch"
) -> Iterator[Work]:
    """The Work that goes on from the newest checkpoint, if `resume` asks for it and there is one.

    settings: what must be the same then. While it lasts Ctrl-C and SIGTERM wait for the next
    `save`, of which `what` tells. Raises CheckpointError.
    """
    if place is None:
        yield Work(None, settings, Stop(), None)
        return
    settings = plain(settings, other=lambda value: type(value).__name__)
    with place.opened(), awaited(f"{what}, with a checkpoint") as stop:
        found = newest(place, resume)
        if found is not None:
            with told(found.path):
                check_same(settings, found.facts["settings"], found.path)
        yield Work(place, settings, stop, found)
