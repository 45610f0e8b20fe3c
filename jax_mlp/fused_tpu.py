"""The whole epoch as one kernel of a TPU: weights stay in its vector memory, batches stream in."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Integer, Shaped

from jax_mlp.data import to_float
from jax_mlp.images import scaled

MIB = 2**20
# Vector memory of a core, by the kind that JAX gives. Source: pltpu.get_tpu_info of jax 0.10.2.
VMEM = {"TPU v4": 16, "TPU v5": 64, "TPU v5 lite": 128, "TPU v6 lite": 128, "TPU7x": 64}
SMALLEST = 64  # of those that can be had today

Weights = tuple[Array, Array, Array, Array]  # W1 [inputs, hidden], b1, W2 [hidden, classes], b2


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
    """Plain SGD over the batches of `order`, the last of which may be partial.

        W <- W - lr dW,   losses[i] = mean cross-entropy of batch i before its step

    rows: float32 or bytes. lr: None gives the gradients of the last batch in
    the place of weights. tie: the gradient of ReLU at 0. as_bytes: see jax_mlp.images.
    W2 lies [classes, hidden] here and logits [classes, batch]: 10 rows of 8 need 16, ten columns of
    128 would need 128. The rows that the last batch lacks are some row with the label -1.
    """
    (inputs, hidden), classes = weights[0].shape, len(weights[3])
    steps = -(-len(order) // batch_size)
    lacking = steps * batch_size - len(order)
    # Gathered beforehand: a copy of its own for each row took longer in the compiler's estimate.
    order = jnp.pad(order, (0, lacking))
    X = rows.at[order].get(mode="promise_in_bounds").reshape(steps, batch_size, inputs)
    y = labels.at[order].get(mode="promise_in_bounds").astype(jnp.int32)
    real = jnp.arange(steps * batch_size) < steps * batch_size - lacking
    y = jnp.where(real, y, -1).reshape(steps, 1, batch_size)

    W1, b1, W2, b2 = weights
    laid = W1, b1[None], W2.T, b2[:, None]
    fixed = [pl.BlockSpec(w.shape, lambda i: (0, 0)) for w in laid]
    scalar = pl.BlockSpec((None, 1, 1), lambda i: (i, 0, 0))
    *new, losses = pl.pallas_call(
        partial(_step, lr=lr, tie=tie, as_bytes=as_bytes),
        name="epoch",
        grid=(steps,),
        in_specs=[
            pl.BlockSpec((None, batch_size, inputs), lambda i: (i, 0, 0)),
            pl.BlockSpec((None, 1, batch_size), lambda i: (i, 0, 0)),
            *fixed,
        ],
        out_specs=[*fixed, scalar],
        out_shape=[
            *(jax.ShapeDtypeStruct(w.shape, w.dtype) for w in laid),
            jax.ShapeDtypeStruct((steps, 1, 1), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            vmem_limit_bytes=needed(inputs, hidden, classes, batch_size, X.dtype.itemsize)
        ),
        interpret=interpret,
    )(X, y, *laid)
    return (new[0], new[1][0], new[2].T, new[3][:, 0]), losses[:, 0, 0]


def needed(inputs: int, hidden: int, classes: int, batch_size: int, itemsize: int) -> int:
    """Bytes of vector memory: what comes and goes twice, as the next lot is on its way, and what a
    step computes. A row has multiples of 128 numbers there, a matrix multiples of 8 rows."""

    def float32(rows: int, columns: int) -> int:
        return 4 * (-(-rows // 8) * 8) * (-(-columns // 128) * 128)

    weights = float32(inputs, hidden) + float32(1, hidden) + float32(classes, hidden)
    image = float32(batch_size, inputs)
    streamed = image * itemsize // 4 + float32(1, batch_size)
    # The images as integers and floats, and turned; Z, H, dH, dZ; the gradients.
    within = 3 * image + 4 * float32(batch_size, hidden) + 2 * weights
    return 2 * (2 * weights + streamed) + within


def _step(
    X_ref: Any,
    y_ref: Any,
    W1_in: Any,
    b1_in: Any,
    W2_in: Any,
    b2_in: Any,
    W1: Any,
    b1: Any,
    W2: Any,
    b2: Any,
    loss: Any,
    *,
    lr: float | None,
    tie: float,
    as_bytes: bool,
) -> None:
    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        for given, kept in ((W1_in, W1), (b1_in, b1), (W2_in, W2), (b2_in, b2)):
            kept[...] = given[...]

    X, y = X_ref[...], y_ref[...]
    if as_bytes:
        of_images = partial(scaled, X)
    else:
        X = to_float(X) if X.dtype == jnp.uint8 else X
        of_images = partial(_of_images, X)
    Z = of_images(W1[...], axis=1) + b1[...]
    H = jnp.maximum(Z, 0)
    logits = _product(W2[...], H, 1, 1) + b2[...]

    top = logits.max(0, keepdims=True)
    e = jnp.exp(logits - top)
    total = e.sum(0, keepdims=True)
    hit = lax.broadcasted_iota(jnp.int32, logits.shape, 0) == y
    chosen = jnp.where(hit, logits, 0).sum(0, keepdims=True)
    real = y >= 0
    count = real.astype(jnp.float32).sum(1, keepdims=True)
    losses = jnp.where(real, jnp.log(total) + top - chosen, 0)
    loss[...] = losses.sum(1, keepdims=True) / count
    d = jnp.where(real, (e / total - hit.astype(jnp.float32)) / count, 0)

    dZ = _product(d, W2[...], 0, 0) * slope(Z, tie)
    for w, g in (
        (W1, of_images(dZ, axis=0)),
        (b1, dZ.sum(0, keepdims=True)),
        (W2, _product(d, H, 1, 0)),
        (b2, d.sum(1, keepdims=True)),
    ):
        w[...] = g if lr is None else w[...] - lr * g


def slope(Z: Array, tie: float) -> Array:
    """The gradient of ReLU."""
    return jnp.where(Z > 0, 1.0, jnp.where(Z == 0, tie, 0.0))


def _of_images(X: Array, B: Array, axis: int) -> Array:
    return _product(X, B, axis, 0)


def _product(A: Array, B: Array, a: int, b: int) -> Array:
    """The sum of products over axis a of A and axis b of B."""
    return lax.dot_general(A, B, (((a,), (b,)), ((), ())), preferred_element_type=jnp.float32)
