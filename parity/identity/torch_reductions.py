"""Rules of ATen's reductions, softmaxes and losses."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from parity.identity import functions
from parity.identity.field import Algebra, Array
from parity.identity.number import Field, Undecided
from parity.identity.torch_rules import RULES, enter

# --- reductions ----------------------------------------------------------------------------------


def axes_of(x: Field, dim: Any) -> tuple[int, ...]:
    """All for none."""
    n = len(x.shape)
    dims = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return tuple(sorted(d % n for d in dims)) if dims else tuple(range(n))


def total(of: Algebra, x: Field, dim: Any = None, keepdim: bool = False) -> Field:
    """The sum."""
    axes = axes_of(x, dim)
    return of.linear(lambda v: v.sum(axes, keepdims=keepdim), x)


def average(of: Algebra, x: Field, dim: Any = None, keepdim: bool = False, less: Any = 0) -> Field:
    """The sum, over the number of summands less some."""
    n = math.prod(x.shape[i] for i in axes_of(x, dim))
    return of.div(total(of, x, dim, keepdim), of.lift(float(n - less)))


@enter("mean")
def _mean(
    of: Algebra, x: Field, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Field:
    return average(of, x, dim, keepdim)


@enter("sum")
def _sum(of: Algebra, x: Field, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Field:
    return total(of, of.lift(x), dim, keepdim)


@enter("var")
def _var(
    of: Algebra, x: Field, dim: Any = None, correction: Any = 1, keepdim: bool = False
) -> Field:
    if isinstance(dim, bool):
        dim, correction = None, int(dim)
    centred = of.sub(x, average(of, x, dim, True))
    return average(of, of.power(centred, 2), dim, keepdim, 1 if correction is None else correction)


@enter("var_mean")
def _var_mean(of: Algebra, x: Field, dim: Any = None, **how: Any) -> tuple[Field, Field]:
    return _var(of, x, dim, **how), average(of, x, dim, how.get("keepdim", False))


@enter("std")
def _std(
    of: Algebra, x: Field, dim: Any = None, correction: Any = 1, keepdim: bool = False
) -> Field:
    return functions.sqrt(of, _var(of, x, dim, correction, keepdim))


@enter("linalg_vector_norm", "norm")
def _norm(of: Algebra, x: Field, ord: Any = 2, dim: Any = None, keepdim: bool = False,
          dtype: Any = None) -> Field:  # fmt: skip
    if ord not in (None, 2, 2.0):
        raise Undecided(f"a norm of order {ord}")
    return functions.sqrt(of, total(of, of.power(x, 2), dim, keepdim))


def extreme(of: Algebra, x: Field, dim: Any, keepdim: bool, least: bool) -> tuple[Field, Array]:
    """(max, its index)."""
    axes = axes_of(x, dim)
    kept = [i for i in range(len(x.shape)) if i not in axes]

    def front(v: Array) -> Array:
        return v.transpose([*axes, *kept]).reshape(-1, *(v.shape[i] for i in kept))

    best, index = functions.largest(of, of.moved(front, x), least)
    if keepdim:
        best = of.moved(lambda v: np.expand_dims(v, axes), best)
        index = np.expand_dims(index, axes)
    return best, index


@enter("amax", "amin", "max", "min", "argmax", "argmin")
def _amax(of: Algebra, x: Field, dim: Any = None, keepdim: bool = False, *, least: bool = False,
          kind: str = "") -> Any:  # fmt: skip
    if isinstance(dim, Field):
        return (functions.minimum if least else functions.maximum)(of, x, dim)
    both = extreme(of, x, dim, keepdim, least)
    if kind:
        return both[kind == "argmax"]
    return both if isinstance(dim, int) else both[0]


RULES["amax"] = partial(_amax, kind="amax")
RULES["argmax"] = partial(_amax, kind="argmax")
RULES["amin"] = partial(_amax, kind="amax", least=True)
RULES["argmin"] = partial(_amax, kind="argmax", least=True)
RULES["min"] = partial(_amax, least=True)


@enter("prod")
def _prod(
    of: Algebra, x: Field, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Field:
    axis = dim if isinstance(dim, int) else 0
    x = x if isinstance(dim, int) else of.moved(np.ravel, x)
    rows = [of.moved(lambda v, i=i: v.take(i, axis), x) for i in range(x.shape[axis])]
    found = rows[0]
    for row in rows[1:]:
        found = of.mul(found, row)
    return of.moved(lambda v: np.expand_dims(v, axis), found) if keepdim else found


# --- softmax and losses --------------------------------------------------------------------------


@enter("logsumexp")
def logsumexp(of: Algebra, x: Field, dim: Any, keepdim: bool = False) -> Field:
    """log(sum(exp(x)))."""
    x, shift = functions.shifted(of, x, axes_of(x, dim))
    found = functions.log(of, total(of, functions.exp(of, x), dim, True))
    found = found if shift is None else of.add(found, shift)
    axes = axes_of(x, dim)
    return found if keepdim else of.moved(lambda v: v.squeeze(axes), found)


@enter("_softmax")
def _softmax(of: Algebra, x: Field, dim: int, half: bool = False) -> Field:
    e = functions.exp(of, functions.shifted(of, x, axes_of(x, dim))[0])
    return of.div(e, total(of, e, dim, True))


@enter("_log_softmax")
def _log_softmax(of: Algebra, x: Field, dim: int, half: bool = False) -> Field:
    return of.sub(x, logsumexp(of, x, dim, True))


@enter("_softmax_backward_data")
def _softmax_backward(of: Algebra, g: Field, y: Field, dim: int, dtype: Any) -> Field:
    return of.mul(y, of.sub(g, total(of, of.mul(g, y), dim, True)))


@enter("_log_softmax_backward_data")
def _log_softmax_backward(of: Algebra, g: Field, y: Field, dim: int, dtype: Any) -> Field:
    return of.sub(g, of.mul(functions.exp(of, y), total(of, g, dim, True)))


def _of_labels(of: Algebra, shape: Sequence[int], labels: Array, weight: Field | None,
               ignored: int) -> tuple[tuple[Array, ...], Field]:  # fmt: skip
    """(where the labels are in [N, C, ...] or [C], the weight of each)."""
    live = labels != ignored
    classes = np.where(live, labels, 0)
    grid = np.indices(labels.shape)
    at = (grid[0], classes, *grid[1:]) if len(shape) > 1 else (classes,)
    w = of.lift(live.astype(np.float64))
    if weight is not None:
        w = of.mul(w, of.moved(lambda v: v[classes], weight))
    return at, w


@enter("nll_loss_forward", "nll_loss2d_forward")
def _nll(of: Algebra, x: Field, labels: Array, weight: Field | None, reduction: int,
         ignored: int) -> tuple[Field, Field]:  # fmt: skip
    at, w = _of_labels(of, x.shape, labels, weight, ignored)
    each = of.mul(of.neg(w), of.moved(lambda v: v[at], x))
    whole = total(of, w)
    if reduction == 0:
        return each, of.lift(0.0)
    added = total(of, each)
    return (of.div(added, whole) if reduction == 1 else added), whole


@enter("nll_loss_backward", "nll_loss2d_backward")
def _nll_backward(of: Algebra, g: Field, x: Field, labels: Array, weight: Field | None,
                  reduction: int, ignored: int, whole: Field) -> Field:  # fmt: skip
    at, w = _of_labels(of, x.shape, labels, weight, ignored)
    each = of.mul(g, of.neg(w))
    each = of.div(each, whole) if reduction == 1 else each

    def put(v: Array) -> Array:
        found = np.zeros(x.shape)
        found[at] = v
        return found

    return of.moved(put, each)


def _reduced(of: Algebra, x: Field, reduction: int) -> Field:
    return x if reduction == 0 else average(of, x) if reduction == 1 else total(of, x)


@enter("mse_loss")
def _mse(of: Algebra, x: Field, y: Field, reduction: int = 1) -> Field:
    return _reduced(of, of.power(of.sub(x, y), 2), reduction)


@enter("mse_loss_backward")
def _mse_backward(of: Algebra, g: Field, x: Field, y: Field, reduction: int) -> Field:
    twice = of.lift(2.0 / x.size if reduction == 1 else 2.0)
    if reduction == 1:
        twice = of.div(of.lift(2.0), of.lift(float(x.size)))
    return of.mul(of.mul(twice, g), of.sub(x, y))


@enter("binary_cross_entropy_with_logits")
def _bce(of: Algebra, x: Field, y: Field, weight: Any = None, pos_weight: Any = None,
         reduction: int = 1) -> Field:  # fmt: skip
    one = of.lift(1.0)
    minus = functions.softplus(of, of.neg(x))
    factor = one
    if pos_weight is not None:
        factor = of.add(one, of.mul(of.sub(pos_weight, one), y))
    each = of.add(of.mul(of.sub(one, y), x), of.mul(factor, minus))
    return _reduced(of, each if weight is None else of.mul(each, weight), reduction)
