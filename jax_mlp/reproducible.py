"""Operations of a network with one result on every machine: the bits of torch_mlp.reproducible.

What they stand on, and why order and fused multiply-adds do no harm: jax_mlp.exact. A device
without float64 computes them by integers, and gets the same bits.

Tensors are float32 between operations. A float32 below 2^-126 (subnormal) counts as +0, on the way
in and out, and -0 becomes +0: XLA flushes on CPU and Torch does not. A NaN or an infinity among the
operands of a result makes it NaN or infinite.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jax_mlp.exact import (
    SMALLEST,
    TERM,
    check,
    concatenate,
    exp,
    flush,
    in_64_bits,
    is_finite,
    log,
    narrow,
    product,
    select,
    square_root,
    summed,
    total,
    widen,
)
from mlp_core.arithmetic import checked, missing

Params = dict[str, Array]
Tree = Any  # a pytree of arrays


@jax.custom_vjp
@in_64_bits
def linear(
    X: Float[Array, "batch inputs"] | UInt8[Array, "batch inputs"],
    W: Float[Array, "inputs outputs"],
    b: Float[Array, "outputs"],
) -> Float[Array, "batch outputs"]:
    """An affine layer, rounded once.

        Y = X @ W + b      dW = X^T @ dY      db = sum_i dY_i      dX = dY @ W^T

    X: float32, or uint8, which stands for the exact quotients X / 255 (pixels: half the work of
    float32 or less, and no dX). Any order of the examples gives the same Y rows, dW and db; so does
    a batch sharded over devices by jit, which then sums the exact integers. Error of each output:
    half an ulp + inputs * 2^-37 * max|X_i| max|W_j| (2^-32 max|W_j| for uint8), and likewise for
    the gradients. Raises TypeError for other types. Source: d2l 3.1.
    """
    if X.dtype != jnp.uint8:
        check("linear", X=X)
    check("linear", W=W, b=b)
    return narrow(product(X, W) + widen(b))


def _linear_forward(X: Array, W: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return linear(X, W, b), (X, W)


@in_64_bits
def _linear_backward(saved: tuple[Array, Array], dY: Array) -> tuple[Array | None, Array, Array]:
    X, W = saved
    dX = None if X.dtype == jnp.uint8 else narrow(product(dY, W.T))
    return dX, narrow(product(X, dY, inner=0)), narrow(summed(widen(dY)))


linear.defvjp(_linear_forward, _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
@in_64_bits
def relu(X: Float[Array, "*shape"], tie: float = 0.0) -> Float[Array, "*shape"]:
    """max(X, 0), elementwise; the gradient at exactly 0 is tie.

    tie: 0 as in nn.ReLU and jax.nn.relu, or 0.5 as in max(X, 0) of either framework.
    Raises TypeError unless X is float32, ValueError for another tie. Source: d2l 5.1.2.1.
    """
    check("relu", X=X)
    if tie not in (0.0, 0.5):
        raise ValueError(f"reproducible.relu: tie = {tie}, expected 0.0 or 0.5")
    return jnp.where(X < SMALLEST, jnp.zeros_like(X), X)


def _relu_forward(X: Array, tie: float) -> tuple[Array, Array]:
    return relu(X, tie), X


@in_64_bits
def _relu_backward(tie: float, X: Array, dY: Array) -> tuple[Array]:
    below = jnp.where(X <= -SMALLEST, jnp.zeros_like(X), jnp.where(X == X, tie * dY, X))
    return (flush(jnp.where(X >= SMALLEST, dY, below)),)


relu.defvjp(_relu_forward, _relu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def softmax_cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], averaged: bool = True
) -> Float[Array, ""] | Float[Array, "batch"]:
    """Mean softmax cross-entropy, in nats; that of each example if not averaged.

        L = mean_i( log(sum_j exp(z_ij)) - z_iy ),   z_ij = logits_ij - max_j logits_ij,  y = label
        dlogits_ij = (softmax(logits_i)_j - [j = y]) / batch

    A logit that is not finite, or a label outside [0, classes) (checked where data enters), gives
    NaN. Error of L: 2^-23 L + (classes + 4) * 2^-41 * max_i(1, loss_i); of dlogits: 2^-22 / batch.
    Raises TypeError unless logits are float32. Source: d2l 4.1.
    """
    return _cross_entropy_forward(logits, labels, averaged)[0]


@in_64_bits
def _cross_entropy_forward(logits: Array, labels: Array, averaged: bool) -> tuple[Array, Array]:
    check("softmax_cross_entropy", logits=logits)
    batch, classes = logits.shape
    z = widen(logits)
    z = z - z.max(1, keepdims=True)
    hit = labels[:, None] == jnp.arange(classes)
    z = select(is_finite(z) & hit.any(1, keepdims=True), z, jnp.nan)
    e = exp(z)
    s = total((e * 2.0**TERM).round().T) * 2.0**-TERM
    losses = log(s) + select(hit, -z, 0.0).max(1)  # the others are 0, and z <= 0
    value = narrow(summed(losses) * (1 / batch) if averaged else losses)
    p = e / s[:, None]
    return value, narrow(select(hit, p - 1.0, p))


@in_64_bits
def _cross_entropy_backward(averaged: bool, difference: Array, dL: Array) -> tuple[Array, None]:
    share = widen(dL) * (1 / len(difference)) if averaged else widen(dL)[:, None]
    return narrow(widen(difference) * share), None


softmax_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


@in_64_bits
def mean(x: Float[Array, "examples"]) -> Float[Array, ""]:
    """The mean of a vector, rounded once more than the sum. Not differentiable."""
    check("mean", x=x)
    return narrow(summed(widen(x)) * (1 / len(x)))


def named_leaves(tree: Tree) -> Params:
    """The leaves of a pytree by their places."""
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(tree))}


@in_64_bits
def clipped(grads: Tree, clip: float) -> Tree:
    """The gradients, scaled so that their global norm is at most clip: g * min(1, clip / |g|).

    The norm, the factor and each product are rounded to float32. Source: d2l 9.5.3.
    """
    leaves = named_leaves(grads)
    check("clipped", **leaves)
    # All squares in one sum: the same norm whatever the order of the names.
    wide = [widen(g).ravel() for g in leaves.values()]
    squares = concatenate([g * g for g in wide])
    norm, limit = widen(narrow(square_root(summed(squares)))), float(np.float32(clip))
    factor = select(norm <= limit, 1.0, widen(narrow(limit / norm)))
    return jax.tree.map(lambda g: narrow(widen(g) * factor), grads)


@in_64_bits
def sgd(
    params: Params,
    grads: Params,
    lr: float | Float[Array, ""],
    *,
    momentum: float = 0.0,
    velocity: Params | None = None,
    clip: float | None = None,
) -> tuple[Params, Params | None]:
    """One step of stochastic gradient descent; each line rounded to float32.

        g <- g * min(1, clip / |g|)    |g|: norm over all gradients; only with clip
        v <- momentum * v + g          from v = 0; only with momentum
        w <- w - lr * v

    Returns (params, velocity). lr, momentum, clip count as float32. In a scan start from a velocity
    of zeros, which is the same as None. Raises TypeError unless tensors are float32.
    Source: d2l 3.4 and 9.5.3 (clipping), torch.optim.SGD (momentum).
    """
    check("sgd", **params)
    check("sgd", **grads)
    rate = widen(jnp.asarray(lr, jnp.float32))
    if clip is not None:
        grads = clipped(grads, clip)
    if momentum:
        decay = float(np.float32(momentum))
        last = velocity or {name: jnp.zeros_like(g) for name, g in grads.items()}
        velocity = {k: narrow(decay * widen(last[k]) + widen(g)) for k, g in grads.items()}
        grads = velocity
    return {k: narrow(widen(w) - rate * widen(grads[k])) for k, w in params.items()}, velocity


class SGD(NamedTuple):
    """`sgd` for a model: what its configure_optimizers returns and the Trainer applies.

    In the place of optax.sgd, whose updates are added to the weights with a rounding of their own.
    """

    learning_rate: float | Float[Array, ""]
    momentum: float | None = None

    def init(self, params: Tree) -> Tree:
        """The velocity before the first step."""
        return jax.tree.map(jnp.zeros_like, params) if self.momentum else None

    def step(self, params: Tree, grads: Tree, velocity: Tree) -> tuple[Tree, Tree]:
        """(params, velocity) after one step; all three of one structure, or velocity None."""
        new, last = sgd(
            named_leaves(params),
            named_leaves(grads),
            self.learning_rate,
            momentum=self.momentum or 0.0,
            velocity=None if velocity is None else named_leaves(velocity),
        )
        whole = functools.partial(jax.tree.unflatten, jax.tree.structure(params))
        return whole([*new.values()]), None if last is None else whole([*last.values()])


class Arithmetic(NamedTuple):
    """What a model computes with, and is trained by; a model written once takes any.

    linear(X, W, b), relu(X), softmax_cross_entropy(logits, labels, averaged=True), mean(x),
    clipped(grads, norm), SGD(learning_rate, momentum=None).
    tanh(X), sigmoid(X), gelu(X), gelu_tanh(X): not in the reproducible one.
    """

    linear: Callable[..., Array]
    relu: Callable[..., Array]
    softmax_cross_entropy: Callable[..., Array]
    mean: Callable[..., Array]
    clipped: Callable[..., Params]
    SGD: Callable[..., Any]
    tanh: Callable[..., Array] = missing("tanh")
    sigmoid: Callable[..., Array] = missing("sigmoid")
    gelu: Callable[..., Array] = missing("gelu")
    gelu_tanh: Callable[..., Array] = missing("gelu_tanh")


REPRODUCIBLE = Arithmetic(linear, relu, softmax_cross_entropy, mean, clipped, SGD)
_REPRODUCIBLE = {0.0: REPRODUCIBLE}
_REPRODUCIBLE[0.5] = REPRODUCIBLE._replace(relu=functools.partial(relu, tie=0.5))


def arithmetic(chosen: str | Arithmetic, native: Arithmetic, tie: float = 0.0) -> Arithmetic:
    """The operations called "native", as the model's room wrote them, or "reproducible".

    tie: the gradient at 0 of native's ReLU, which the reproducible one takes over. An Arithmetic
    is returned as it is. Raises ValueError for any other name.
    """
    if isinstance(chosen, Arithmetic):
        return chosen
    return native if checked(chosen) == "native" else _REPRODUCIBLE[tie]
