"""JAX's primitives in NumPy, for bounds that are evaluated once: compiling takes longer than that.

Each takes the primitive's parameters, then its operands. What isn't here, JAX computes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special
from jax import lax

Params = dict[str, Any]
Evaluation = Callable[..., Any]
NUMPY: dict[str, Evaluation] = {}


def _enter(*names: str) -> Callable[[Evaluation], Evaluation]:
    def enter(f: Evaluation) -> Evaluation:
        NUMPY.update(dict.fromkeys(names, f))
        return f

    return enter


def _plain(f: Callable[..., Any]) -> Evaluation:
    return lambda _, *operands: f(*operands)


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "add": np.add, "add_any": np.add, "sub": np.subtract, "mul": np.multiply,
    "max": np.maximum, "min": np.minimum, "neg": np.negative, "abs": np.abs, "sign": np.sign,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "not": np.invert, "is_finite": np.isfinite, "square": np.square, "floor": np.floor,
    "ceil": np.ceil, "copy": lambda x: x, "copy_p": lambda x: x, "stop_gradient": lambda x: x,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "optimization_barrier": lambda *xs: [*xs], "rem": np.fmod,
    "nextafter": np.nextafter,
}  # fmt: skip
NUMPY |= {name: _plain(f) for name, f in _ELEMENTWISE.items()}


def integer_pow(x: Any, n: int) -> Any:
    return x**n


def rsqrt(x: Any) -> Any:
    return 1 / np.sqrt(x)


def logistic(x: Any) -> Any:
    return scipy.special.expit(x)


def erf(x: Any) -> Any:
    return scipy.special.erf(x)


def erfc(x: Any) -> Any:
    return scipy.special.erfc(x)


erf_inv, lgamma, digamma = scipy.special.erfinv, scipy.special.gammaln, scipy.special.digamma


@_enter("select_n")
def _select_n(_: Params, which: Any, *cases: Any) -> Any:
    return select_n(which, *cases)


def select_n(which: Any, *cases: Any) -> Any:
    if len(cases) <= 2:
        return np.where(which, cases[-1], cases[0])
    return np.choose(np.clip(which, 0, len(cases) - 1), cases)


# --- moving data -----------------------------------------------------------------------------


@_enter("reshape")
def _reshape(p: Params, x: Any) -> Any:
    order = p.get("dimensions")
    return np.reshape(x if order is None else np.transpose(x, order), p["new_sizes"])


@_enter("broadcast_in_dim")
def _broadcast(p: Params, x: Any) -> Any:
    shape = [1] * len(p["shape"])
    for axis, size in zip(p["broadcast_dimensions"], np.shape(x), strict=True):
        shape[axis] = size
    return np.broadcast_to(np.reshape(x, shape), p["shape"])


@_enter("transpose")
def _transpose(p: Params, x: Any) -> Any:
    return np.transpose(x, p["permutation"])


@_enter("squeeze")
def _squeeze(p: Params, x: Any) -> Any:
    return np.squeeze(x, tuple(p["dimensions"]))


@_enter("expand_dims")
def _expand(p: Params, x: Any) -> Any:
    return np.expand_dims(x, tuple(p["dimensions"]))


@_enter("rev")
def _rev(p: Params, x: Any) -> Any:
    return np.flip(x, tuple(p["dimensions"]))


@_enter("slice")
def _slice(p: Params, x: Any) -> Any:
    steps = p["strides"] or [1] * x.ndim
    edges = zip(p["start_indices"], p["limit_indices"], steps, strict=True)
    return x[tuple(itertools.starmap(slice, edges))]


@_enter("concatenate")
def _concatenate(p: Params, *xs: Any) -> Any:
    return np.concatenate(xs, axis=p["dimension"])


@_enter("split")
def _split(p: Params, x: Any) -> Any:
    return np.split(x, np.cumsum(p["sizes"])[:-1], axis=p["axis"])


@_enter("pad")
def _pad(p: Params, x: Any, value: Any) -> Any:
    return pad(x, value, p["padding_config"])


def pad(x: Any, value: Any, config: Any) -> Any:
    """With low and high edges, either of them perhaps negative, and gaps between entries."""
    shape = [max(n + (n - 1) * gap, 0) for n, (_, _, gap) in zip(x.shape, config, strict=True)]
    outer = [
        n + max(low, 0) + max(high, 0) for n, (low, high, _) in zip(shape, config, strict=True)
    ]
    wide = np.full(outer, value, dtype=x.dtype)
    places = zip(shape, config, strict=True)
    wide[tuple(slice(max(a, 0), max(a, 0) + n, gap + 1) for n, (a, _, gap) in places)] = x
    crops = zip(outer, config, strict=True)
    return wide[tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b, _) in crops)]


@_enter("dynamic_slice")
def _dynamic_slice(p: Params, x: Any, *starts: Any) -> Any:
    return x[_window(x.shape, p["slice_sizes"], starts)]


@_enter("dynamic_update_slice")
def _dynamic_update_slice(_: Params, x: Any, y: Any, *starts: Any) -> Any:
    made = np.array(x)
    made[_window(x.shape, y.shape, starts)] = y
    return made


def _window(shape: Any, sizes: Any, starts: Any) -> tuple[slice, ...]:
    edges = [min(max(int(s), 0), n - m) for s, n, m in zip(starts, shape, sizes, strict=True)]
    return tuple(slice(s, s + m) for s, m in zip(edges, sizes, strict=True))


@_enter("iota")
def _iota(p: Params) -> Any:
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    row = np.arange(p["shape"][p["dimension"]]).astype(p["dtype"])
    return np.broadcast_to(row.reshape(shape), p["shape"])


# --- indices ---------------------------------------------------------------------------------


def _places(
    shape: Any,
    index: Any,
    sizes: Any,
    where: Any,
    batch: Any,
    starts: Any,
    collapsed: Any,
    batching: Any,
    ndim: int,
    clip: bool,
) -> tuple[tuple[Any, ...], Any]:
    """Where each entry of a gather's result, or of a scatter's updates, lies: index arrays that
    broadcast to it, one for each axis of `shape`; and whether it's inside.

    where: axes of the result along a window; starts: the axis that each column of `index` is of;
    batching: pairs of axes of the operand and of `index` that go together.
    """
    others = [axis for axis in range(ndim) if axis not in where]

    def along(axes: list[int], x: Any) -> Any:
        full = [1] * ndim
        for axis, size in zip(axes, x.shape, strict=True):
            full[axis] = size
        return x.reshape(full)

    found: list[Any] = [np.zeros([1] * ndim, int) for _ in shape]
    inside: Any = np.ones([1] * ndim, bool)
    for column, axis in enumerate(starts):
        start = along(others, index[..., column].astype(np.int64))
        last = shape[axis] - sizes[axis]
        inside = inside & (start >= 0) & (start <= last)
        found[axis] = np.clip(start, 0, last)
    windows = [axis for axis in range(len(shape)) if axis not in collapsed and axis not in batch]
    for axis, place in zip(windows, where, strict=True):
        found[axis] = found[axis] + along([place], np.arange(sizes[axis]))
    for axis, row in batching:
        found[axis] = along([others[row]], np.arange(shape[axis]))
    return tuple(found), True if clip else inside


@_enter("gather")
def _gather(p: Params, x: Any, index: Any) -> Any:
    d = p["dimension_numbers"]
    ndim = index.ndim - 1 + len(d.offset_dims)
    places, inside = _places(
        x.shape, index, p["slice_sizes"], d.offset_dims, d.operand_batching_dims,
        d.start_index_map, d.collapsed_slice_dims,
        [*zip(d.operand_batching_dims, d.start_indices_batching_dims, strict=True)],
        ndim, p["mode"] != lax.GatherScatterMode.FILL_OR_DROP,
    )  # fmt: skip
    shape = np.broadcast_shapes(*(a.shape for a in places)) if places else (1,) * ndim
    found = np.broadcast_to(x[places], shape)
    if inside is True or inside.all():
        return found
    fill = p.get("fill_value")
    if fill is None:
        floats, signed = (np.issubdtype(x.dtype, kind) for kind in (np.floating, np.signedinteger))
        fill = np.nan if floats else np.iinfo(x.dtype).min if signed else np.iinfo(x.dtype).max
    return np.where(inside, found, np.asarray(fill).astype(x.dtype))


def scatter(p: Params, x: Any, index: Any, y: Any, put: Callable[..., Any]) -> Any:
    d = p["dimension_numbers"]
    batch = tuple(d.operand_batching_dims)
    windows = [a for a in range(x.ndim) if a not in d.inserted_window_dims and a not in batch]
    sizes = [1] * x.ndim
    for axis, place in zip(windows, d.update_window_dims, strict=True):
        sizes[axis] = y.shape[place]
    places, inside = _places(
        x.shape, index, sizes, d.update_window_dims, batch,
        d.scatter_dims_to_operand_dims, d.inserted_window_dims,
        [*zip(batch, d.scatter_indices_batching_dims, strict=True)],
        y.ndim, p["mode"] == lax.GatherScatterMode.CLIP,
    )  # fmt: skip
    made = np.array(x)
    spots = [np.broadcast_to(a, y.shape) for a in places]
    if inside is not True and not inside.all():
        kept = np.broadcast_to(inside, y.shape)
        spots, y = [a[kept] for a in spots], y[kept]
    put(made, tuple(spots), y)
    return made


@_enter("scatter")
def _scatter(p: Params, x: Any, index: Any, y: Any) -> Any:
    return scatter(p, x, index, y, lambda made, at, y: made.__setitem__(at, y))


@_enter("scatter-add")
def _scatter_add(p: Params, x: Any, index: Any, y: Any) -> Any:
    return scatter(p, x, index, y, np.add.at)


def _scattering(put: Callable[..., Any]) -> Callable[..., Any]:
    """lax.scatter_add and its kind."""

    def at(x: Any, index: Any, y: Any, dimension_numbers: Any, **flags: Any) -> Any:
        return scatter({"dimension_numbers": dimension_numbers, **flags}, x, index, y, put)

    return at


scatter_add, scatter_mul = _scattering(np.add.at), _scattering(np.multiply.at)
scatter_min, scatter_max = _scattering(np.minimum.at), _scattering(np.maximum.at)


# --- reductions ------------------------------------------------------------------------------


def _reduction(f: Callable[..., Any]) -> Evaluation:
    return lambda p, x: f(x, axis=tuple(p["axes"]))


NUMPY |= {
    "reduce_sum": lambda p, x: np.sum(x, axis=tuple(p["axes"]), dtype=x.dtype),
    "reduce_prod": lambda p, x: np.prod(x, axis=tuple(p["axes"]), dtype=x.dtype),
    "reduce_and": _reduction(np.bitwise_and.reduce),
    "reduce_or": _reduction(np.bitwise_or.reduce),
}


NUMPY["reduce_max"] = lambda p, x: np.max(x, axis=tuple(p["axes"]))
NUMPY["reduce_min"] = lambda p, x: np.min(x, axis=tuple(p["axes"]))
NUMPY["argmax"] = lambda p, x: np.argmax(x, axis=p["axes"][0]).astype(p["index_dtype"])
NUMPY["argmin"] = lambda p, x: np.argmin(x, axis=p["axes"][0]).astype(p["index_dtype"])


def _running(f: Callable[..., Any]) -> Evaluation:
    def run(p: Params, x: Any) -> Any:
        axis = p["axis"]
        if not p["reverse"]:
            return f(x, axis=axis, dtype=x.dtype)
        return np.flip(f(np.flip(x, axis), axis=axis, dtype=x.dtype), axis)

    return run


NUMPY |= {
    "cumsum": _running(np.add.accumulate), "cumprod": _running(np.multiply.accumulate),
    "cummax": _running(np.maximum.accumulate), "cummin": _running(np.minimum.accumulate),
}  # fmt: skip


def cumsum(x: Any, axis: int = 0, reverse: bool = False) -> Any:
    return NUMPY["cumsum"]({"axis": axis, "reverse": reverse}, x)


def cummax(x: Any, axis: int = 0, reverse: bool = False) -> Any:
    return NUMPY["cummax"]({"axis": axis, "reverse": reverse}, x)


@_enter("sort")
def _sort(p: Params, *xs: Any) -> Any:
    """None by several keys."""
    if p["num_keys"] > 1:
        return None
    axis = p["dimension"]
    order = np.argsort(xs[0], axis=axis, stable=True)
    return [np.take_along_axis(x, order, axis) for x in xs]


# --- products and windows ------------------------------------------------------------------------


def dot_general(A: Any, B: Any, dimension_numbers: Any, preferred_element_type: Any = None,
                **_: Any) -> Any:  # fmt: skip
    """sum over the contracted axes of A B, one by one along the batch's; shape: batch, A's, B's."""
    (left, right), (rows, columns) = dimension_numbers
    kept = [i for i in range(A.ndim) if i not in (*left, *rows)]
    free = [i for i in range(B.ndim) if i not in (*right, *columns)]
    batch = [A.shape[i] for i in rows]
    n = math.prod(A.shape[i] for i in left)
    a = A.transpose([*rows, *kept, *left]).reshape((*batch, -1, n) if n else (*batch, 0, 0))
    b = B.transpose([*columns, *right, *free]).reshape((*batch, n, -1) if n else (*batch, 0, 0))
    shape = [*batch, *(A.shape[i] for i in kept), *(B.shape[i] for i in free)]
    if not n:
        return np.zeros(shape, preferred_element_type or A.dtype)
    found = np.matmul(a, b).reshape(shape)
    return found if preferred_element_type is None else found.astype(preferred_element_type)


