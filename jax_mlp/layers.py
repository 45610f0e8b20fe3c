"""Operations in native arithmetic, and an nnx.Sequential computed with those of any arithmetic."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int, Shaped

from jax_mlp.device import platform
from jax_mlp.reproducible import Arithmetic
from mlp_core.arithmetic import NotReproducible, is_marked

NARROW = 32  # outputs of a layer: measured, from here on the way below gains nothing
PLAIN = (((1,), (0,)), ((), ()))  # X W


def dot_general(X: Array, W: Array, dimension_numbers: Any, **options: Any) -> Array:
    """lax.dot_general, for nnx.Linear too, whose gradients run fast on a CPU.

    XLA's CPU compiler takes a quarter longer for X^T dY than for a plain product, with ten outputs
    ten times as long. So X^T is made first; a narrow layer computes (W^T X^T)^T, whose gradient is
    (dY^T X)^T. Barriers keep it from turning the one into the other; the rounding bounds are equal.
    """
    if dimension_numbers != PLAIN or X.ndim != 2 or W.ndim != 2 or platform() != "cpu":
        return lax.dot_general(X, W, dimension_numbers, **options)
    if W.shape[1] > NARROW:
        return _wide(partial(lax.dot_general, **options), X, W)
    W = lax.optimization_barrier(W.T)
    turned = lax.dot_general(W, X, (((1,), (1,)), ((), ())), **options)
    return lax.optimization_barrier(turned).T


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _wide(dot: Callable[..., Array], X: Array, W: Array) -> Array:
    return dot(X, W, PLAIN)


@partial(_wide.defjvp, symbolic_zeros=True)
def _(dot: Callable[..., Array], primals: Any, tangents: Any) -> tuple[Array, Array]:
    (X, W), (dX, dW) = primals, tangents
    terms = []
    if not isinstance(dX, SymbolicZero):
        terms.append(dot(dX, W, PLAIN))
    if not isinstance(dW, SymbolicZero):
        # Contracted over the first axis of both, so that the gradient by W is X^T dY.
        X_T = lax.optimization_barrier(X.T)
        terms.append(dot(X_T, dW, (((0,), (0,)), ((), ()))))
    return _wide(dot, X, W), sum(terms[1:], start=terms[0])


def matmul(X: Shaped[Array, "... inputs"], W: Float[Array, "inputs outputs"]) -> Array:
    """X W."""
    return dot_general(X, W, (((X.ndim - 1,), (0,)), ((), ())))


def linear(
    X: Shaped[Array, "... inputs"], W: Float[Array, "inputs outputs"], b: Float[Array, "outputs"]
) -> Float[Array, "... outputs"]:
    """X W + b."""
    return matmul(X, W) + b


def softmax_cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"], averaged: bool = True
) -> Float[Array, ""] | Float[Array, "batch"]:
    """See Classifier.loss."""
    if platform() == "cpu":
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    else:
        losses = jax.nn.logsumexp(logits, axis=1) - of_labels(logits, labels)
    return losses.mean() if averaged else losses


def of_labels(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, "batch"]:
    """logits[i, labels[i]].

    On an accelerator as a sum over all classes, of which all but one are 0: the same numbers. A
    gather, and the scatter that is its gradient, would be launches of their own, two of 17 a step
    on a GPU and five of 22 on a TPU. On a CPU they cost nothing.
    """
    if platform() == "cpu":
        return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
    column = lax.broadcasted_iota(labels.dtype, logits.shape, 1)
    return jnp.where(column == labels[:, None], logits, 0).sum(1)


def clipped(grads: Any, clip: float | int) -> Any:
    """The gradients, scaled so that their global norm is at most clip."""
    norm = optax.tree.norm(grads)
    scale = jnp.where(norm > clip, clip / norm, 1)
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)


def gelu(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """x/2 (1 + erf(x / sqrt 2))."""
    return nnx.gelu(X, approximate=False)


def gelu_tanh(X: Float[Array, "..."]) -> Float[Array, "..."]:
    """Its approximation by tanh, nnx.gelu's default."""
    return nnx.gelu(X, approximate=True)


NATIVE = Arithmetic(
    linear,
    nnx.relu,
    softmax_cross_entropy,
    jnp.mean,
    clipped,
    optax.sgd,
    tanh=nnx.tanh,
    sigmoid=nnx.sigmoid,
    gelu=gelu,
    gelu_tanh=gelu_tanh,
)


def run(net: nnx.Sequential, X: Array, ops: Arithmetic) -> Array:
    """net(X), computed by ops. Raises NotReproducible for a net with `problems`, if they are."""
    if ops.SGD is not NATIVE.SGD and (why := [*problems(net)]):
        raise NotReproducible(net, why)
    for layer in net.layers:
        if isinstance(layer, nnx.Linear):
            bias = jnp.zeros(layer.out_features) if layer.bias is None else layer.bias[...]
            X = ops.linear(X, layer.kernel[...], bias)
        else:
            X = ops.relu(X) if layer in (nnx.relu, jax.nn.relu) else layer(X)
    return X


def problems(net: Any) -> Iterator[str]:
    """A reason for each layer that `run` can't compute by other operations than the layer's own."""
    if type(net) is not nnx.Sequential:
        yield f"'net' is a {type(net).__name__}, expected an nnx.Sequential"
        return
    for i, layer in enumerate(net.layers):
        plain = type(layer) is nnx.Linear and layer.dot_general in (lax.dot_general, dot_general)
        if not (plain or layer in (nnx.relu, jax.nn.relu) or is_marked(layer)):
            name = getattr(layer, "__name__", type(layer).__name__)
            yield (
                f"'net.layers.{i}' is {name}, expected nnx.Linear, nnx.relu, or a function that "
                "is marked @any_arithmetic"
            )
