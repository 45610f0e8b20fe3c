"""What was computed once for an object, kept with it: it goes when the object goes."""

from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Keeper:
    """An object that what was computed for it is kept with."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gave for this key when it was first asked for."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def kept_with(function: F) -> F:
    """Remember what a function gives for its first argument, a Keeper, and the others.

    Not in an lru_cache: that keeps the last objects alive, with every compiled program they hold,
    in a process that has long done with them. What is kept with the object may refer to it again:
    that is a circle, which Python's collector finds.
    """

    @wraps(function)
    def remembered(owner: Keeper, *rest: Hashable) -> Any:
        return owner.kept((function, rest), lambda: function(owner, *rest))

    return remembered  # type: ignore[return-value]
