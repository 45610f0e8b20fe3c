"""One training step as a pure function: what the Trainer scans, what the ladder judges.

(params, rest, memory), batch -> (params, rest, memory), what was computed on the way
"""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jax_mlp.reproducible import SGD
from mlp_core.attributes import Noted, check_unchanged, noted

State = Any  # an nnx.State, or any other pytree of arrays
Tape = OrderedDict[tuple[str, bool], Any]  # (key, train) -> what was plotted; jit sorts a dict
Assemble = Callable[[State, State], Any]  # (params, rest) -> a model, a copy


class Carry(NamedTuple):
    """What goes from step to step: parameters, the rest of the model's state, the optimiser's."""

    params: State
    rest: State
    memory: Any


class Taken(NamedTuple):
    """What one step computed. outputs: of the model's first call, None if there was none."""

    loss: Any
    outputs: Any
    gradients: State
    tape: Tape


def is_trained(path: tuple, leaf: Any) -> bool:
    """Whether a leaf of a module is a parameter: an nnx.Param, or a plain floating array."""
    if isinstance(leaf, nnx.Variable):
        return isinstance(leaf, nnx.Param)
    return isinstance(leaf, (jax.Array, np.ndarray)) and jnp.issubdtype(leaf.dtype, jnp.floating)


def split(model: nnx.Module) -> tuple[Any, State, State]:
    """(structure, parameters, the rest of the state), which nnx.merge puts together again."""
    structure, *states = nnx.split(model, is_trained, ...)
    return structure, states[0], states[1]


def gradient(assemble: Assemble, carry: Carry, batch: Any) -> tuple[Taken, State]:
    """(what was computed, the rest of the state after it), by the model's own training_step.

    gradients = d training_step(batch) / d params
    """

    def loss_of(params: State) -> tuple[Any, Any]:
        # A copy: NNX lets no state be updated from inside another trace, here the gradient.
        model = assemble(params, carry.rest)
        with (
            watched(model, "training_step"),
            recording(model.trainer) as tape,
            _tapped(model) as outputs,
        ):
            loss = model.training_step(batch)
        return loss, (outputs[0] if outputs else None, tape, split(model)[2])

    (loss, (outputs, tape, rest)), grads = jax.value_and_grad(loss_of, has_aux=True)(carry.params)
    return Taken(loss, outputs, grads, tape), rest


def update(optimizer: Any, params: State, gradients: State, memory: Any) -> tuple[State, Any]:
    """(parameters, memory) after one step of an optax optimiser, or of reproducible SGD."""
    if isinstance(optimizer, SGD):
        return optimizer.step(params, gradients, memory)
    updates, memory = optimizer.update(gradients, memory, params)
    return optax.apply_updates(params, updates), memory


def pure_step(
    assemble: Assemble, optimizer: Any, clip: Callable[[State], State] = lambda grads: grads
) -> Callable[[Carry, Any], tuple[Carry, Taken]]:
    """The whole training step. clip: what is done to the gradients before the optimiser."""

    def step(carry: Carry, batch: Any) -> tuple[Carry, Taken]:
        taken, rest = gradient(assemble, carry, batch)
        params, memory = update(optimizer, carry.params, clip(taken.gradients), carry.memory)
        return Carry(params, rest, memory), taken

    return step


@contextlib.contextmanager
def watched(model: nnx.Module, step: str) -> Iterator[None]:
    """Trace a step of the model. Raises Untraceable if it has changed what isn't carried on."""
    before = _not_kept(model)
    yield
    remedy = "make it an nnx.Variable, which is carried from step to step"
    check_unchanged(f"{type(model).__name__}.{step}", before, _not_kept(model), remedy)


def _not_kept(model: nnx.Module) -> Noted:
    """{"net.k": value}: plain attributes, and what trains, which is the optimiser's to change."""
    found = []
    for path, module in nnx.iter_modules(model):
        for name, value in vars(module).items():
            if isinstance(value, nnx.Variable | nnx.Module | jax.Array | np.ndarray):
                trained = is_trained((), value)
                bare = value.get_value() if isinstance(value, nnx.Variable) else value
                value = bare if trained else "state"
            if not name.startswith("_pytree__"):  # NNX's own
                found.append((".".join(map(str, (*path, name))), value))
    return noted(found)


@contextlib.contextmanager
def recording(trainer: Any) -> Iterator[Tape]:
    """While it lasts, Module.plot puts its values on the tape that this gives."""
    before, trainer.tape = trainer.tape, OrderedDict()
    try:
        yield trainer.tape
    finally:
        trainer.tape = before


@contextlib.contextmanager
def _tapped(model: Any) -> Iterator[list[Any]]:
    """The outputs of the model's calls while it lasts."""
    forward, seen = model.forward, []

    def tapped(*inputs: Any, **named: Any) -> Any:
        seen.append(forward(*inputs, **named))
        return seen[-1]

    own = vars(model).get("forward")  # set on the instance, by a user or a test
    model.forward = tapped
    try:
        yield seen
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own
