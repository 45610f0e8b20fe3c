"""Module and Classifier: what models derive from; NNX modules with the book's surface."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from mlp_core.shell import HyperParameters, ProgressBoard


class Module(nnx.Module, HyperParameters):
    """A model that knows its loss, its steps and its optimiser; the Trainer asks it for each.

    What trains: every nnx.Param, and every floating array that is a plain attribute.
    training_step and validation_step are traced once and then run compiled: no float() of a
    traced value, no side effects but `self.plot`.
    """

    _never_saved = ("self", "rngs")  # a generator is no hyperparameter, and static data to NNX

    def __init__(self, plot_train_per_epoch: int = 2, plot_valid_per_epoch: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.board = ProgressBoard()

    def loss(self, y_hat: Array, y: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__}.loss")

    def forward(self, X: Array) -> Array:
        """The output of `self.net`; override it for a model without one."""
        if not hasattr(self, "net"):
            raise NotImplementedError(
                f"{type(self).__name__}: expected a forward method or a `net` attribute"
            )
        return self.net(X)

    def __call__(self, *inputs: Any) -> Any:
        return self.forward(*inputs)

    def plot(self, key: str, value: Any, train: bool) -> None:
        """Record a figure of this step, and draw it on the board.

        Inside a compiled epoch the value is put aside, and this method is called again with
        the number when the epoch has run. Validation figures enter the history weighted by the
        examples of their batch; the board draws the mean of batch means, as the book does.
        """
        trainer = self.trainer
        if isinstance(value, jax.core.Tracer):
            trainer.tape[key, train] = value
            return
        self.board.xlabel = "epoch"
        number = float(value)
        if train:
            x = trainer.train_batch_idx / trainer.num_train_batches
            every_n = trainer.num_train_batches / self.plot_train_per_epoch
        else:
            x = trainer.epoch + 1
            every_n = trainer.num_val_batches / self.plot_valid_per_epoch
            trainer.record_validation(key, number)
        self.board.draw(x, number, ("train_" if train else "val_") + key, every_n=int(every_n))

    def training_step(self, batch: Any) -> Float[Array, ""]:
        """The loss of one batch (*inputs, labels)."""
        loss = self.loss(self(*batch[:-1]), batch[-1])
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.plot("loss", self.loss(self(*batch[:-1]), batch[-1]), train=False)

    def configure_optimizers(self) -> optax.GradientTransformation:
        """Plain SGD with the rate `self.lr`."""
        return optax.sgd(self.lr)


class Classifier(Module):
    """A model whose outputs are logits of classes."""

    def validation_step(self, batch: Any) -> None:
        logits = self(*batch[:-1])
        self.plot("loss", self.loss(logits, batch[-1]), train=False)
        self.plot("acc", self.accuracy(logits, batch[-1]), train=False)

    def accuracy(
        self, Y_hat: Float[Array, "... classes"], Y: Int[Array, "..."], averaged: bool = True
    ) -> Float[Array, ""] | Float[Array, "examples"]:
        """Share of examples whose largest logit is the label's; 0 or 1 each if not averaged."""
        logits = Y_hat.reshape((-1, Y_hat.shape[-1]))
        hits = (logits.argmax(axis=1).astype(Y.dtype) == Y.reshape(-1)).astype(jnp.float32)
        return hits.mean() if averaged else hits

    def loss(
        self, Y_hat: Float[Array, "... classes"], Y: Int[Array, "..."], averaged: bool = True
    ) -> Float[Array, ""] | Float[Array, "examples"]:
        """Softmax cross-entropy, in nats.

            L = mean_i( logsumexp(logits_i) - logits_i[labels_i] )

        Y_hat: logits [..., classes]. Y: labels in [0, classes). XLA can't raise, and optax makes a
        NaN of label 10 but wraps -1: the Trainer checks all labels when data enters. Source: d2l
        4.1.
        """
        losses = optax.softmax_cross_entropy_with_integer_labels(
            Y_hat.reshape((-1, Y_hat.shape[-1])), Y.reshape((-1,))
        )
        return losses.mean() if averaged else losses

    def layer_summary(self, X_shape: tuple[int, ...]) -> None:
        """Print the output shape of each layer of `self.net` for an input of a shape."""
        X = jnp.zeros(X_shape)
        for layer in self.net.layers:
            X = layer(X)
            name = getattr(layer, "__name__", type(layer).__name__)
            print(name, "output shape:\t", X.shape)
