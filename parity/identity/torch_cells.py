"""What Torch's storages stand for in the field: so views, and what is written into them, need no
rule.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from parity.identity.field import Algebra, Array
from parity.identity.number import Field

Value = Any  # a Field, or an array of integers or booleans
Note = Callable[[str, list[Value], Value], None]  # of (name, operands, result)


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor, without its numbers. size: of its storage, which it is, in order, if it's whole.
    plain: its numbers, where no draw had reached them; base: those of the whole storage, where only
    a part is written."""

    storage: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int
    size: int
    whole: bool
    dtype: torch.dtype
    plain: Array | None = None
    base: Array | None = None

    @property
    def floating(self) -> bool:
        return self.dtype.is_floating_point


@dataclass
class Cell:
    """What a storage holds. views: of it, until it is written to. drawn: whether a draw reached
    it, or integers of the batch alone."""

    value: Value
    drawn: bool
    views: dict[Any, Value] = field(default_factory=dict)


class Cells:
    """The storages of one evaluation. note: is told of what is only laid out otherwise."""

    def __init__(self, of: Algebra, note: Note | None = None) -> None:
        self.of, self.note = of, note
        self.held: dict[int, Cell] = {}

    def hold(self, place: Place, value: Value, drawn: bool = True) -> None:
        """From now on, this tensor stands for that value."""
        if place.whole:
            shape = place.shape
            flat = self.moved(
                value, lambda v: (v if v.shape == shape else np.broadcast_to(v, shape)).ravel()
            )
        else:
            flat = self._part(place, value)
        self.held[place.storage] = Cell(flat, drawn)

    def _part(self, place: Place, value: Value) -> Value:
        """All of the storage, with the value at the place's elements."""
        count = place.size
        places = torch.arange(count).as_strided(place.shape, place.stride, place.start)
        at = places.numpy()
        if at.size == count and np.bincount(at.ravel()).all():  # all of it, turned

            def turned(new: Array) -> Array:
                held = np.zeros(count, new.dtype)
                held[at] = new
                return held

            return self.moved(value, turned)
        before: Value
        if (old := self.held.get(place.storage)) is not None:
            before = old.value
        else:
            assert place.base is not None
            before = self.of.lift(place.base) if place.floating else place.base

        def put(held: Array, new: Array) -> Array:
            held = held.copy()
            held[at] = new
            return held

        if isinstance(before, Field):
            found: Value = self.of.moved(put, before, self.of.lift(value))
        else:
            found = put(before, value)
        if self.note:
            self.note("written", [before, value], found)
        return found

    def get(self, place: Place) -> Value:
        """What a tensor stands for; what nothing drawn has reached is lifted."""
        cell = self.held.get(place.storage) if place.plain is None else None
        if cell is None:
            assert place.plain is not None
            return self.of.lift(place.plain) if place.floating else place.plain
        key = place.shape, place.stride, place.start
        if key not in cell.views:
            shape, stride, start = key

            def view(v: Array) -> Array:
                steps = tuple(s * v.itemsize for s in stride)
                return np.lib.stride_tricks.as_strided(v[start:], shape, steps)

            def shaped(v: Array) -> Array:
                return v.reshape(shape)

            cell.views[key] = self.moved(cell.value, shaped if place.whole else view)
            if self.note:
                self.note("view", [cell.value], cell.views[key])
        return cell.views[key]

    def moved(self, value: Value, f: Callable[[Array], Array]) -> Value:
        """f of the parts; it changes no number."""
        if isinstance(value, Field):
            return self.of.viewed(f, value)
        return f(np.array(value, order="C"))
