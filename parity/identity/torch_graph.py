"""A Torch training step over finite fields: each ATen operation, as it runs, also in the field.

What ran is written on a tape, which other draws play: Torch takes most of the time, and its
operations are the same.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch._decomp import decomposition_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from parity.identity import renewals
from parity.identity.field import Algebra, Array
from parity.identity.lines import Lines
from parity.identity.number import Field, Undecided
from parity.identity.torch_cells import Cells, Place, Value
from parity.identity.torch_lines import TorchLines
from parity.identity.torch_operations import (
    BATCH_NORMS,
    Operation,
    placed,
    ruled,
    tree,
    with_tensors,
)

# Of the shape of their argument alone.
SHAPES = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "new_zeros",
          "new_ones", "new_empty", "new_full", "new_empty_strided", "sym_size"}  # fmt: skip
TURNS = {"transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "as_strided_", "detach_"}
READS = {"_local_scalar_dense", "equal", "is_nonzero"}
Key = tuple[str, ...]


class Stale(Exception):
    """A tape doesn't fit other integers: a result has another shape."""


@dataclass
class Tape:
    """What a step did. given: where what it starts from lies; entries: its operations, and what was
    read between them. bound: Python or a shape depended on the integers of the batch."""

    given: dict[Key, Place] = field(default_factory=dict)
    entries: list[tuple[Operation, list[tuple[int, ...]]] | tuple[Key, Place]] = field(
        default_factory=list
    )
    bound: bool = False

    def played(self, cells: Cells) -> dict[Key, Value]:
        """What was read, of what the cells hold now."""
        found: dict[Key, Value] = {}
        for one, more in self.entries:
            if isinstance(one, Operation):
                values = renewed(cells.of, one, one.evaluated(cells))
                if [() if x is None else x.shape for x in values] != more:
                    raise Stale(one.name)
                one.held(cells, values)
            else:
                assert isinstance(more, Place)
                found[one] = cells.get(more)
        return found


def renewed(of: Algebra, op: Operation, values: list[Value]) -> list[Value]:
    """See `renewals`."""
    if of.renewals is None or op.name not in renewals.LINEAR:
        return values
    return [
        of.renewals.of(of, "Torch", op.name, lambda: op.line, x) if isinstance(x, Field) else x
        for x in values
    ]


