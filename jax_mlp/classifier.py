"""Module and Classifier: what models derive from; NNX modules with the book's surface."""

import copy
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jax_mlp import images, layers
from jax_mlp.reproducible import SGD, Arithmetic, arithmetic
from jax_mlp.step import split
from mlp_core.arithmetic import any_arithmetic, in_force, unmarked
from mlp_core.limits import not_negative
from mlp_core.shell import HyperParameters, ProgressBoard, summary


class Module(nnx.Module, HyperParameters):
    """A model that knows its loss, its steps and its optimiser; the Trainer asks it for each.

    What trains: every nnx.Param, and every floating array that is a plain attribute.
    training_step and validation_step are traced once and then run compiled: no float() of a
    traced value, no side effects but `self.plot`.

        >>> import jax_mlp as d2l
        >>> class Line(d2l.Module):
        ...     def __init__(self, lr):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.w = nnx.Param(jnp.zeros((2, 1)))
        ...     def forward(self, X):
        ...         return d2l.matmul(X, self.w)
        ...     def loss(self, y_hat, y):
        ...         return jnp.mean((y_hat - y) ** 2)
        >>> Line(lr=0.1)(jnp.ones((3, 2))).shape
        (3, 1)
    """

    arithmetic: str = "native"  # or "reproducible": the same bits everywhere, and in Torch
    native: Arithmetic = layers.NATIVE
    relu_tie: float = 0.0  # the gradient at 0 of the ReLU in `native`
    _never_saved = ("self", "rngs")  # a generator is no hyperparameter, and static data to NNX

    def __init__(self, plot_train_per_epoch: int = 2, plot_valid_per_epoch: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.board = ProgressBoard()

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy or a pickle: without the trainer, which holds data; `fit` gives it another."""
        return {key: value for key, value in super().__getstate__().items() if key != "trainer"}

    def __deepcopy__(self, memo: Any = None) -> Any:
        memo = {} if memo is None else memo
        made = object.__new__(type(self))  # NNX's own would copy what is static without an end
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return made

    @property
    def ops(self) -> Arithmetic:
        """What to compute with: the arithmetic of the trainer if it has one, else of the model."""
        trainer = getattr(self, "trainer", None)
        bytes_ = getattr(trainer, "images", "floats") == "bytes"
        native = images.of_bytes(self.native) if bytes_ else self.native
        return arithmetic(in_force(self, trainer), native, self.relu_tie)

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
            reasons.append(f"configure_optimizers gives {found}, expected self.ops.SGD(rate)")
        return reasons

    def loss(self, y_hat: Array, y: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__}.loss")

    @any_arithmetic
    def forward(self, X: Array) -> Array:
        """The output of `self.net`; override it for a model without one."""
        if not hasattr(self, "net"):
            raise NotImplementedError(
                f"{type(self).__name__}: expected a forward method or a `net` attribute"
            )
        return self.net(X) if self.ops is self.native else layers.run(self.net, X, self.ops)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.forward(*inputs, **named)

    def plot(self, key: str, value: Any, train: bool) -> None:
        """Record a figure of this step, and draw it on the board.

        Inside a compiled epoch the value is put aside, and this method is called again with
        the number when the epoch has run. Validation figures enter the history weighted by the
        examples of their batch; the board draws the mean of batch means, as the book does.
        """
        trainer = self.trainer
        if trainer.tape is not None:
            trainer.tape[key, train] = jnp.asarray(value)
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

    @any_arithmetic
    def training_step(self, batch: Any) -> Float[Array, ""]:
        """The loss of one batch (*inputs, labels)."""
        loss = self.loss(self(*batch[:-1]), batch[-1])
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        self.plot("loss", self.loss(self(*batch[:-1]), batch[-1]), train=False)

    def configure_optimizers(self) -> Any:
        """Plain SGD with the rate `self.lr`: optax.sgd, or reproducible.SGD.

        Raises ValueError for a negative rate.
        """
        not_negative(type(self).__name__, "lr", self.lr)
        return self.ops.SGD(self.lr)

    def summary(self) -> None:
        """Print the parameters: names, shapes, how many numbers."""
        found = nnx.to_flat_state(split(self)[1])
        print(summary(type(self).__name__, {".".join(map(str, n)): v.shape for n, v in found}))


class Classifier(Module):
    """A model whose outputs are logits of classes.

    >>> import jax_mlp as d2l
    >>> class Softmax(d2l.Classifier):
    ...     def __init__(self, lr, rngs):
    ...         super().__init__()
    ...         self.save_hyperparameters()
    ...         self.net = nnx.Sequential(nnx.Linear(4, 3, rngs=rngs))
    >>> model = Softmax(lr=0.1, rngs=nnx.Rngs(0))
    >>> round(float(model.accuracy(jnp.eye(3), jnp.array([0, 1, 1]))), 2)
    0.67
    """

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
        return self.ops.mean(hits) if averaged else hits

    @any_arithmetic
    def loss(
        self, Y_hat: Float[Array, "... classes"], Y: Int[Array, "..."], averaged: bool = True
    ) -> Float[Array, ""] | Float[Array, "examples"]:
        """Softmax cross-entropy, in nats.

            L = mean_i( logsumexp(logits_i) - logits_i[labels_i] )

        Y_hat: logits [..., classes]. Y: labels in [0, classes). XLA can't raise, and optax makes a
        NaN of label 10 but wraps -1: the Trainer checks all labels when data enters. Source: d2l
        4.1.
        """
        logits, labels = Y_hat.reshape((-1, Y_hat.shape[-1])), Y.reshape((-1,))
        return self.ops.softmax_cross_entropy(logits, labels, averaged)

    def layer_summary(self, X_shape: tuple[int, ...]) -> None:
        """Print the output shape of each layer of `self.net` for an input of a shape."""
        X = jnp.zeros(X_shape)
        for layer in self.net.layers:
            X = layer(X)
            name = getattr(layer, "__name__", type(layer).__name__)
            print(name, "output shape:\t", X.shape)
