"""Module and Classifier: what the book's models derive from (d2l 3.2, 4.3)."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from mlp_core.shell import HyperParameters, ProgressBoard

# Torch skips labels equal to ignore_index, by default -100, in silence. No label is this one, so
# cross_entropy itself refuses every label outside [0, classes).
_IGNORE_NOTHING = torch.iinfo(torch.int64).min


class Module(nn.Module, HyperParameters):
    """A model that knows its loss, its steps and its optimiser; the Trainer asks it for each."""

    if TYPE_CHECKING:  # hyperparameters are attributes made at run time

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, plot_train_per_epoch: int = 2, plot_valid_per_epoch: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.board = ProgressBoard()

    def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def forward(self, X: Tensor) -> Tensor:
        """The output of `self.net`; override it for a model without one."""
        if not hasattr(self, "net"):
            raise NotImplementedError(
                f"{type(self).__name__}: expected a forward method or a `net` attribute"
            )
        return self.net(X)

    def plot(self, key: str, value: Tensor, train: bool) -> None:
        """Record a figure of this step, and draw it on the board.

        Validation figures enter the history weighted by the examples of their batch; the board
        draws the mean of batch means, as the book does.
        """
        trainer = self.trainer
        self.board.xlabel = "epoch"
        number = float(value.detach())
        if train:
            x = trainer.train_batch_idx / trainer.num_train_batches
            every_n = trainer.num_train_batches / self.plot_train_per_epoch
        else:
            x = trainer.epoch + 1
            every_n = trainer.num_val_batches / self.plot_valid_per_epoch
            trainer.record_validation(key, number)
        self.board.draw(x, number, ("train_" if train else "val_") + key, every_n=int(every_n))

    def training_step(self, batch: Any) -> Tensor:
        """The loss of one batch (*inputs, labels)."""
        loss = self.loss(self(*batch[:-1]), batch[-1])
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.plot("loss", self.loss(self(*batch[:-1]), batch[-1]), train=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD with the rate `self.lr`."""
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def apply_init(self, inputs: Any, init: Any = None) -> None:
        """Give lazy layers their shapes by one forward pass, then apply `init` to each layer."""
        self.forward(*inputs)
        if init is not None:
            self.net.apply(init)


class Classifier(Module):
    """A model whose outputs are logits of classes."""

    def validation_step(self, batch: Any) -> None:
        logits = self(*batch[:-1])
        self.plot("loss", self.loss(logits, batch[-1]), train=False)
        self.plot("acc", self.accuracy(logits, batch[-1]), train=False)

    def accuracy(
        self, Y_hat: Float[Tensor, "... classes"], Y: Int[Tensor, "..."], averaged: bool = True
    ) -> Float[Tensor, ""] | Float[Tensor, "examples"]:
        """Share of examples whose largest logit is the label's; 0 or 1 each if not averaged."""
        logits = Y_hat.reshape((-1, Y_hat.shape[-1]))
        hits = (logits.argmax(dim=1).type(Y.dtype) == Y.reshape(-1)).type(torch.float32)
        return hits.mean() if averaged else hits

    def loss(
        self, Y_hat: Float[Tensor, "... classes"], Y: Int[Tensor, "..."], averaged: bool = True
    ) -> Float[Tensor, ""] | Float[Tensor, "examples"]:
        """Softmax cross-entropy, in nats.

            L = mean_i( logsumexp(logits_i) - logits_i[labels_i] )

        Y_hat: logits [..., classes]. Y: labels in [0, classes). Raises IndexError for a label
        outside that range. Source: d2l 4.1.
        """
        return F.cross_entropy(
            Y_hat.reshape((-1, Y_hat.shape[-1])),
            Y.reshape((-1,)),
            reduction="mean" if averaged else "none",
            ignore_index=_IGNORE_NOTHING,
        )

    def layer_summary(self, X_shape: tuple[int, ...]) -> None:
        """Print the output shape of each layer of `self.net` for a random input of a shape."""
        X = torch.randn(*X_shape)
        for layer in self.net:
            X = layer(X)
            print(type(layer).__name__, "output shape:\t", X.shape)