class TorchGraph(TorchDispatchMode):
    """While it lasts, operations on what `hold` was told are evaluated in the field as well.

    Raises Undecided for an operation without a rule.
    """

    def __init__(self, of: Algebra, lines: Lines | None = None) -> None:
        super().__init__()
        self.of, self.lines, self.places = of, lines, TorchLines()
        self.cells = Cells(of, self._note if lines else None)
        self.kept: dict[int, torch.Tensor] = {}  # so that no storage is another's again
        self.tape, self.found = Tape(), dict[Key, Value]()

    # --- storages --------------------------------------------------------------------------------

    def begin(self, given: Mapping[Key, torch.Tensor]) -> Tape:
        """A new tape, of a step that starts from these tensors."""
        self.tape, self.found = Tape({key: self._to_hold(x) for key, x in given.items()}), {}
        return self.tape

    def hold(self, key: Key, value: Value, drawn: bool = True) -> None:
        """From now on, what was given stands for that value."""
        self.cells.hold(self.tape.given[key], value, drawn)

    def read(self, key: Key, tensor: torch.Tensor) -> None:
        """What it stands for now, into `found`."""
        place = self._place(tensor)
        self.tape.entries.append((key, place))
        self.found[key] = self.cells.get(place)

    def _place(self, tensor: torch.Tensor) -> Place:
        plain = None if self._holds(tensor) else _plain(tensor)
        return self._placed(tensor, plain=plain)

    def _to_hold(self, tensor: torch.Tensor) -> Place:
        storage, base = _pointer(tensor), None
        self.kept[storage] = tensor
        count = tensor.untyped_storage().nbytes() // tensor.itemsize
        if storage not in self.cells.held and tensor.numel() < count:
            base = _plain(tensor.as_strided((count,), (1,), 0))
        return self._placed(tensor, base=base)

    @staticmethod
    def _placed(tensor: torch.Tensor, **numbers: Array | None) -> Place:
        size = tensor.untyped_storage().nbytes() // tensor.itemsize
        whole = tensor.numel() == size and tensor.is_contiguous()
        return Place(
            _pointer(tensor), tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()),
            size, whole, tensor.dtype, **numbers,
        )  # fmt: skip

    def _holds(self, x: torch.Tensor) -> bool:
        return x.numel() > 0 and _pointer(x) in self.cells.held

    def _drawn(self, x: torch.Tensor) -> bool:
        return self._holds(x) and self.cells.held[_pointer(x)].drawn

    # --- operations ------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = list(placed((args, kwargs), torch.Tensor))
        if not any(map(self._holds, given)) or name in SHAPES or name in TURNS:
            return func(*args, **kwargs)
        drawn = any(map(self._drawn, given))
        if name in READS:
            if drawn:
                raise Undecided("Torch: Python reads a number that depends on what was drawn")
            self.tape.bound = True
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if not written and func.is_view:
            return func(*args, **kwargs)
        integers = not any(x.is_floating_point() for x in given)
        if not drawn and not integers:
            return self._as_it_is(func, args, kwargs, written)
        if not written and not integers and not ruled(name):
            return self._other(func, args, kwargs, given)
        args_, kwargs_ = with_tensors((args, kwargs), self._place, torch.Tensor)
        operation = Operation(func, args_, kwargs_, bool(written), (), "", drawn)
        values = operation.evaluated(self.cells)
        held = (x for x in placed((args_, kwargs_), Place) if x.plain is None)
        operands = [*map(self.cells.get, held)] if self.lines else []
        out = func(*args, **kwargs)
        outs = written or (tree.tree_leaves(out) if integers else _listed(out))
        self._record(operation, values, operands, outs)
        return out

    def _record(
        self, operation: Operation, values: list[Value], operands: list[Value], outs: list[Any]
    ) -> None:
        """Writes on the tape what has just run, and holds its results."""
        if self.lines or operation.name in renewals.LINEAR:
            operation = replace(operation, line=self.places.line())
        values = renewed(self.of, operation, values)
        if self.lines:
            self.lines.note(operation.name, operation.line, operands, values)
        into = [
            self._to_hold(x) if isinstance(x, torch.Tensor) and x.numel() else None
            for x, _ in zip(outs, values, strict=not operation.writes)
        ]
        operation = replace(operation, into=tuple(into))
        operation.held(self.cells, values)
        shapes = [() if v is None else v.shape for v in values]
        self.tape.entries.append((operation, shapes))

    def _as_it_is(self, func: Any, args: Any, kwargs: Any, written: list[torch.Tensor]) -> Any:
        """Floats that integers of the batch give: numbers, for this batch."""
        self.tape.bound = True
        for x in written:
            self.cells.held.pop(_pointer(x), None)
        return func(*args, **kwargs)

    def _other(self, func: Any, args: Any, kwargs: Any, given: list[torch.Tensor]) -> Any:
        """One that Torch takes apart."""
        if (apart := decomposition_table.get(func)) is not None:
            with self:
                return apart(*args, **kwargs)
        with self:
            if (found := func.decompose(*args, **kwargs)) is not NotImplemented:
                return found
        out = func(*args, **kwargs)
        pointers = {_pointer(x) for x in given}
        if all(_pointer(x) in pointers for x in tree.tree_leaves(out) if torch.is_tensor(x)):
            return out
        raise Undecided(f"Torch: operation '{func}'")

    def _note(self, name: str, operands: list[Value], result: Value) -> None:
        assert self.lines is not None
        self.lines.note(name, self.places.line(), operands, [result])


def _listed(out: Any) -> list[Any]:
    return [*out] if isinstance(out, (tuple, list)) else [out]


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that an operation writes into."""
    if not func._schema.is_mutable or func.overloadpacket.__name__ in BATCH_NORMS:
        return []
    found: list[torch.Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            x = args[i] if i < len(args) else kwargs.get(argument.name)
            found += placed(x, torch.Tensor)
    return found


def _pointer(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _plain(tensor: torch.Tensor) -> Array:
    tensor = tensor.detach()
    found = tensor.double() if tensor.is_floating_point() else tensor
    return np.array(found.numpy())


@contextlib.contextmanager
def attention_taken_apart() -> Iterator[None]:
    """Attention by products and a softmax, rather than by one operation."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
