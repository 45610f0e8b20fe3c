"""Ctrl-C in the middle of a long comparison, which keeps what has been found."""

from typing import Any


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt that carries what was found before it: `found`, of the type that the
    interrupted call returns."""

    def __init__(self, found: Any) -> None:
        super().__init__("interrupted")
        self.found = found
