"""A Torch model that doesn't know its loss or its optimiser, as a Module that the Trainer fits."""

from typing import Any

import torch

import torch_mlp
from parity.problem import Training, own_method
from parity.sides.side import ModelFails
from parity.sides.torch_losses import LOSSES
from parity.trees import arguments, only


class TorchPort(torch_mlp.Module):
    """A model with the loss and the optimiser of a Training; batches are (inputs, targets).

    A model's own training_step, loss and configure_optimizers go before what is assumed, and after
    what is asked for.
    """

    def __init__(self, inner: torch.nn.Module, training: Training) -> None:
        super().__init__()
        self.inner, self.chosen = inner, training
        self.given = {module: module.training for module in inner.modules()}
        self.training = inner.training

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.inner(*inputs, **named)

    def train(self, mode: bool = True) -> "TorchPort":
        """In the mode that the model was given in; or the one that was asked for."""
        self.training = mode
        for module, given in self.given.items():
            asked = given if self.chosen.mode is None else self.chosen.mode == "train"
            module.training = mode and asked
        return self

    def training_step(self, batch: Any) -> Any:
        loss = _scalar(self._loss(batch))
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        inputs, targets = batch
        args, named = arguments(inputs)
        outputs = self(*args, **named)
        self.plot("loss", self.loss(outputs, targets), train=False)
        if self.loss_name == "cross_entropy":
            hits = only(outputs).argmax(dim=-1).type(targets.dtype) == targets
            self.plot("acc", hits.float().mean(), train=False)

    def loss(self, outputs: Any, targets: Any) -> Any:
        return self.chosen.loss_function(self.inner, 0, LOSSES)(outputs, targets)

    @property
    def loss_name(self) -> str:
        """Of LOSSES; "" for a function."""
        return self.chosen.loss_name(self.inner)

    @property
    def assumes_cross_entropy(self) -> bool:
        """Whether nobody said what the loss is."""
        return self.chosen.assumes_cross_entropy(self.inner)

    def _loss(self, batch: Any) -> Any:
        if self.chosen.loss is None and (step := own_method(self.inner, "training_step")):
            found = step(batch)
            return found["loss"] if isinstance(found, dict) else found
        inputs, targets = batch
        args, named = arguments(inputs)
        return self.loss(self(*args, **named), targets)

    def configure_optimizers(self) -> Any:
        """The optimiser asked for, over all parameters; it steps a scheduler that comes along."""
        if self.chosen.optimizer is not None:
            made = self.chosen.optimizer[0](self.inner.parameters())
        elif configure := own_method(self.inner, "configure_optimizers"):
            made = configure()
        else:
            made = torch.optim.SGD(self.inner.parameters(), lr=self.chosen.lr)
        if isinstance(made, (tuple, list)):
            made, scheduler = made
            made.register_step_post_hook(lambda *_: scheduler.step())
        if not isinstance(made, torch.optim.Optimizer):
            kind = f"{type(made).__module__}.{type(made).__name__}"
            raise TypeError(
                f"torch: the optimiser is a {kind}, expected a torch.optim.Optimizer, or one with "
                "its LRScheduler"
            )
        if isinstance(made, torch.optim.LBFGS):
            raise TypeError(
                "torch: LBFGS evaluates the loss often in one step, and can't be checked"
            )
        return Accumulating(made, self.chosen.accumulate) if self.chosen.accumulate > 1 else made


def _scalar(loss: Any) -> torch.Tensor:
    """The loss. Raises ModelFails for anything but one number."""
    if not isinstance(loss, torch.Tensor):
        raise ModelFails(f"torch: loss: a {type(loss).__name__}, expected a scalar tensor")
    if loss.ndim:
        shape = tuple(loss.shape)
        raise ModelFails(f"torch: loss: shape {shape}, expected a scalar, as by .mean()")
    return loss


class Accumulating:
    """An optimiser that steps once in `count` batches, by the mean of their gradients."""

    def __init__(self, optimizer: torch.optim.Optimizer, count: int) -> None:
        self.optimizer, self.count, self.seen = optimizer, count, 0

    @property
    def state(self) -> Any:
        return self.optimizer.state

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def zero_grad(self) -> None:
        if self.seen == 0:
            self.optimizer.zero_grad()

    def step(self) -> None:
        self.seen = (self.seen + 1) % self.count
        if self.seen:
            return
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(self.count)
        self.optimizer.step()
