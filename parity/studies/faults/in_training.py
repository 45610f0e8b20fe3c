"""Faults of training: the optimiser, the trainer's loop, evaluation between epochs, state."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from parity.studies.faults.changes import (
    CLIP,
    MOMENTUM,
    Trainer,
    by_norm,
    epoch,
    forward,
    optimizer,
    stepping,
    trainer,
    validating,
)
from parity.studies.faults.fault import Fault
from parity.studies.faults.in_model import dropout
from parity.studies.faults.port import Port, Tensor


def _by_value(grads: Iterable[Tensor]) -> None:
    for g in grads:
        g.clamp_(-CLIP, CLIP)


def _by_leaf(grads: Iterable[Tensor]) -> None:
    for g in grads:
        by_norm([g])


def _kernels_alone(grads: Iterable[Tensor]) -> None:
    by_norm([g for g in grads if g.ndim == 2])


def _in_bfloat16(p: Tensor) -> None:
    p.copy_(p.bfloat16())


def _weights(self: Any) -> list[Tensor]:
    return [p.data.clone() for p in self.model.parameters()]


def _no_zero_grad(self: Any) -> None:
    self.optim.zero_grad = lambda: None


def _decayed(self: Any) -> None:
    for group in self.optim.param_groups:
        group["lr"] = self.model.lr * (1 - 1e-6) ** self.epoch


def _warm(self: Any, step: Callable) -> Callable:
    done: list[int] = []

    def warm() -> None:
        done.append(0)
        for group in self.optim.param_groups:
            group["lr"] = self.model.lr * min(1.0, len(done) / 4)
        step()

    return warm


def _new_optimizer(self: Any) -> None:
    self.optim = self.model.configure_optimizers()


def _every_second(self: Any, step: Callable) -> Callable:
    count: list[int] = []

    def second() -> None:
        count.append(0)
        if len(count) % 2 == 0:
            step()

    return second


def _stale(self: Any, step: Callable) -> Callable:
    """Gradients are taken at the weights of one step ago: the model shows those."""
    real = _weights(self)

    def late() -> None:
        nonlocal real
        own = list(self.model.parameters())
        for p, new in zip(own, real, strict=True):
            p.data.copy_(new)
        before, _ = real, step()
        real = _weights(self)
        for p, old in zip(own, before, strict=True):
            p.data.copy_(old)

    return late


def _momentum_clipped(self: Any, step: Callable) -> Callable:
    """The update is clipped, with the momentum in it, where the gradient should be."""

    def late() -> None:
        state = self.optim.state
        step()
        by_norm([s["momentum_buffer"] for s in state.values()])

    return late


def _batch_means(self: Any, key: str, value: float) -> None:
    total, count = self._validation.get(key, (0.0, 0))
    self._validation[key] = (total + value, count + 1)


def _last_batch(self: Any, key: str, value: float) -> None:
    self._validation[key] = (value, 1)


def _on_training_data(self: Any, data: Any) -> None:
    Trainer.prepare_data(self, data)
    self.val_dataloader = data.train_dataloader()
    self.num_val_batches = len(self.val_dataloader)


def _running_mean(self: Any) -> None:
    losses = self.history.train_loss
    start = len(losses) - self.epoch_record.steps
    for i in reversed(range(start, len(losses))):
        losses[i] = sum(losses[start : i + 1]) / (i + 1 - start)


def _averaged(self: Any) -> list[Tensor]:
    """An exponential moving average of the weights, one epoch old."""
    now = _weights(self)
    old = getattr(self, "average", now)
    self.average = [0.9 * a + 0.1 * w for a, w in zip(old, now, strict=True)]
    return self.average


def _momentum_kept(port: Port) -> None:
    kept: dict[str, Any] = {}

    def before(self: Any) -> None:
        if self.epoch == 0:
            self.optim = kept.setdefault("optimizer", self.optim)

    epoch(before)(port)


def _shuffles_go_on(port: Port) -> None:
    """The second fit continues the first one's stream of shuffles."""
    fits: list[int] = []

    def prepare(self: Any, data: Any) -> None:
        Trainer.prepare_data(self, data)
        self.train_dataloader.sampler.next_epoch = self.max_epochs * len(fits)
        fits.append(0)

    trainer(prepare_data=prepare)(port)


def _rate_kept(port: Port) -> None:
    """A schedule that was at its end when the second fit began."""
    fits: list[int] = []

    def before(self: Any) -> None:
        if self.epoch == 0:
            fits.append(0)
        for group in self.optim.param_groups:
            group["lr"] = self.model.lr * (1 if len(fits) == 1 else 0.1)

    epoch(before)(port)


def _views(port: Port) -> None:
    """Parameters are handed out as views of the live ones."""
    port._named = lambda tensors: {  # type: ignore[method-assign]
        port._names[name]: (t.T if name in port.turned else t).detach().numpy()
        for name, t in tensors.items()
    }


