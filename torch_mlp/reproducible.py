"""Operations of a network with one result on every machine: the bits of jax_mlp.reproducible.

What they stand on, and why order and fused multiply-adds do no harm: torch_mlp.exact.

Tensors are float32 between operations. A float32 below 2^-126 (subnormal) counts as +0, on the way
in and out, and -0 becomes +0: XLA flushes on CPU and Torch does not. A NaN or an infinity among the
operands of a result makes it NaN or infinite.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable

from mlp_core.arithmetic import checked, missing
from torch_mlp.exact import (
    SMALLEST,
    TERM,
    batch_length,
    check,
    exp,
    flush,
    log,
    narrow,
    product,
    summed,
    total,
    widen,
)

Params = dict[str, Tensor]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, X: Tensor, W: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(X, W)
        return narrow(product(X, W) + widen(b))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dY: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        X, W = ctx.saved_tensors
        dX = narrow(product(dY, W.T)) if ctx.needs_input_grad[0] else None
        dW, db = product(X.T, dY, over_batch=True), summed(widen(dY), over_batch=True)
        return dX, narrow(dW), narrow(db)


def linear(
    X: Float[Tensor, "batch inputs"] | UInt8[Tensor, "batch inputs"],
    W: Float[Tensor, "inputs outputs"],
    b: Float[Tensor, "outputs"],
) -> Float[Tensor, "batch outputs"]:
    """An affine layer, rounded once.

        Y = X @ W + b      dW = X^T @ dY      db = sum_i dY_i      dX = dY @ W^T

    X: float32, or uint8, which stands for the exact quotients X / 255 (pixels: half the work of
    float32 or less, and no dX). Any order of the examples gives the same Y rows, dW and db; so does
    a batch sharded over devices by jit, which then sums the exact integers. Error of each output:
    half an ulp + inputs * 2^-37 * max|X_i| max|W_j| (2^-32 max|W_j| for uint8), and likewise for
    the gradients. Raises TypeError for other types, NotImplementedError on a TPU. Source: d2l 3.1.
    """
    check("linear", W=W, b=b, **({} if X.dtype == torch.uint8 else {"X": X}))
    return _Linear.apply(X, W, b)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, X: Tensor, tie: float) -> Tensor:
        ctx.save_for_backward(X)
        ctx.tie = tie
        return flush(X).clamp_min(0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dY: Tensor) -> tuple[Tensor, None]:
        (X,) = ctx.saved_tensors
        below = torch.where(X <= -SMALLEST, 0.0, torch.where(X == X, ctx.tie * dY, X))
        return flush(torch.where(X >= SMALLEST, dY, below)), None


def relu(X: Float[Tensor, "*shape"], tie: float = 0.0) -> Float[Tensor, "*shape"]:
    """max(X, 0), elementwise; the gradient at exactly 0 is tie.

    tie: 0 as in nn.ReLU and jax.nn.relu, or 0.5 as in max(X, 0) of either framework.
    Raises TypeError unless X is float32, ValueError for another tie. Source: d2l 5.1.2.1.
    """
    check("relu", X=X)
    if tie not in (0.0, 0.5):
        raise ValueError(f"reproducible.relu: tie = {tie}, expected 0.0 or 0.5")
    return _ReLU.apply(X, tie)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, averaged: bool) -> Tensor:
        classes, ctx.batch = logits.shape[1], batch_length(len(logits))
        z = widen(logits)
        z = z - z.amax(1, keepdim=True)
        z = torch.where(z.isfinite(), z, torch.nan)
        hit = labels[:, None] == torch.arange(classes, device=labels.device)
        z = torch.where(hit.any(1, keepdim=True), z, torch.nan)
        e = exp(z)
        s = total((e * 2.0**TERM).round().T) * 2.0**-TERM
        losses = log(s) - torch.where(hit, z, 0.0).sum(1)
        ctx.save_for_backward(narrow(e / s[:, None] - hit.double()))
        return narrow(summed(losses, over_batch=True) * (1 / ctx.batch) if averaged else losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dL: Tensor) -> tuple[Tensor, None, None]:
        (difference,) = ctx.saved_tensors
        share = widen(dL)[:, None] if dL.ndim else widen(dL) * (1 / ctx.batch)
        return narrow(widen(difference) * share), None, None


def softmax_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch"], averaged: bool = True
) -> Float[Tensor, ""] | Float[Tensor, "batch"]:
    """Mean softmax cross-entropy, in nats; that of each example if not averaged.

        L = mean_i( log(sum_j exp(z_ij)) - z_iy ),   z_ij = logits_ij - max_j logits_ij,  y = label
        dlogits_ij = (softmax(logits_i)_j - [j = y]) / batch

    A logit that is not finite, or a label outside [0, classes) (checked where data enters), gives
    NaN. Error of L: 2^-23 L + (classes + 4) * 2^-41 * max_i(1, loss_i); of dlogits: 2^-22 / batch.
    Raises TypeError unless logits are float32. Source: d2l 4.1.
    """
    check("softmax_cross_entropy", logits=logits)
    return _CrossEntropy.apply(logits, labels, averaged)


@torch.no_grad()
def mean(x: Float[Tensor, "examples"]) -> Float[Tensor, ""]:
    """The mean of a vector, rounded once more than the sum. Not differentiable."""
    check("mean", x=x)
    return narrow(summed(widen(x), over_batch=True) * (1 / batch_length(len(x))))


@torch.no_grad()
def clipped(grads: Params, clip: float) -> Params:
    """The gradients, scaled so that their global norm is at most clip: g * min(1, clip / |g|).

    The norm, the factor and each product are rounded to float32. Source: d2l 9.5.3.
    """
    check("clipped", **grads)
    # All squares in one sum: the same norm whatever the order of the names.
    squares = torch.cat([widen(g).square_().ravel() for g in grads.values()])
    norm = widen(narrow(summed(squares).sqrt()))
    limit = widen(torch.tensor(clip, dtype=torch.float32))
    factor = torch.where(norm <= limit, 1.0, widen(narrow(limit / norm)))
    return {name: narrow(widen(g) * factor) for name, g in grads.items()}


@torch.no_grad()
def sgd(
    params: Params,
    grads: Params,
    lr: float | Float[Tensor, ""],
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
    rate = widen(torch.as_tensor(lr, dtype=torch.float32)).item()
    if clip is not None:
        grads = clipped(grads, clip)
    if momentum:
        decay = torch.tensor(momentum, dtype=torch.float32).item()
        last = velocity or {name: torch.zeros_like(g) for name, g in grads.items()}
        velocity = {k: narrow(decay * widen(last[k]) + widen(g)) for k, g in grads.items()}
        grads = velocity
    return {
        k: narrow(widen(w).sub_(widen(grads[k]), alpha=rate)) for k, w in params.items()
    }, velocity


class SGD(torch.optim.Optimizer):
    """`sgd` as an optimiser, in the place of torch.optim.SGD, which rounds in other places.

    Parameters without a gradient stay as they are. Raises TypeError unless all are float32.
    """

    def __init__(
        self, params: Iterable[Any], lr: float | Float[Tensor, ""], momentum: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from the gradients that `backward` left; the value of closure, if there is one,
        which is called first to compute them."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            own = {str(i): p for i, p in enumerate(group["params"]) if p.grad is not None}
            last = {k: self.state[p].get("velocity") for k, p in own.items()}
            new, velocity = sgd(
                {k: p.detach() for k, p in own.items()},
                {k: p.grad for k, p in own.items()},
                group["lr"],
                momentum=group["momentum"],
                velocity={k: torch.zeros_like(own[k]) if v is None else v for k, v in last.items()}
                if group["momentum"]
                else None,
            )
            for k, p in own.items():
                p.copy_(new[k])
                if velocity is not None:
                    self.state[p]["velocity"] = velocity[k]
        return value


class Arithmetic(NamedTuple):
    """What a model computes with, and is trained by; a model written once takes any.

    linear(X, W, b), relu(X), softmax_cross_entropy(logits, labels, averaged=True), mean(x),
    clipped(grads, norm), SGD(parameters, lr, momentum=0.0).
    tanh(X), sigmoid(X), gelu(X), gelu_tanh(X): not in the reproducible one.
    """

    linear: Callable[..., Tensor]
    relu: Callable[..., Tensor]
    softmax_cross_entropy: Callable[..., Tensor]
    mean: Callable[..., Tensor]
    clipped: Callable[..., Params]
    SGD: Callable[..., Any]
    tanh: Callable[..., Tensor] = missing("tanh")
    sigmoid: Callable[..., Tensor] = missing("sigmoid")
    gelu: Callable[..., Tensor] = missing("gelu")
    gelu_tanh: Callable[..., Tensor] = missing("gelu_tanh")


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
