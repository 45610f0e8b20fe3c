"""Rules of ATen's normalisations, of their backward passes, and of pooling."""

import math
from typing import Any

import numpy as np

from parity.identity import functions
from parity.identity.field import Algebra, Array
from parity.identity.number import Field, Undecided
from parity.identity.torch_reductions import average, total
from parity.identity.torch_rules import enter


def _shaped(of: Algebra, x: Field | None, shape: tuple[int, ...]) -> Field | None:
    return None if x is None else of.moved(lambda v: v.reshape(shape), x)


def _affine(of: Algebra, x: Field, weight: Field | None, bias: Field | None) -> Field:
    x = x if weight is None else of.mul(x, weight)
    return x if bias is None else of.add(x, bias)


def normalised(of: Algebra, x: Field, axes: tuple[int, ...], eps: Any) -> tuple[Field, ...]:
    """((x - mean) rstd, mean, rstd, variance), with the axes kept."""
    mean = average(of, x, axes, True)
    centred = of.sub(x, mean)
    var = average(of, of.power(centred, 2), axes, True)
    rstd = functions.rsqrt(of, of.add(var, of.lift(eps)))
    return of.mul(centred, rstd), mean, rstd, var


def pulled_back(of: Algebra, g: Field, x: Field, mean: Field, rstd: Field,
                axes: tuple[int, ...]) -> Field:  # fmt: skip
    """rstd (g - mean(g)) - rstd^3 (x - mean) mean(g (x - mean)): no root is squared."""
    centred = of.sub(x, mean)
    first = of.mul(rstd, of.sub(g, average(of, g, axes, True)))
    slope = average(of, of.mul(g, centred), axes, True)
    return of.sub(first, of.mul(of.power(rstd, 3), of.mul(centred, slope)))


@enter("native_layer_norm")
def _layer_norm(of: Algebra, x: Field, shape: Any, weight: Field | None, bias: Field | None,
                eps: Any) -> tuple[Field, Field, Field]:  # fmt: skip
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    found, mean, rstd, _ = normalised(of, x, axes, eps)
    return _affine(of, found, weight, bias), mean, rstd


@enter("native_layer_norm_backward")
def _layer_norm_backward(of: Algebra, g: Field, x: Field, shape: Any, mean: Field, rstd: Field,
                         weight: Field | None, bias: Any, mask: Any) -> Any:  # fmt: skip
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    rows = tuple(range(len(x.shape) - len(shape)))
    scaled = g if weight is None else of.mul(g, weight)
    by_x = pulled_back(of, scaled, x, mean, rstd, axes)
    by_weight = total(of, of.mul(g, of.mul(of.sub(x, mean), rstd)), rows) if mask[1] else None
    return by_x, by_weight, total(of, g, rows) if mask[2] else None


@enter("native_group_norm")
def _group_norm(of: Algebra, x: Field, weight: Field | None, bias: Field | None, N: int, C: int,
                HW: int, groups: int, eps: Any) -> tuple[Field, ...]:  # fmt: skip
    split = of.moved(lambda v: v.reshape(N, groups, -1), x)
    found, mean, rstd, _ = normalised(of, split, (2,), eps)
    found = of.moved(lambda v: v.reshape(x.shape), found)
    shape = (C,) + (1,) * (len(x.shape) - 2)
    made = _affine(of, found, _shaped(of, weight, shape), _shaped(of, bias, shape))
    flat = [of.moved(lambda v: v.reshape(N, groups), one) for one in (mean, rstd)]
    return made, *flat


@enter("native_group_norm_backward")
def _group_norm_backward(of: Algebra, g: Field, x: Field, mean: Field, rstd: Field,
                         weight: Field | None, N: int, C: int, HW: int, groups: int,
                         mask: Any) -> tuple[Any, ...]:  # fmt: skip
    def split(one: Field) -> Field:
        return of.moved(lambda v: v.reshape(N, groups, -1), one)

    shape = (C,) + (1,) * (len(x.shape) - 2)
    wide = _shaped(of, weight, shape)
    scaled = split(g if wide is None else of.mul(g, wide))
    mean, rstd = split(mean), split(rstd)
    by_x = of.moved(
        lambda v: v.reshape(x.shape), pulled_back(of, scaled, split(x), mean, rstd, (2,))
    )
    axes = (0, *range(2, len(x.shape)))
    hat = of.moved(lambda v: v.reshape(x.shape), of.mul(of.sub(split(x), mean), rstd))
    return by_x, total(of, of.mul(g, hat), axes), total(of, g, axes)