FAULTS = (
    # One step of the optimiser.
    Fault("learning rate off by 1e-6", "optimiser", "step",
          "The learning rate is too large by one part in a million.",
          optimizer(lr=lambda lr: lr * (1 + 1e-6))),
    Fault("learning rate in float32", "optimiser", "step",
          "The learning rate is rounded to float32.",
          optimizer(lr=lambda lr: float(np.float32(lr)))),
    Fault("learning rate twice", "optimiser", "step",
          "The gradient is scaled by the rate, and the update too.",
          optimizer(lr=lambda lr: lr * lr)),
    Fault("ascent", "optimiser", "step",
          "The update has the wrong sign.", optimizer(maximize=True)),
    Fault("weight decay", "optimiser", "step",
          "A weight decay of 1e-8 is on.", optimizer(weight_decay=1e-8)),
    Fault("Nesterov", "optimiser", "step", "Momentum is Nesterov's.", optimizer(nesterov=True)),
    Fault("momentum off by 1e-4", "optimiser", "every step",
          "Momentum is 0.9001.", optimizer(momentum=MOMENTUM + 1e-4)),
    Fault("momentum left out", "optimiser", "step",
          "The optimiser is plain SGD.", optimizer(momentum=0.0)),
    Fault("dampening", "optimiser", "curve",
          "Gradients are dampened by 1e-6 when they enter the momentum.",
          optimizer(dampening=1e-6)),
    Fault("biases not trained", "optimiser", "step",
          "The optimiser is given the kernels alone.", optimizer(trained=lambda p: p.ndim == 2)),
    Fault("weights kept in bfloat16", "precision", "step",
          "Weights are rounded to bfloat16 after each update.", optimizer(after=_in_bfloat16)),
    Fault("clipping off", "optimiser", "step", "Gradients are not clipped.", optimizer(clip=None)),
    Fault("clipping by value", "optimiser", "step",
          "Each entry is clipped, not the norm.", optimizer(clip=_by_value)),
    Fault("clipping leaf by leaf", "optimiser", "step",
          "Each leaf is clipped by its own norm.", optimizer(clip=_by_leaf)),
    Fault("clipping with an epsilon", "optimiser", "step",
          "c / (norm + 1e-6), as torch.nn.utils.clip_grad_norm_ has it.",
          optimizer(clip=partial(by_norm, epsilon=1e-6))),
    Fault("clipping by the squared norm", "optimiser", "step",
          "The root of the norm is forgotten.", optimizer(clip=partial(by_norm, square=True))),
    Fault("clipping without the biases", "optimiser", "step",
          "Biases are left out of the norm.", optimizer(clip=_kernels_alone)),
    Fault("update before clipping", "optimiser", "step",
          "The step is taken first.", optimizer(clip=None, after=lambda p: None)),
    Fault("momentum clipped", "optimiser", "curve",
          "The momentum is clipped with the gradient in it.", stepping(_momentum_clipped)),
    # The loop.
    Fault("no zero_grad", "state", "curve",
          "Gradients pile up from step to step.", epoch(_no_zero_grad)),
    Fault("stale weights by a step", "state", "curve",
          "Gradients are taken at the weights of one step ago.", stepping(_stale)),
    Fault("every second step", "schedule", "curve",
          "Updates wait for a second batch, whose gradient alone they use.",
          stepping(_every_second)),
    Fault("decaying rate", "schedule", "curve",
          "The rate decays by 1e-6 an epoch.", epoch(_decayed)),
    Fault("warm-up", "schedule", "curve",
          "The rate grows over the first four steps.", stepping(_warm)),
    Fault("new optimiser each epoch", "state", "curve",
          "Momentum is forgotten between epochs.", epoch(_new_optimizer)),
    # Evaluation.
    Fault("evaluation on training data", "evaluation", "curve",
          "Validation runs over the training loader.", trainer(prepare_data=_on_training_data)),
    Fault("batch-mean validation", "evaluation", "curve",
          "Batch means are averaged: the partial batch weighs too much.",
          trainer(record_validation=_batch_means)),
    Fault("validation of the last batch", "evaluation", "curve",
          "Every batch overwrites the figures of the one before.",
          trainer(record_validation=_last_batch)),
    Fault("validation before the epoch", "evaluation", "curve",
          "Validation sees the weights from before the epoch.", validating(_weights)),
    Fault("validation of averaged weights", "evaluation", "curve",
          "Validation sees a moving average of the weights.", validating(_averaged)),
    Fault("dropout in evaluation", "evaluation", "curve",
          "Units are dropped in evaluation mode, and there alone.",
          forward(hidden=dropout, training=False)),
    Fault("running mean for the loss", "evaluation", "curve",
          "The loss of a step is the mean of the epoch so far.", epoch(after=_running_mean)),
    # State between fits.
    Fault("optimiser not reset between fits", "state", "refit",
          "The second fit starts with the first one's momentum.", _momentum_kept),
    Fault("shuffles go on between fits", "state", "refit",
          "The second fit draws other shuffles than the first.", _shuffles_go_on),
    Fault("rate not reset between fits", "state", "refit",
          "The second fit starts with the rate that the first one ended with.", _rate_kept),
    Fault("weights exported as views", "state", "gradients",
          "What is exported changes with the next step.", _views),
)  # fmt: skip
