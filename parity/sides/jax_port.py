"""A JAX model that doesn't know its loss or its optimiser, as a Module that the Trainer fits."""

from collections.abc import Mapping
from typing import Any

import flax.nnx as nnx
import jax
import numpy as np
import optax

import jax_mlp
from parity.problem import Training, own_method
from parity.sides.jax_losses import LOSSES
from parity.sides.jax_models import FunctionModel, LinenModel
from parity.trees import arguments, only


class JaxPort(jax_mlp.Module):
    """A model with the loss and the optimiser of a Training; batches are (inputs, targets).

    A model's own training_step, loss and configure_optimizers go before what is assumed, and after
    what is asked for.
    """

    def __init__(self, net: nnx.Module, training: Training, given: bool = True) -> None:
        """given: the mode of a model that has none of its own, a Linen module."""
        super().__init__()
        self.net = net
        if isinstance(net, LinenModel):
            net.use_running_average = not given
        if training.mode is not None:
            _set_modes(net, training.mode == "train")
        self.chosen = _Chosen(training, _modes(net))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        outputs = self.net(*inputs, **named)
        nnx.pop(self.net, nnx.Intermediate)  # what it sows is shown to its user, and no state
        return outputs

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return self.forward(*inputs, **named)

    def training_step(self, batch: Any) -> Any:
        loss = self._loss(batch)
        self.plot("loss", loss, train=True)
        return loss

    def validation_step(self, batch: Any) -> None:
        inputs, targets = batch
        args, named = arguments(inputs)
        outputs = self(*args, **named)
        self.plot("loss", self.loss(outputs, targets), train=False)
        if self.loss_name == "cross_entropy":
            hits = only(outputs).argmax(axis=-1).astype(targets.dtype) == targets
            self.plot("acc", hits.astype(jax.numpy.float32).mean(), train=False)

    def loss(self, outputs: Any, targets: Any) -> Any:
        return self.chosen.training.loss_function(self.net, 1, LOSSES)(outputs, targets)

    @property
    def loss_name(self) -> str:
        """Of LOSSES; "" for a function."""
        return self.chosen.training.loss_name(self.net)

    @property
    def assumes_cross_entropy(self) -> bool:
        """Whether nobody said what the loss is."""
        return self.chosen.training.assumes_cross_entropy(self.net)

    def _loss(self, batch: Any) -> Any:
        if self.chosen.training.gradient is not None:
            return _own_gradient(self.chosen.training.gradient, self.net, batch)
        if self.chosen.training.loss is None and (step := own_method(self.net, "training_step")):
            return step(batch)
        inputs, targets = batch
        args, named = arguments(inputs)
        return self.loss(self(*args, **named), targets)

    def configure_optimizers(self) -> optax.GradientTransformation:
        """The optimiser asked for, which sees the parameters as the user's tree."""
        training = self.chosen.training
        if training.optimizer is not None:
            made = training.optimizer[1]
        elif configure := own_method(self.net, "configure_optimizers"):
            made = configure()
        else:
            made = optax.sgd(training.lr)
        if training.accumulate > 1 and not isinstance(made, optax.MultiSteps):
            kind = jax.numpy.zeros(()).dtype  # by default float32, also where all else is float64
            made = optax.MultiSteps(made, training.accumulate, accumulator_dtype=kind)
        return _seeing(made, self.net)

    def train(self, **attributes: Any) -> None:
        """In the mode that the model was given in."""
        for module, name, value in self.chosen.modes:
            setattr(_at(self.net, module), name, value)

    def eval(self, **attributes: Any) -> None:
        _set_modes(self.net, False)


def _own_gradient(function: Any, net: nnx.Module, batch: Any) -> Any:
    """The loss of a batch, whose derivative by the parameters is what the function says it is."""
    if not isinstance(net, FunctionModel):
        raise TypeError(f"gradient: of (function, params) alone, and the model is {type(net)}")
    inputs, targets = batch
    args, named = arguments(inputs)

    @jax.custom_vjp
    def loss(params: Any) -> Any:
        return function(params, *args, targets, **named)[0]

    def forward(params: Any) -> tuple[Any, Any]:
        return function(params, *args, targets, **named)

    def backward(gradients: Any, ct: Any) -> tuple[Any]:
        return (jax.tree.map(lambda g: g * ct, gradients),)

    loss.defvjp(forward, backward)
    return loss(net.variables())


class _Chosen:
    """A Training, and the modes that a model was given in; static to NNX."""

    def __init__(self, training: Training, modes: list[tuple[tuple, str, bool]]) -> None:
        self.training, self.modes = training, modes


def _wide(leaf: Any) -> Any:
    """Counts as int64 in float64: divided by a number, an int32 becomes a float32 even there."""
    return leaf.astype(int) if leaf.dtype == np.int32 else leaf


def _modes(net: nnx.Module) -> list[tuple[tuple, str, bool]]:
    """(path, attribute, value) of all that NNX's train() and eval() turn."""
    return [
        (path, name, getattr(module, name))
        for path, module in nnx.iter_modules(net)
        for name in ("deterministic", "use_running_average")
        if isinstance(getattr(module, name, None), bool)
    ]


def _set_modes(net: nnx.Module, training: bool) -> None:
    for path, name, _ in _modes(net):
        setattr(_at(net, path), name, not training)


def _at(net: nnx.Module, path: tuple) -> Any:
    found: Any = net
    for key in path:
        found = found[key] if isinstance(key, int) else getattr(found, key)
    return found


def _seeing(optimizer: Any, net: nnx.Module) -> optax.GradientTransformation:
    """The optimiser on the user's own tree, where the Trainer holds {"net": ...}."""

    def own(state: Any) -> Any:
        inner = state["net"]
        if not isinstance(net, FunctionModel):
            return inner
        named: Mapping[str, Any] = {
            ".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(inner)
        }
        return net.own_tree(named)

    def back(tree: Any, like: Any) -> Any:
        leaves = jax.tree.leaves(tree)
        if isinstance(net, FunctionModel):
            names = {n for p, _ in nnx.to_flat_state(like["net"]) for n in [".".join(map(str, p))]}
            order = [name for name in net.names if name in names]
            moved = dict(zip(order, leaves, strict=True))
            flat = [
                (path, leaf.replace(moved[".".join(map(str, path[1:]))]))
                for path, leaf in nnx.to_flat_state(like)
            ]
            return nnx.from_flat_state(flat)
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def update(grads: Any, memory: Any, params: Any = None) -> tuple[Any, Any]:
        seen = None if params is None else own(params)
        updates, memory = optimizer.update(own(grads), memory, seen)
        return back(updates, grads), memory

    def init(params: Any) -> Any:
        return jax.tree.map(_wide, optimizer.init(own(params)))

    return optax.GradientTransformation(init, update)