def _windows(
    x: Any, edge: Any, size: Any, strides: Any, padding: Any, base: Any, dilation: Any
) -> Any:
    """A view [windows along each axis, entries of a window]."""
    config = [(low, high, gap - 1) for (low, high), gap in zip(padding, base, strict=True)]
    wide = pad(x, edge, config) if any(any(c) for c in config) else np.ascontiguousarray(x)
    spans = [(s - 1) * d + 1 for s, d in zip(size, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(wide, spans)
    steps = [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilation]
    return view[tuple(steps)]


def _window_rule(f: Callable[..., Any], edge: Callable[[Any], Any]) -> Evaluation:
    def run(p: Params, x: Any) -> Any:
        size = p["window_dimensions"]
        view = _windows(
            x, edge(x), size, p["window_strides"], p["padding"], p["base_dilation"],
            p["window_dilation"],
        )  # fmt: skip
        return f(view, axis=tuple(range(x.ndim, 2 * x.ndim)))

    return run


NUMPY |= {
    "reduce_window_sum": _window_rule(np.sum, lambda x: 0),
    "reduce_window_max": _window_rule(np.max, lambda x: -np.inf),
    "reduce_window_min": _window_rule(np.min, lambda x: np.inf),
}


LARGEST = 2**24  # entries of all windows of a convolution; beyond, XLA is faster and takes less


@_enter("conv_general_dilated")
def _convolution(p: Params, x: Any, K: Any) -> Any:
    """None where the windows together are too large. Its axes and what else it has: see lax."""
    spec, groups, batches = p["dimension_numbers"], p["feature_group_count"], p["batch_group_count"]
    if batches > 1:
        return None
    x, K = np.transpose(x, spec.lhs_spec), np.transpose(K, spec.rhs_spec)
    n = K.ndim - 2
    ones = (1,) * n
    view = _windows(
        x, 0, (1, 1, *K.shape[2:]), (1, 1, *p["window_strides"]), [(0, 0), (0, 0), *p["padding"]],
        (1, 1, *(p["lhs_dilation"] or ones)), (1, 1, *(p["rhs_dilation"] or ones)),
    )  # fmt: skip
    view = view[(slice(None),) * (n + 2) + (0, 0)]
    if view.size > LARGEST:
        return None
    kind, inner = x.dtype, [*range(2 + n, 2 + 2 * n)]
    parts = [
        np.tensordot(a, k, ([1, *inner], [1, *range(2, 2 + n)]))
        for a, k in zip(np.split(view, groups, axis=1), np.split(K, groups, axis=0), strict=True)
    ]
    found = np.concatenate(parts, axis=-1) if groups > 1 else parts[0]  # batch, places, features
    found = np.moveaxis(found, -1, 1)
    back = np.argsort(spec.out_spec)
    return np.transpose(found, back).astype(kind, copy=False)
