"""Module and Classifier: what the book's models derive from (d2l 3.2, 4.3)."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mlp_core.arithmetic import any_arithmetic, in_force, unmarked
from mlp_core.limits import not_negative
from mlp_core.shell import HyperParameters, ProgressBoard, summary
from torch_mlp import layers
from torch_mlp.reproducible import SGD, Arithmetic, arithmetic


class Module(nn.Module, HyperParameters):
    """A model that knows its loss, its steps and its optimiser; the Trainer asks it for each.

    >>> import torch_mlp as d2l
    >>> class Line(d2l.Module):
    ...     def __init__(self, lr):
    ...         super().__init__()
    ...         self.save_hyperparameters()
    ...         self.w = nn.Parameter(torch.zeros(2, 1))
    ...     def forward(self, X):
    ...         return X @ self.w
    ...     def loss(self, y_hat, y):
    ...         return ((y_hat - y) ** 2).mean()
    >>> Line(lr=0.1)(torch.ones(3, 2)).shape
    torch.Size([3, 1])
    """

    arithmetic: str = "native"  # or "reproducible": the same bits everywhere, and in JAX
    native: Arithmetic = layers.NATIVE
    relu_tie: float = 0.0  # the gradient at 0 of the ReLU in `native`

    if TYPE_CHECKING:  # hyperparameters are attributes made at run time

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, plot_train_per_epoch: int = 2, plot_valid_per_epoch: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.board = ProgressBoard()

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: without the trainer, which holds data; `fit` gives it another."""
        return {key: value for key, value in vars(self).items() if key != "trainer"}

    @property
    def ops(self) -> Arithmetic:
        """What to compute with: the arithmetic of the trainer if it has one, else of the model."""
        chosen = in_force(self, getattr(self, "trainer", None))
        return arithmetic(chosen, self.native, self.relu_tie)

    def not_reproducible(self, optimizer: Any = None) -> list[str]:
        """Why this model can't train in the reproducible arithmetic in force; empty if it can.

        A `net` of Linear and ReLU layers can, and so can methods marked @any_arithmetic.
        optimizer: what configure_optimizers gave, if it has been called.
        """
        reasons = unmarked(self)
        if type(self).forward is Module.forward and hasattr(self, "net"):
            reasons += layers.problems(self.net)
        optimizer = self.configure_optimizers() if optimizer is None else optimizer
        if not isinstance(optimizer, SGD):
            found = type(optimizer).__name__
            wanted = "self.ops.SGD(parameters, rate)"
            reasons.append(f"configure_optimizers gives {found}, expected {wanted}")
        return reasons

    def loss(self, y_hat: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__}.loss")

    @any_arithmetic
    def forward(self, X: Tensor) -> Tensor:
        """The output of `self.net`; override it for a model without one."""
        if not hasattr(self, "net"):
            raise NotImplementedError(
                f"{type(self).__name__}: expected a forward method or a `net` attribute"
            )
        return self.net(X) if self.ops is self.native else layers.run(self.net, X, self.ops)

    def plot(self, key: str, value: Tensor | float | int, train: bool) -> None:
        """Record a figure of this step, and draw it on the board.

        Validation figures enter the history weighted by the examples of their batch; the board
        draws the mean of batch means, as the book does.
        """
        trainer = self.trainer
        if trainer.tape is not None:  # a compiled step: called again with the number
            trainer.tape[key, train] = torch.as_tensor(value)
            return
        self.board.xlabel = "epoch"
        if train:
            x = trainer.train_batch_idx / trainer.num_train_batches
            every_n = trainer.num_train_batches / self.plot_train_per_epoch
        else:
            x = trainer.epoch + 1
            every_n = trainer.num_val_batches / self.plot_valid_per_epoch
        label = ("train_" if train else "val_") + key

        def take(number: float) -> None:
            if not train:
                trainer.record_validation(key, number)
            self.board.draw(x, number, label, int(every_n))

        trainer.later(value, take)

    @any_arithmetic
    def training_step(self, batch: Any) -> Tensor:
        """The loss of one batch (*inputs, labels)."""
        loss = self.loss(self(*batch[:-1]), batch[-1])
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.plot("loss", self.loss(self(*batch[:-1]), batch[-1]), train=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD with the rate `self.lr`: torch.optim.SGD, or reproducible.SGD.

        Raises ValueError for a negative rate.
        """
        not_negative(type(self).__name__, "lr", self.lr)
        return self.ops.SGD(self.parameters(), lr=self.lr)

    def summary(self) -> None:
        """Print the parameters: names, shapes, how many numbers. Lazy layers' aren't known yet."""
        named = self.named_parameters()
        print(summary(type(self).__name__, {n: None if is_lazy(p) else p.shape for n, p in named}))

    def apply_init(self, inputs: Any, init: Any = None) -> None:
        """Give lazy layers their shapes by one forward pass, then apply `init` to each layer."""
        self.forward(*inputs)
        if init is not None:
            self.net.apply(init)


class Classifier(Module):
    """A model whose outputs are logits of classes.

    >>> import torch_mlp as d2l
    >>> class Softmax(d2l.Classifier):
    ...     def __init__(self, lr):
    ...         super().__init__()
    ...         self.save_hyperparameters()
    ...         self.net = nn.Sequential(nn.Linear(4, 3))
    >>> round(float(Softmax(lr=0.1).accuracy(torch.eye(3), torch.tensor([0, 1, 1]))), 2)
    0.67
    """

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
        return self.ops.mean(hits) if averaged else hits

    @any_arithmetic
    def loss(
        self, Y_hat: Float[Tensor, "... classes"], Y: Int[Tensor, "..."], averaged: bool = True
    ) -> Float[Tensor, ""] | Float[Tensor, "examples"]:
        """Softmax cross-entropy, in nats.

            L = mean_i( logsumexp(logits_i) - logits_i[labels_i] )

        Y_hat: logits [..., classes]. Y: labels in [0, classes). Raises IndexError for a label
        outside that range. Source: d2l 4.1.
        """
        logits, labels = Y_hat.reshape((-1, Y_hat.shape[-1])), Y.reshape((-1,))
        if not (labels.is_floating_point() or labels.dtype == torch.bool):
            labels = labels.long()  # of Torch's integers, its own loss takes two alone
        return self.ops.softmax_cross_entropy(logits, labels, averaged)

    def layer_summary(self, X_shape: tuple[int, ...]) -> None:
        """Print the output shape of each layer of `self.net` for a random input of a shape."""
        X = torch.randn(*X_shape)
        for layer in self.net:
            X = layer(X)
            print(type(layer).__name__, "output shape:\t", X.shape)
