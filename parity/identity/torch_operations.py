"""ATen's operations on places of storages: each evaluated in the field by its rule."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from parity.identity import torch_norms
from parity.identity.field import Algebra, Array
from parity.identity.number import Field, Undecided
from parity.identity.torch_cells import Cells, Place, Value
from parity.identity.torch_rules import MOVES, RULES, SUMS, plane

WHERE = {"device", "layout", "memory_format", "pin_memory", "non_blocking", "out"}
BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm",
               "_batch_norm_with_update"}  # fmt: skip
SAME = {"clone", "contiguous", "alias_copy", "lift_fresh_copy"}
LISTS = {"unsafe_split", "unsafe_chunk", "split", "split_with_sizes"}
_FLOATS = {"mm", "bmm", "mv", "dot", "matmul", "addmm", "baddbmm", "addmv", "addbmm"}
tree = torch.utils._pytree


def ruled(name: str) -> bool:
    """Whether there is a rule of an operation that writes into none of its arguments."""
    known = name in SPECIAL or name in RULES or name in MOVES or name in SUMS | BATCH_NORMS
    return known or name.startswith("_foreach_")


@dataclass(frozen=True)
class Operation:
    """One that Torch ran. args, kwargs: with places for tensors; into: where its results lie, None
    for one that isn't kept. line: the user's. drawn: whether a draw reached it."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    writes: bool
    into: tuple[Place | None, ...]
    line: str
    drawn: bool

    @property
    def name(self) -> str:
        return str(self.func.overloadpacket.__name__)

    def evaluated(self, cells: Cells) -> list[Value]:
        """Its results. Raises Undecided without a rule."""
        if not any(x.floating for x in placed((self.args, self.kwargs), Place)):
            return self._of_integers(cells)
        values = self._ruled(cells)
        return [*values] if isinstance(values, (tuple, list)) else [values]

    def held(self, cells: Cells, values: Iterable[Value]) -> None:
        """Its results, where they lie."""
        for place, value in zip(self.into, values, strict=False):
            if place is not None and value is not None:
                cells.hold(place, value, self.drawn)

    def _of_integers(self, cells: Cells) -> list[Value]:
        args, kwargs = with_tensors(
            (self.args, self.kwargs), lambda x: torch.tensor(cells.get(x)), Place
        )
        found = tree.tree_leaves(self.func(*args, **kwargs))
        return [
            cells.of.lift(x.numpy()) if x.is_floating_point() else x.numpy()
            for x in found
            if isinstance(x, torch.Tensor)
        ]

    def _ruled(self, cells: Cells) -> Value:
        func, name, args, of = self.func, self.name, self.args, cells.of
        base = name.rstrip("_") if self.writes and name not in BATCH_NORMS else name
        first = args[:1] if base in ("copy", "zero", "fill") else ()  # nothing of it is left
        a, k = with_tensors((args[len(first) :], self.kwargs), cells.get, Place)
        a = [*first, *a]
        k = {n: v for n, v in k.items() if n not in WHERE}
        try:
            if base.startswith("_foreach_"):
                return _each(of, base.removeprefix("_foreach_"), a, k)
            if base in BATCH_NORMS:
                return _batch_norm(cells, args, a, k)
            if base in ("copy", "_to_copy"):
                return _copied(cells, base, args, a, k)
            if base in SAME and isinstance(a[0], Field):
                return a[0]
            if base in ("zero", "fill"):
                value = 0.0 if base == "zero" else a[1]
                if not args[0].floating:
                    return np.full(args[0].shape, value)
                wide = of.lift(value)
                return of.moved(lambda v: np.broadcast_to(v, args[0].shape), wide)
            if base in SPECIAL:
                return SPECIAL[base](of, *a, **k)
            if base in RULES:
                k.pop("dtype", None)
                a = [of.lift(x) for x in a] if base in _FLOATS else a
                return RULES[base](of, *a, **k)
            if base in MOVES or base in SUMS:
                return _on_parts(of, func, base, a, k)
        except Undecided as why:
            raise Undecided(f"Torch: {str(why).removeprefix('Torch: ')}, in {func}") from None
        raise Undecided(f"Torch: operation '{func}'")


def placed(x: Any, kind: type) -> Iterable[Any]:
    """Those of a kind among an operation's arguments, which are nested in lists at most."""
    if isinstance(x, kind):
        yield x
    elif isinstance(x, (list, tuple, dict)):
        for one in x.values() if isinstance(x, dict) else x:
            yield from placed(one, kind)


def with_tensors(x: Any, f: Callable[[Any], Any], kind: type) -> Any:
    """The arguments with f of those of a kind."""
    if isinstance(x, kind):
        return f(x)
    if isinstance(x, dict):
        return {name: with_tensors(one, f, kind) for name, one in x.items()}
    if type(x) in (list, tuple):
        return type(x)(with_tensors(one, f, kind) for one in x)
    return x


def _each(of: Algebra, base: str, a: list[Any], k: dict[str, Any]) -> Value:
    """One operation on each tensor of a list."""
    rows = [x if isinstance(x, (list, tuple)) else [x] * len(a[0]) for x in a]
    return [RULES[base](of, *row, **k) for row in zip(*rows, strict=True)]


def _on_parts(of: Algebra, func: Any, base: str, a: list[Any], k: dict[str, Any]) -> Value:
    if func._schema.is_mutable:
        func = getattr(torch.ops.aten, base).default
    flat, spec = tree.tree_flatten((a, k), is_leaf=lambda x: isinstance(x, (Field, np.ndarray)))
    places = [i for i, x in enumerate(flat) if isinstance(x, Field)]
    if not places:
        b, c = with_tensors((a, k), torch.tensor, np.ndarray)
        return func(*b, **c).numpy()

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
        return of.linear(run, fields[0])
    if base not in LISTS:
        return of.moved(run, *fields)
    zeros = [plane(np.zeros(x.shape)) if isinstance(x, Field) else x for x in flat]
    count = len(func(*tree.tree_unflatten(zeros, spec)[0]))
    return [of.moved(lambda *v, i=i: run(*v, which=i), *fields) for i in range(count)]


def _copied(cells: Cells, base: str, args: Any, a: list[Any], k: dict[str, Any]) -> Value:
    source = a[1] if base == "copy" else a[0]
    kind = args[0].dtype if base == "copy" else k.get("dtype") or args[0].dtype
    if kind.is_floating_point:
        found: Any = cells.of.lift(source)
    elif not isinstance(source, Field):
        found = torch.tensor(source).to(kind).numpy()
    elif kind == torch.bool:
        found = cells.of.sign_of(source) != 0
    elif source.const is not None:
        found = torch.tensor(source.const).to(kind).numpy()
    else:
        raise Undecided(f"a conversion to {kind}")
    shape = args[0].shape
    return cells.moved(found, lambda v: np.broadcast_to(v, shape))


def _batch_norm(cells: Cells, args: Any, a: list[Any], k: dict[str, Any]) -> Value:
    x, weight, bias, old_mean, old_var, *how = a
    if len(how) == 4:  # with a mode
        training, momentum, eps = how[:3]
    elif len(how) == 3:
        training, momentum, eps = how
    else:
        training, (momentum, eps) = True, how
    out, mean, rstd, *news = torch_norms.batch_norm(
        cells.of, x, weight, bias, (old_mean, old_var), training, momentum, eps
    )
    for place, new in zip(args[3:5], news, strict=True):
        if new is not None:
            cells.hold(place, new)
    return out, mean, rstd


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
