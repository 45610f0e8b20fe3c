"""A step as three kernels of a GPU (Triton): forward, head, backward; the shuffle is in the first.

No kernel reads what another of its programs writes: W1 and b1 are read by `_forward`, W2 and b2 by
`_head`, and all are written by `_backward`, in place. So weights never leave the device, and an
epoch is one loop of three launches and its counter.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array, Float, Integer, Shaped

from jax_mlp.data import to_float
from jax_mlp.fused_tpu import Weights, slope
from jax_mlp.images import SCALE, as_bfloat16, parts

LEAST = 16  # of each side of a product of Triton's
CHUNK = 32  # of what a product sums over
MANY = 100  # blocks of a grid, of 132 processors of an H100


def epoch(
    weights: Weights,
    rows: Shaped[Array, "all inputs"],
    labels: Integer[Array, "all"],
    order: Integer[Array, "examples"],
    *,
    batch_size: int,
    lr: float | None,
    tie: float,
    as_bytes: bool = False,
    interpret: bool = False,
) -> tuple[Weights, Float[Array, "steps"]]:
    """As fused_tpu.epoch. What isn't a multiple of a block is filled up with zeros, which training
    leaves zeros; rows that a batch lacks have the index -1."""
    (inputs, hidden), classes = weights[0].shape, len(weights[3])
    examples, steps = len(order), -(-len(order) // batch_size)
    batch = _up(batch_size, CHUNK)
    order = jnp.pad(order, (0, steps * batch_size - examples), constant_values=-1)
    order = order.reshape(steps, batch_size)
    order = jnp.pad(order, ((0, 0), (0, batch - batch_size)), constant_values=-1)

    height, width, outputs = _up(inputs, CHUNK), _up(hidden, CHUNK), pl.next_power_of_2(classes)
    outputs = max(outputs, LEAST)
    W1, b1, W2, b2 = weights
    W1 = jnp.pad(W1, ((0, height - inputs), (0, width - hidden)))
    b1 = jnp.pad(b1, (0, width - hidden))
    W2 = jnp.pad(W2, ((0, width - hidden), (0, outputs - classes)))
    b2 = jnp.pad(b2, (0, outputs - classes))
    call = partial(_call, interpret=interpret)
    like = jax.ShapeDtypeStruct
    Z_like = like((batch, width), jnp.float32)
    d_like = like((batch, outputs), jnp.float32)

    def step(i: Any, carry: Any) -> Any:
        (W1, b1, W2, b2), losses = carry
        at = jnp.reshape(i, (1,)).astype(jnp.int32)
        tile = _tile(batch, width)
        Z = call(
            partial(_forward, tile=tile, inputs=inputs, as_bytes=as_bytes),
            (batch // tile[0], width // tile[1]),
            [Z_like],
            at, order, rows, W1, b1,
        )[0]  # fmt: skip
        losses, d, dZ = call(
            partial(_head, classes=classes, batch_size=batch_size, examples=examples, tie=tie),
            (batch // LEAST,),
            [like(losses.shape, losses.dtype), d_like, Z_like],
            losses, at, order, labels, Z, W2, b2,
            kept=[0],
        )  # fmt: skip
        tile = _tile(height, width)
        new = call(
            partial(_backward, tile=tile, inputs=inputs, lr=lr, as_bytes=as_bytes),
            (height // tile[0], width // tile[1]),
            [like(w.shape, w.dtype) for w in (W1, b1, W2, b2)],
            W1, b1, W2, b2, at, order, rows, Z, d, dZ,
            kept=[0, 1, 2, 3],
        )  # fmt: skip
        return tuple(new), losses

    start = (W1, b1, W2, b2), jnp.zeros((steps, batch))
    (W1, b1, W2, b2), losses = lax.fori_loop(0, steps, step, start)
    counts = jnp.minimum(batch_size, examples - batch_size * jnp.arange(steps))
    new = W1[:inputs, :hidden], b1[:hidden], W2[:hidden, :classes], b2[:classes]
    return new, losses.sum(1) / counts


def _call(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    out: Sequence[jax.ShapeDtypeStruct],
    *given: Array,
    interpret: bool,
    kept: Sequence[int] = (),
) -> list[Array]:
    """kept: the first operands, which are changed in place as the first results."""
    name = kernel.func.__name__.strip("_")  # type: ignore[attr-defined]
    return [
        *pl.pallas_call(
            kernel,
            name=name,
            grid=grid,
            out_shape=out,
            input_output_aliases={i: i for i in kept},
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=3),
            interpret=interpret,
        )(*given)
    ]


def _forward(
    at: Any,
    order: Any,
    rows: Any,
    W1: Any,
    b1: Any,
    Z: Any,
    *,
    tile: tuple[int, int],
    inputs: int,
    as_bytes: bool,
) -> None:
    """Z = X W1 + b1 of some rows and units."""
    these, units = (pl.ds(pl.program_id(k) * tile[k], tile[k]) for k in range(2))
    which = jnp.maximum(order[at[0], these], 0)

    def add(k: Any, total: Array) -> Array:
        X = _images(rows, which, k * CHUNK, CHUNK, inputs, as_bytes)
        return total + _of_images(X, W1[pl.ds(k * CHUNK, CHUNK), units])

    total = lax.fori_loop(0, W1.shape[0] // CHUNK, add, jnp.zeros(tile))
    total = total * SCALE if as_bytes else total
    Z[these, units] = total + b1[units][None]


def _head(
    losses_in: Any,
    at: Any,
    order: Any,
    labels: Any,
    Z: Any,
    W2: Any,
    b2: Any,
    losses: Any,
    d: Any,
    dZ: Any,
    *,
    classes: int,
    batch_size: int,
    examples: int,
    tie: float,
) -> None:
    """Logits, losses, and the gradients by logits and by Z, of some rows."""
    these = pl.ds(pl.program_id(0) * LEAST, LEAST)
    width, outputs = W2.shape

    def add(k: Any, total: Array) -> Array:
        units = pl.ds(k * CHUNK, CHUNK)
        return total + plgpu.dot(jnp.maximum(Z[these, units], 0), W2[units, :])

    logits = lax.fori_loop(0, width // CHUNK, add, jnp.zeros((LEAST, outputs)))
    column = lax.broadcasted_iota(jnp.int32, (LEAST, outputs), 1)
    logits = jnp.where(column < classes, logits + b2[:][None], -jnp.inf)

    which = order[at[0], these]
    real = which >= 0
    y = labels[jnp.maximum(which, 0)].astype(jnp.int32)
    top = logits.max(1)
    e = jnp.exp(logits - top[:, None])
    total = e.sum(1)
    hit = column == y[:, None]
    chosen = jnp.where(hit, logits, 0).sum(1)
    losses[at[0], these] = jnp.where(real, jnp.log(total) + top - chosen, 0)
    count = jnp.minimum(batch_size, examples - batch_size * at[0]).astype(jnp.float32)
    share = (e / total[:, None] - hit.astype(jnp.float32)) / count
    share = jnp.where(real[:, None], share, 0)
    d[these, :] = share

    def pull(k: Any, _: Any) -> None:
        units = pl.ds(k * CHUNK, CHUNK)
        dZ[these, units] = plgpu.dot(share, W2[units, :], trans_b=True) * slope(
            Z[these, units], tie
        )

    lax.fori_loop(0, width // CHUNK, pull, None)


def _backward(
    W1_in: Any,
    b1_in: Any,
    W2_in: Any,
    b2_in: Any,
    at: Any,
    order: Any,
    rows: Any,
    Z: Any,
    d: Any,
    dZ: Any,
    W1: Any,
    b1: Any,
    W2: Any,
    b2: Any,
    *,
    tile: tuple[int, int],
    inputs: int,
    lr: float | None,
    as_bytes: bool,
) -> None:
    """dW1 = X^T dZ of some pixels and units, and what else these units have; then the update."""
    row, column = pl.program_id(0), pl.program_id(1)
    pixels, units = pl.ds(row * tile[0], tile[0]), pl.ds(column * tile[1], tile[1])
    every = pl.ds(0, d.shape[1])
    chunks = Z.shape[0] // CHUNK

    def summed(of: Callable[[Any], Array], shape: tuple[int, ...]) -> Array:
        def add(k: Any, total: Array) -> Array:
            return total + of(pl.ds(k * CHUNK, CHUNK))

        return lax.fori_loop(0, chunks, add, jnp.zeros(shape))

    def taken(given: Any, kept: Any, where: Any, gradient: Array) -> None:
        kept[where] = gradient if lr is None else given[where] - lr * gradient

    def of_pixels(these: Any) -> Array:
        which = jnp.maximum(order[at[0], these], 0)
        X = _images(rows, which, row * tile[0], tile[0], inputs, as_bytes)
        return _of_images(X, dZ[these, units], trans_a=True)

    total = summed(of_pixels, tile)
    taken(W1_in, W1, (pixels, units), total * SCALE if as_bytes else total)

    @pl.when(row == 0)
    def _() -> None:
        taken(b1_in, b1, units, summed(lambda these: dZ[these, units].sum(0), (tile[1],)))

        def of_units(these: Any) -> Array:
            return plgpu.dot(jnp.maximum(Z[these, units], 0), d[these, :], trans_a=True)

        taken(W2_in, W2, (units, every), summed(of_units, (tile[1], d.shape[1])))

    @pl.when((row == 0) & (column == 0))
    def _() -> None:
        taken(b2_in, b2, every, summed(lambda these: d[these, :].sum(0), (d.shape[1],)))


def _of_images(X: Array, B: Array, **options: Any) -> Array:
    """X B, in bfloat16 by the parts of B."""
    if X.dtype != jnp.bfloat16:
        return plgpu.dot(X, B, **options)
    sums = [plgpu.dot(X, part, **options) for part in reversed(parts(B))]
    return sum(sums[1:], start=sums[0])


def _images(rows: Any, which: Array, first: Any, count: int, inputs: int, as_bytes: bool) -> Array:
    """Pixels `first` to `first + count` of some images; zeros past the last."""
    pixels = first + jnp.arange(count)
    there = jnp.broadcast_to((pixels < inputs)[None], (len(which), count))
    where = rows.at[which[:, None], jnp.minimum(pixels, inputs - 1)[None]]
    X = plgpu.load(where, mask=there, other=0)
    if as_bytes:
        return as_bfloat16(X)
    return to_float(X) if X.dtype == jnp.uint8 else X


def _up(count: int, block: int) -> int:
    return -(-count // block) * block


def _tile(height: int, width: int) -> tuple[int, int]:
    """The largest block of whose kind there are enough for a GPU."""
    sizes = [(64, 64), (32, 64), (32, 32), (16, 32), (16, 16)]
    whole = [t for t in sizes if height % t[0] == 0 and width % t[1] == 0]
    many = [t for t in whole if height // t[0] * (width // t[1]) >= MANY]
    return many[0] if many else whole[-1]
