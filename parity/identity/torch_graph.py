"""A Torch training step over finite fields: each ATen operation, as it runs, also in the field.

What is in the field belongs to storages, so that views and what is written into them need no rule.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch._decomp import decomposition_table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from parity.identity import torch_norms
from parity.identity.field import Algebra, Array
from parity.identity.lines import Lines
from parity.identity.number import Field, Undecided
from parity.identity.torch_lines import TorchLines
from parity.identity.torch_rules import MOVES, RULES, SUMS, plane

Value = Any  # a Field, or an array of integers or booleans

# Of the shape of their argument alone.
SHAPES = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "new_zeros",
          "new_ones", "new_empty", "new_full", "new_empty_strided", "sym_size"}  # fmt: skip
WHERE = {"device", "layout", "memory_format", "pin_memory", "non_blocking", "out"}
TURNS = {"transpose_", "t_", "squeeze_", "unsqueeze_", "swapaxes_", "as_strided_", "detach_"}
BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
               "_batch_norm_with_update"}  # fmt: skip
tree = torch.utils._pytree


@dataclass
class Cell:
    """What a storage holds in the field; views: of it, until it is written to."""

    value: Value
    kept: torch.Tensor
    views: dict[Any, Value] = field(default_factory=dict)


class TorchGraph(TorchDispatchMode):
    """While it lasts, operations on what `hold` was told are evaluated in the field as well.

    Raises Undecided for an operation without a rule.
    """

    def __init__(self, of: Algebra, lines: Lines | None = None) -> None:
        super().__init__()
        self.of, self.lines, self.places = of, lines, TorchLines()
        self.cells: dict[int, Cell] = {}

    # --- storages --------------------------------------------------------------------------------

    def hold(self, tensor: torch.Tensor, value: Value) -> None:
        """From now on, this tensor stands for that value."""
        count = tensor.untyped_storage().nbytes() // tensor.itemsize
        key, whole = _pointer(tensor), tensor.numel() == count and tensor.is_contiguous()
        if whole:
            flat = self._moved(value, lambda v: np.broadcast_to(v, tensor.shape).ravel())
        else:
            places = torch.arange(count).as_strided(
                tensor.shape, tensor.stride(), tensor.storage_offset()
            )
            at = places.numpy()
            if tensor.numel() == count and np.bincount(at.ravel()).all():  # all of it, turned

                def turned(new: Array) -> Array:
                    held = np.zeros(count, new.dtype)
                    held[at] = new
                    return held

                self.cells[key] = Cell(self._moved(value, turned), tensor)
                return
            if (old := self.cells.get(key)) is None:
                base = tensor.as_strided((count,), (1,), 0)
                before = self.of.lift(_plain(base)) if base.is_floating_point() else _plain(base)
            else:
                before = old.value

            def put(held: Array, new: Array) -> Array:
                held = held.copy()
                held[at] = new
                return held

            flat = (
                self.of.moved(put, before, self.of.lift(value))
                if isinstance(before, Field)
                else put(before, value)
            )
            if self.lines is not None:
                self.lines.note("written", self.places.line(), [before, value], [flat])
        self.cells[key] = Cell(flat, tensor)

    def get(self, tensor: torch.Tensor) -> Value:
        """What a tensor stands for; what nothing drawn has reached is lifted."""
        cell = self.cells.get(_pointer(tensor)) if tensor.numel() else None
        if cell is None:
            plain = _plain(tensor)
            return self.of.lift(plain) if tensor.is_floating_point() else plain
        key = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
        if key not in cell.views:
            shape, stride, start = key

            def view(v: Array) -> Array:
                steps = tuple(s * v.itemsize for s in stride)
                return np.lib.stride_tricks.as_strided(v[start:], shape, steps)

            cell.views[key] = self._moved(cell.value, view)
            if self.lines is not None:
                self.lines.note("view", self.places.line(), [cell.value], [cell.views[key]])
        return cell.views[key]

    def holds(self, x: Any) -> bool:
        """Whether a draw has reached it."""
        return isinstance(x, torch.Tensor) and x.numel() > 0 and _pointer(x) in self.cells

    def _moved(self, value: Value, f: Callable[[Array], Array]) -> Value:
        if isinstance(value, Field):
            return self.of.viewed(f, value)
        return f(np.array(value, order="C"))

    # --- operations ------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = [*_tensors(args), *_tensors(kwargs)]
        if not any(map(self.holds, given)) or name in SHAPES:
            return func(*args, **kwargs)
        if name in ("_local_scalar_dense", "equal", "is_nonzero"):
            raise Undecided("Torch: Python reads a number that depends on what was drawn")
        if name in TURNS:
            return func(*args, **kwargs)
        written = _written(func, args, kwargs)
        if not any(x.is_floating_point() for x in given) and not func.is_view:
            return self._of_integers(func, args, kwargs, written)
        if not written:
            known = name.startswith("_foreach_") or name in SPECIAL
            if (
                not known
                and name not in RULES
                and name not in MOVES
                and name not in SUMS | BATCH_NORMS
            ):
                return self._other(func, args, kwargs, given)
            if func.is_view:
                return func(*args, **kwargs)
        values = self._evaluated(func, name, args, kwargs, written)
        out = func(*args, **kwargs)
        values = self._renewed(name, values)
        if self.lines is not None:
            made = values if isinstance(values, (tuple, list)) else [values]
            self.lines.note(
                name, self.places.line(), map(self.get, filter(self.holds, given)), made
            )
        if written:
            values = values if isinstance(values, (tuple, list)) else [values]
            for tensor, value in zip(written, values, strict=False):
                self.hold(tensor, value)
            return out
        outs = out if isinstance(out, (tuple, list)) else [out]
        values = values if isinstance(values, (tuple, list)) else [values]
        for tensor, value in zip(outs, values, strict=True):
            if value is not None and isinstance(tensor, torch.Tensor) and tensor.numel():
                self.hold(tensor, value)
        return out

    def _renewed(self, name: str, values: Value) -> Value:
        if (renewals := self.of.renewals) is None:
            return values
        if isinstance(values, (tuple, list)):
            return [self._renewed(name, x) for x in values]
        if isinstance(values, Field):
            return renewals.of(self.of, "Torch", name, self.places.line, values)
        return values

    def _of_integers(self, func: Any, args: Any, kwargs: Any, written: list[torch.Tensor]) -> Any:
        here = _with_tensors((args, kwargs), lambda x: torch.tensor(self.get(x)))
        found = func(*here[0], **here[1])
        out = func(*args, **kwargs)
        reals = written or tree.tree_leaves(out)
        for real, shadow in zip(reals, tree.tree_leaves(found), strict=True):
            value = shadow.numpy()
            self.hold(real, self.of.lift(value) if real.is_floating_point() else value)
        return out

    def _other(self, func: Any, args: Any, kwargs: Any, given: list[torch.Tensor]) -> Any:
        """A view; one that Torch takes apart."""
        if func.is_view:
            return func(*args, **kwargs)
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

    def _evaluated(self, func: Any, name: str, args: Any, kwargs: Any, written: list) -> Value:
        base = name.rstrip("_") if written and name not in BATCH_NORMS else name
        first = args[:1] if base in ("copy", "zero", "fill") else ()  # nothing of it is left
        a, k = _with_tensors((args[len(first) :], kwargs), self.get)
        a = [*first, *a]
        k = {n: v for n, v in k.items() if n not in WHERE}
        try:
            if base.startswith("_foreach_"):
                return self._each(base.removeprefix("_foreach_"), a, k)
            if base in BATCH_NORMS:
                return self._batch_norm(args, a, k)
            if base in ("copy", "_to_copy"):
                return self._copied(base, args, a, k)
            if base in ("zero", "fill"):
                value = 0.0 if base == "zero" else a[1]
                if not args[0].is_floating_point():
                    return np.full(args[0].shape, value)
                wide = self.of.lift(value)
                return self.of.moved(lambda v: np.broadcast_to(v, args[0].shape), wide)
            if base in SPECIAL:
                return SPECIAL[base](self.of, *a, **k)
            if base in RULES:
                k.pop("dtype", None)
                return RULES[base](self.of, *_lifted(self.of, base, a), **k)
            if base in MOVES or base in SUMS:
                return self._on_parts(func, base, a, k)
        except Undecided as why:
            raise Undecided(f"Torch: {str(why).removeprefix('Torch: ')}, in {func}") from None
        raise Undecided(f"Torch: operation '{func}'")

    def _each(self, base: str, a: list[Any], k: dict[str, Any]) -> Value:
        """One operation on each tensor of a list."""
        rows = [x if isinstance(x, (list, tuple)) else [x] * len(a[0]) for x in a]
        return [RULES[base](self.of, *row, **k) for row in zip(*rows, strict=True)]

    def _on_parts(self, func: Any, base: str, a: list[Any], k: dict[str, Any]) -> Value:
        if func._schema.is_mutable:
            func = getattr(torch.ops.aten, base).default
        flat, spec = tree.tree_flatten((a, k), is_leaf=lambda x: isinstance(x, (Field, np.ndarray)))
        places = [i for i, x in enumerate(flat) if isinstance(x, Field)]
        if not places:
            found = func(*a, **k)
            return found.numpy()

        def run(*planes: Array, which: int | None = None) -> Array:
            filled = [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in flat]
            for i, one in zip(places, planes, strict=True):
                filled[i] = plane(np.asarray(one, np.float64))
            b, c = tree.tree_unflatten(filled, spec)
            if c.get("dtype"):
                c["dtype"] = torch.float64
            found = func(*b, **c)
            return (found if which is None else found[which]).numpy()

        fields = [flat[i] for i in places]
        if base in SUMS:
            return self.of.linear(run, fields[0])
        probe = run(*(np.zeros(x.shape) for x in fields)) if base not in LISTS else None
        if probe is not None:
            return self.of.moved(run, *fields)
        zeros = [plane(np.zeros(x.shape)) if isinstance(x, Field) else x for x in flat]
        count = len(func(*tree.tree_unflatten(zeros, spec)[0]))
        return [self.of.moved(lambda *v, i=i: run(*v, which=i), *fields) for i in range(count)]

    def _copied(self, base: str, args: Any, a: list[Any], k: dict[str, Any]) -> Value:
        source = a[1] if base == "copy" else a[0]
        kind = args[0].dtype if base == "copy" else k.get("dtype") or args[0].dtype
        if kind.is_floating_point:
            found: Any = self.of.lift(source)
        elif not isinstance(source, Field):
            found = torch.tensor(source).to(kind).numpy()
        elif kind == torch.bool:
            found = self.of.sign_of(source) != 0
        elif source.const is not None:
            found = torch.tensor(source.const).to(kind).numpy()
        else:
            raise Undecided(f"a conversion to {kind}")
        shape = args[0].shape
        return self._moved(found, lambda v: np.broadcast_to(v, shape))

    def _batch_norm(self, args: Any, a: list[Any], k: dict[str, Any]) -> Value:
        x, weight, bias, old_mean, old_var, *how = a
        if len(how) == 4:  # with a mode
            training, momentum, eps = how[:3]
        elif len(how) == 3:
            training, momentum, eps = how
        else:
            training, (momentum, eps) = True, how
        out, mean, rstd, *news = torch_norms.batch_norm(
            self.of, x, weight, bias, (old_mean, old_var), training, momentum, eps
        )
        for tensor, new in zip(args[3:5], news, strict=True):
            if new is not None:
                self.hold(tensor, new)
        return out, mean, rstd


LISTS = {"unsafe_split", "unsafe_chunk", "split", "split_with_sizes"}


def _index_put(
    of: Algebra, x: Field, indices: Any, values: Field, accumulate: bool = False
) -> Field:
    at: Any = tuple(slice(None) if i is None else i for i in indices)
    if not accumulate:

        def put(held: Array, new: Array) -> Array:
            held = held.copy()
            held[at] = new
            return held

        return of.moved(put, of.lift(x), of.lift(values))

    def added(v: Array) -> Array:
        found = np.zeros(of.lift(x).shape)
        np.add.at(found, at, v)
        return found

    return of.add(of.lift(x), of.linear(added, of.lift(values)))


def _by_torch(name: str) -> Callable[..., Field]:
    """x, with what is added at places."""

    def run(of: Algebra, x: Field, dim: int, index: Array, source: Any, **how: Any) -> Field:
        source = of.lift(source)
        zeros = torch.zeros(x.shape, dtype=torch.float64)
        f = getattr(torch.ops.aten, name)
        at = torch.tensor(index)
        return of.add(x, of.linear(lambda v: f(zeros, dim, at, plane(v), **how).numpy(), source))

    return run


def _scatter(of: Algebra, x: Field, dim: int, index: Array, source: Any) -> Field:
    wide = of.moved(lambda v: np.broadcast_to(v, np.shape(index)), of.lift(source))
    return of.moved(
        lambda v, w: plane(v).scatter(dim, torch.tensor(index), plane(w)).numpy(), x, wide
    )


SPECIAL: dict[str, Callable[..., Value]] = {
    "index_put": _index_put, "_unsafe_index_put": _index_put, "_index_put_impl": _index_put,
    "scatter_add": _by_torch("scatter_add"), "index_add": _by_torch("index_add"),
    "scatter": _scatter,
}  # fmt: skip
_FLOATS = {"mm", "bmm", "mv", "dot", "matmul", "addmm", "baddbmm", "addmv", "addbmm"}


def _lifted(of: Algebra, base: str, a: list[Any]) -> list[Any]:
    return [of.lift(x) for x in a] if base in _FLOATS else a


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that an operation writes into."""
    if not func._schema.is_mutable or func.overloadpacket.__name__ in BATCH_NORMS:
        return []
    found: list[torch.Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            x = args[i] if i < len(args) else kwargs.get(argument.name)
            found += _tensors(x)
    return found


def _tensors(x: Any) -> Iterator[torch.Tensor]:
    """Those among an operation's arguments, which are nested in lists at most."""
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, (list, tuple, dict)):
        for one in x.values() if isinstance(x, dict) else x:
            yield from _tensors(one)


def _with_tensors(x: Any, f: Callable[[torch.Tensor], Any]) -> Any:
    """The arguments with f of their tensors."""
    if isinstance(x, torch.Tensor):
        return f(x)
    if isinstance(x, dict):
        return {name: _with_tensors(one, f) for name, one in x.items()}
    if type(x) in (list, tuple):
        return type(x)(_with_tensors(one, f) for one in x)
    return x


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
