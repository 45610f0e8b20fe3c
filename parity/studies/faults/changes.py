"""Changes of the model, its optimiser and its trainer, out of which faults are made.

Written in the methods of Torch's tensors, as a port would have them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Float

from parity.sides.pairs import TorchTrainer as Trainer
from parity.studies.faults.port import Layers, Plant, Port, Tensor, same

# --- model -----------------------------------------------------------------------------------


def half_at_ties(H: Tensor) -> Tensor:
    return H.maximum(H.new_zeros(()))


def forward(
    layers: Callable[[Layers], Layers] = same,
    *,
    inputs: Callable[[Tensor], Tensor] = same,
    product: Callable[[Tensor, Tensor], Tensor] = lambda H, W: H @ W,
    activate: Callable[[Tensor], Tensor] = half_at_ties,
    hidden: Callable[..., Tensor] = same,
    logits: Callable[[Tensor], Tensor] = same,
    training: bool = True,
) -> Plant:
    """The forward pass with its parts replaced; hidden(H, number of the layer) for activations.

    training: False puts the parts in place in evaluation alone.
    """

    def plant(port: Port) -> None:
        model, right = port.model, port.model.forward

        def run(X: Tensor) -> Tensor:
            if not training and model.training:
                return right(X)
            H = inputs(X.reshape(len(X), -1))
            used = layers(port.layers())
            for i, (W, b) in enumerate(used, 1):
                H = product(H, W) + b
                if i < len(used):
                    H = hidden(activate(H), i)
            return logits(H)

        model.forward = run

    return plant


def nll(z: Float[Tensor, "batch classes"], y: Tensor) -> Float[Tensor, "batch"]:
    """Cross-entropy of each example, in nats."""
    return -z.log_softmax(1).gather(1, y[:, None])[:, 0]


def loss(compute: Callable[[Tensor, Tensor], Tensor]) -> Plant:
    """The mean loss of (logits, labels) by `compute`."""

    def plant(port: Port) -> None:
        port.model.loss = lambda z, y, averaged=True: compute(z, y)

    return plant


def regularised(penalty: Callable[[Tensor], Tensor]) -> Plant:
    """The loss plus a penalty on every parameter."""

    def plant(port: Port) -> None:
        right = port.model.loss
        own = list(port.model.parameters())
        port.model.loss = lambda z, y: right(z, y) + sum(penalty(p) for p in own)

    return plant


def pulled(change: Callable[[Tensor], Tensor]) -> Plant:
    """The gradient of the loss by the logits passes through `change`; the loss is right."""

    def plant(port: Port) -> None:
        right = port.model.loss

        def compute(z: Tensor, y: Tensor) -> Tensor:
            if z.requires_grad:
                z.register_hook(change)
            return right(z, y)

        port.model.loss = compute

    return plant


def gradient(change: Callable[[Tensor], Tensor], which: Callable[[str], bool]) -> Plant:
    """The gradient of the parameters that `which` names passes through `change`."""

    def plant(port: Port) -> None:
        for name, p in port.model.named_parameters():
            if which(name):
                p.register_hook(change)

    return plant


def accuracy(
    hits: Callable[[Tensor, Tensor], Tensor], mean: Callable = lambda h: h.mean()
) -> Plant:
    """hits(logits, labels) of each example, and their mean."""

    def plant(port: Port) -> None:
        def compute(z: Tensor, y: Tensor, averaged: bool = True) -> Tensor:
            found = hits(z, y).float()
            return mean(found) if averaged else found

        port.model.accuracy = compute

    return plant


# --- optimiser and trainer -------------------------------------------------------------------

MOMENTUM, CLIP = 0.9, 0.25  # the small pair's gradients have norms of about 1: all are clipped
Clip = Callable[[list[Tensor]], None]


def by_norm(grads: Iterable[Tensor], epsilon: float = 0.0, square: bool = False) -> None:
    """g <- g min(1, c / |g|), the clipping that the pair does; and its wrong forms."""
    grads = list(grads)
    norm = sum((g * g).sum() for g in grads)
    norm = norm if square else norm**0.5
    for g in grads:
        g.mul_((CLIP / (norm + epsilon)).where(norm > CLIP, 1.0))


def optimizer(
    *,
    lr: Callable[[float], float] = same,
    momentum: float = MOMENTUM,
    clip: Clip | None = by_norm,
    trained: Callable[[Tensor], bool] = lambda p: True,
    after: Callable[[Tensor], None] | None = None,
    **options: Any,
) -> Plant:
    """SGD with momentum on clipped gradients; `after` is done to each parameter after a step."""

    def plant(port: Port) -> None:
        model, plain = port.model, port.model.configure_optimizers()

        def configure() -> Any:
            own = list(model.parameters())
            rate = lr(model.lr)
            groups = [{"params": [p], "lr": rate if trained(p) else 0.0} for p in own]
            made = type(plain)(groups, lr=rate, momentum=momentum, **options)
            if clip is not None:
                made.register_step_pre_hook(
                    lambda *_: clip([p.grad for p in own if p.grad is not None])
                )
            if after is not None:
                made.register_step_post_hook(lambda *_: [after(p.data) for p in own])
            return made

        model.configure_optimizers = configure

    return plant


def trainer(**methods: Callable) -> Plant:
    """The port's trainer with some methods replaced; each takes the trainer first."""

    def plant(port: Port) -> None:
        port.trainer = type("Faulty", (Trainer,), methods)

    return plant


def epoch(before: Callable[[Any], None] = same, after: Callable[[Any], None] = same) -> Plant:
    """Something done to the trainer before, or after, every epoch."""

    def fit_epoch(self: Any) -> None:
        before(self)
        Trainer.fit_epoch(self)
        after(self)

    return trainer(fit_epoch=fit_epoch)


def stepping(wrap: Callable[[Any, Callable], Callable]) -> Plant:
    """The trainer's optim.step replaced, once a fit, by wrap(trainer, step)."""

    def before(self: Any) -> None:
        if self.epoch == 0:
            self.optim.step = wrap(self, self.optim.step)

    return epoch(before)


def validating(with_weights: Callable[[Any], list[np.ndarray] | None]) -> Plant:
    """Each epoch is validated with the weights that with_weights(trainer) gives before it."""

    def fit_epoch(self: Any) -> None:
        use, model = with_weights(self), self.model
        right = type(model).validation_step

        def step(batch: Any) -> None:
            own = [p.data for p in model.parameters()]
            for p, other in zip(model.parameters(), use or own, strict=True):
                p.data = other
            right(model, batch)
            for p, mine in zip(model.parameters(), own, strict=True):
                p.data = mine

        model.validation_step = step
        Trainer.fit_epoch(self)
        del model.validation_step

    return trainer(fit_epoch=fit_epoch)