def batch_norm(of: Algebra, x: Field, weight: Field | None, bias: Field | None,
               running: tuple[Field | None, Field | None], training: bool, momentum: Any,
               eps: Any) -> tuple[Any, ...]:  # fmt: skip
    """(output, mean, rstd, new running mean, new running variance)."""
    axes = (0, *range(2, len(x.shape)))
    shape = (x.shape[1],) + (1,) * (len(x.shape) - 2)
    scale, shift = _shaped(of, weight, shape), _shaped(of, bias, shape)
    old_mean, old_var = running
    if not training:
        assert old_mean is not None and old_var is not None
        rstd = functions.rsqrt(of, of.add(old_var, of.lift(eps)))
        hat = of.mul(of.sub(x, of.moved(lambda v: v.reshape(shape), old_mean)),
                     of.moved(lambda v: v.reshape(shape), rstd))  # fmt: skip
        return _affine(of, hat, scale, shift), None, None, None, None
    hat, mean, rstd, var = normalised(of, x, axes, eps)
    mean, rstd, var = (of.moved(np.ravel, one) for one in (mean, rstd, var))
    n = x.size // x.shape[1]
    unbiased = of.mul(var, of.div(of.lift(float(n)), of.lift(float(n - 1))))
    news = [
        None if old is None else of.add(of.mul(of.lift(1 - momentum), old),
                                        of.mul(of.lift(momentum), new))
        for old, new in ((old_mean, mean), (old_var, unbiased))
    ]  # fmt: skip
    return _affine(of, hat, scale, shift), mean, rstd, *news


@enter("native_batch_norm_backward")
def _batch_norm_backward(of: Algebra, g: Field, x: Field, weight: Field | None,
                         running_mean: Field | None, running_var: Field | None,
                         mean: Field | None, rstd: Field | None, training: bool, eps: Any,
                         mask: Any) -> tuple[Any, ...]:  # fmt: skip
    axes = (0, *range(2, len(x.shape)))
    shape = (x.shape[1],) + (1,) * (len(x.shape) - 2)
    if not training:
        assert running_mean is not None and running_var is not None
        mean, rstd = running_mean, functions.rsqrt(of, of.add(running_var, of.lift(eps)))
    mean, rstd = _shaped(of, mean, shape), _shaped(of, rstd, shape)
    assert mean is not None and rstd is not None
    wide = _shaped(of, weight, shape)
    scaled = g if wide is None else of.mul(g, wide)
    by_x = pulled_back(of, scaled, x, mean, rstd, axes) if training else of.mul(scaled, rstd)
    by_weight = total(of, of.mul(g, of.mul(of.sub(x, mean), rstd)), axes)
    return by_x, by_weight, total(of, g, axes)


# --- pooling -------------------------------------------------------------------------------------


@enter("max_pool2d_with_indices")
def _max_pool(of: Algebra, x: Field, size: Any, stride: Any = (), padding: Any = 0,
              dilation: Any = 1, ceil: bool = False) -> tuple[Field, Array]:  # fmt: skip
    places = _places(x.shape, size, stride, padding, dilation, ceil)
    flat = of.moved(lambda v: v.reshape(*x.shape[:-2], -1), x)
    taken = of.moved(lambda v: np.moveaxis(v[..., np.maximum(places, 0)], -1, 0), flat)
    mask = np.moveaxis(np.broadcast_to(places >= 0, (*x.shape[:-2], *places.shape)), -1, 0)
    best, index = functions.largest(of, of.chosen(mask, taken, of.lift(-np.inf)))
    at = np.take_along_axis(np.broadcast_to(places, (*x.shape[:-2], *places.shape)),
                            index[..., None], -1)[..., 0]  # fmt: skip
    return best, at


def _places(shape: tuple[int, ...], size: Any, stride: Any, padding: Any, dilation: Any,
            ceil: bool) -> Array:  # fmt: skip
    """[rows, columns, entries of a window]: where each comes from in its image, -1 for padding."""

    def two(n: Any) -> tuple[int, int]:
        n = [n] if isinstance(n, int) else list(n)
        return (n[0], n[-1])

    size, padding, dilation = two(size), two(padding), two(dilation)
    stride = two(stride) if stride not in ((), [], None) else size
    rows = []
    for n, k, s, p, d in zip(shape[-2:], size, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = (math.ceil if ceil else math.floor)(room / s) + 1
        at = np.arange(count)[:, None] * s - p + np.arange(k) * d
        rows.append(np.where((at >= 0) & (at < n), at, -1))
    high, wide = rows
    grid_y, grid_x = high[:, None, :, None], wide[None, :, None, :]
    found = np.where((grid_y >= 0) & (grid_x >= 0), grid_y * shape[-1] + grid_x, -1)
    return found.reshape(*found.shape[:2], -1)


@enter("max_pool2d_with_indices_backward")
def _max_pool_backward(of: Algebra, g: Field, x: Field, size: Any, stride: Any, padding: Any,
                       dilation: Any, ceil: bool, indices: Array) -> Field:  # fmt: skip
    def back(v: Array) -> Array:
        found = np.zeros((math.prod(x.shape[:-2]), math.prod(x.shape[-2:])))
        rows = np.arange(len(found))[:, None]
        np.add.at(found, (rows, indices.reshape(len(found), -1)), v.reshape(len(found), -1))
        return found.reshape(x.shape)

    return of.linear(back, g)


@enter("avg_pool2d")
def _avg_pool(of: Algebra, x: Field, size: Any, stride: Any = (), padding: Any = 0,
              ceil: bool = False, pad: bool = True, divisor: Any = None) -> Field:  # fmt: skip
    places = _places(x.shape, size, stride, padding, 1, ceil)
    flat = of.moved(lambda v: v.reshape(*x.shape[:-2], -1), x)
    added = of.linear(
        lambda v: np.where(places >= 0, v[..., np.maximum(places, 0)], 0).sum(-1), flat
    )
    count = np.full(places.shape[:2], places.shape[-1]) if pad else (places >= 0).sum(-1)
    return of.div(added, of.lift((count if divisor is None else 0 * count + divisor) * 1.0))


@enter("avg_pool2d_backward")
def _avg_pool_backward(of: Algebra, g: Field, x: Field, size: Any, stride: Any, padding: Any,
                       ceil: bool, pad: bool, divisor: Any) -> Field:  # fmt: skip
    places = _places(x.shape, size, stride, padding, 1, ceil)
    count = np.full(places.shape[:2], places.shape[-1]) if pad else (places >= 0).sum(-1)
    each = of.div(g, of.lift((count if divisor is None else 0 * count + divisor) * 1.0))

    def back(v: Array) -> Array:
        found = np.zeros((math.prod(x.shape[:-2]), math.prod(x.shape[-2:]) + 1))
        wide = np.broadcast_to(v.reshape(len(found), *v.shape[-2:], 1), (len(found), *places.shape))
        np.add.at(found, (np.arange(len(found))[:, None, None, None], places[None]), wide)
        return found[:, :-1].reshape(x.shape)

    return of.linear(back, each)


@enter("_adaptive_avg_pool2d")
def _adaptive(of: Algebra, x: Field, size: Any) -> Field:
    if any(n % m for n, m in zip(x.shape[-2:], size, strict=True)):
        raise Undecided("windows of several sizes")
    steps = [n // m for n, m in zip(x.shape[-2:], size, strict=True)]
    return _avg_pool(of, x, steps)


@enter("_adaptive_avg_pool2d_backward")
def _adaptive_backward(of: Algebra, g: Field, x: Field) -> Field:
    steps = [n // m for n, m in zip(x.shape[-2:], g.shape[-2:], strict=True)]
    return _avg_pool_backward(of, g, x, steps, steps, 0, False, True, None)
