"""The ports compared by hand, in float64 and without the ladder: what it finds is checked by this.

A family's Torch weights are loaded into its JAX model; outputs, loss, gradients and running
statistics after one batch are computed on both sides.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen, nnx, traverse_util
from port import Port

Arrays = dict[str, np.ndarray]


# A program runs once: what compiles fast is fast.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


DESCENT = (lambda parameters: torch.optim.SGD(parameters, lr=0.1)), optax.sgd(0.1)


LOSSES = {
    "cross_entropy": (
        lambda out, y: torch.nn.functional.cross_entropy(out.flatten(0, -2), y.flatten()),
        lambda out, y: -jnp.take_along_axis(jax.nn.log_softmax(out), y[..., None], -1).mean(),
    ),
    "mse": (torch.nn.functional.mse_loss, lambda out, y: ((out - y) ** 2).mean()),
}


class Model(NamedTuple):
    """A JAX model as call(params, state, inputs) -> (outputs, new state); trees are flat."""

    call: Callable[..., Any]
    params: Arrays
    state: Arrays


class Seen(NamedTuple):
    """What training gives. outputs, loss, gradients, state: of the first batch; steps: the weights
    after it and after each later one. gradients, steps, state: by JAX's paths."""

    outputs: Arrays
    loss: float | None
    gradients: Arrays
    steps: list[Arrays]
    state: Arrays


class Training(NamedTuple):
    """Of one side. loss: (outputs, targets) -> scalar. batches: of (inputs, targets). optimizer:
    None if outputs and loss are enough."""

    loss: Any
    optimizer: Any
    batches: list[tuple[Any, Any]]
    accumulate: int


def compared(port: Port, state: Any, steps: int | None) -> tuple[Seen, Seen]:
    """Torch's and JAX's side of a family, in float64 wherever it doesn't cast to bfloat16. state:
    the table of what is compared after the first batch. steps: how many are taken, of as many as
    the family's epochs have (None)."""
    steps = 0 if port.data()[1] is None else steps
    losses, optimizers = _losses(port), port.options.get("optimizer", DESCENT)
    accumulate = port.options.get("accumulate", 1)
    torchs, jaxs = (
        Training(loss, None if steps == 0 else opt, _batches(port, array, steps), accumulate)
        for loss, opt, array in zip(losses, optimizers, (_tensor, _double), strict=True)
    )
    torch_model = port.torch()
    half = any(p.dtype == torch.bfloat16 for p in torch_model.parameters())
    torch_model = torch_model if half else torch_model.double()
    named = {n: _array(t) for n, t in torch_model.named_parameters()}
    buffers = {n: _array(t) for n, t in torch_model.named_buffers()}
    with jax.enable_x64(True):
        model = as_function(port.jax())
        turned = _linear_weights(torch_model)
        assert not (lost := _lost(port.weights, named)), f"weights without a partner: {lost}"
        params = moved(port.weights, named, model.params, turned)
        start = model.state | moved(port.options.get("state"), buffers, model.state, set())
        ours = _jax_side(model, params, start, jaxs)
    theirs = _torch_side(torch_model, torchs)

    def there(tree: Arrays) -> Arrays:
        return moved(port.weights, tree, model.params, turned) if tree else {}

    kept = moved(state, theirs.state, model.state, set())
    weights = [there(tree) for tree in theirs.steps]
    return theirs._replace(gradients=there(theirs.gradients), steps=weights, state=kept), ours


def _losses(port: Port) -> Any:
    loss = port.options.get("loss") or "cross_entropy"
    return LOSSES[loss] if isinstance(loss, str) else loss


def _batches(port: Port, array: Callable[..., Any], steps: int | None) -> list[tuple[Any, Any]]:
    """In the data's order, each epoch anew; the last one of an epoch is partial."""
    data = port.data()[:2]
    count, size = len(jax.tree.leaves(data)[0]), port.options["batch_size"]
    starts = [*range(0, count, size)] * port.options.get("epochs", 1)
    starts = starts[: None if steps is None else max(steps, 1)]
    return [jax.tree.map(lambda a, i=i: array(a[i : i + size]), data) for i in starts]


def as_function(made: Any) -> Model:
    """Any kind of JAX model, its numbers in float64."""
    if isinstance(made, nnx.Module):
        graph, *trees = nnx.split(made, nnx.Param, ...)
        pure = [_flat(nnx.to_pure_dict(tree)) for tree in trees]

        def call(params: Arrays, state: Arrays, inputs: Any) -> Any:
            for tree, flat in zip(trees, (params, state), strict=True):
                nnx.replace_by_pure_dict(tree, _nested(flat))
            model = nnx.merge(graph, *trees)
            out = called(model, inputs)
            return out, _flat(nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2]))

        return Model(call, *pure)
    if isinstance(made, tuple) and isinstance(made[0], linen.Module):
        module, variables = made
        params = _flat(variables["params"])
        others = {n: _flat(tree) for n, tree in variables.items() if n != "params"}
        (collection,) = others

        def apply(params: Arrays, state: Arrays, inputs: Any) -> Any:
            whole = {"params": _nested(params), collection: _nested(state)}
            out, new = called(partial(module.apply, whole, mutable=[collection]), inputs)
            return out, _flat(new[collection])

        return Model(apply, params, others[collection])
    if isinstance(made, tuple):
        function, params = made
        return Model(
            lambda p, s, x: (called(partial(function, _nested(p)), x), s), _flat(params), {}
        )
    paths, structure = jax.tree_util.tree_flatten_with_path(made)
    names = [".".join(key.name for key in path) for path, _ in paths]

    def one_by_one(params: Arrays, state: Arrays, inputs: Any) -> Any:
        model = jax.tree.unflatten(structure, [params[name] for name in names])
        return called(jax.vmap(model), inputs), state

    return Model(one_by_one, dict(zip(names, (leaf for _, leaf in paths), strict=True)), {})


def moved(how: Any, theirs: Arrays, ours: Mapping[str, Any], linear: set[str]) -> Arrays:
    """Torch's arrays under JAX's paths, by a table or a function."""
    if how is None:
        return {}
    if callable(how):
        found = _flat(how(theirs))
    else:
        found = {a: theirs[b].T if b in linear else theirs[b] for a, b in how.items()}
    for path, array in found.items():
        assert np.shape(array) == np.shape(ours[path]), (path, array.shape, ours[path].shape)
    return found


def _lost(how: Any, theirs: Arrays) -> list[str]:
    """Torch's parameters that come out nowhere."""
    if not callable(how):
        return sorted(theirs.keys() - set(how.values()))
    numbered = {n: np.full(a.shape, float(i)) for i, (n, a) in enumerate(theirs.items())}
    came = {number for array in _flat(how(numbered)).values() for number in np.unique(array)}
    return [name for i, name in enumerate(theirs) if i not in came]


def _jax_side(model: Model, params: Arrays, state: Arrays, how: Training) -> Seen:
    params, state = ({n: jnp.asarray(a) for n, a in t.items()} for t in (params, state))

    def loss(params: Any, state: Any, inputs: Any, targets: Any) -> Any:
        out, new = model.call(params, state, inputs)
        return jnp.zeros(()) if targets is None else how.loss(out, targets), (out, new)

    @partial(jax.jit, compiler_options=QUICK)
    def step(params: Any, state: Any, memory: Any, batch: Any) -> Any:
        if not how.optimizer:
            value, (out, new) = loss(params, state, *batch)
            return out, value, {}, params, new, memory
        (value, (out, new)), g = jax.value_and_grad(loss, has_aux=True)(params, state, *batch)
        updates, memory = optimizer.update(g, memory, params)
        return out, value, g, optax.apply_updates(params, updates), new, memory

    optimizer = how.optimizer
    if optimizer and how.accumulate > 1:
        # Its accumulator is float32 unless it is told otherwise, also where all else is float64.
        optimizer = optax.MultiSteps(optimizer, how.accumulate, accumulator_dtype=jnp.float64)
    memory = optimizer.init(params) if optimizer else None
    seen: list[Any] = []
    for batch in how.batches:
        out, value, gradients, params, state, memory = step(params, state, memory, batch)
        seen.append((out, value, gradients, params, state))
    out, value, gradients, _, new = jax.tree.map(_numpy, seen[0])
    loss_of_it = None if how.batches[0][1] is None else value.item()
    weights = [jax.tree.map(_numpy, one[3]) for one in seen] if optimizer else []
    return Seen(_named(out), loss_of_it, gradients, weights, new)


def _torch_side(model: torch.nn.Module, how: Training) -> Seen:
    made = how.optimizer(model.parameters()) if how.optimizer else None
    descent, schedule = made if isinstance(made, tuple) else (made, None)
    named, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    seen, weights = None, []
    for i, (inputs, targets) in enumerate(how.batches):
        out = called(model, inputs)
        loss = None if targets is None else how.loss(out, targets)
        if descent:
            (loss / how.accumulate).backward()
        if not seen:
            outputs = jax.tree.map(_array, _named(out))
            gradients = {
                name: _array(torch.zeros_like(p) if p.grad is None else p.grad) * how.accumulate
                for name, p in named.items()
                if descent
            }
            value = None if loss is None else loss.item()
            state = {name: _array(buffer) for name, buffer in buffers.items()}
            seen = Seen(outputs, value, gradients, weights, state)
        if descent:
            if (i + 1) % how.accumulate == 0:
                descent.step()
                descent.zero_grad()
                if schedule:
                    schedule.step()
            weights.append({name: _array(p) for name, p in named.items()})
    return seen


def called(function: Callable[..., Any], inputs: Any) -> Any:
    """With its inputs by name, by place, or one alone."""
    if isinstance(inputs, dict):
        return function(**inputs)
    return function(*inputs) if isinstance(inputs, tuple) else function(inputs)


def _named(outputs: Any) -> dict[str, Any]:
    if isinstance(outputs, dict):
        return outputs
    return dict(enumerate(outputs)) if isinstance(outputs, tuple) else {"": outputs}


def _linear_weights(model: torch.nn.Module) -> set[str]:
    modules = model.named_modules()
    return {f"{n}.weight".lstrip(".") for n, m in modules if isinstance(m, torch.nn.Linear)}


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().double().numpy().copy()


def _numpy(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


def _tensor(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(_double(array).copy())
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _flat(tree: Any) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep=".")


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    return traverse_util.unflatten_dict(dict(flat), sep=".")


def differs(one: Arrays, other: Arrays) -> dict[str, float]:
    """The largest difference of each array, over the largest value of all: a gradient that should
    be 0 (of a bias before a norm) is rounding alone."""
    size = max(np.abs(a).max() for tree in (one, other) for a in tree.values())
    found = {}
    for name, array in one.items():
        same = array.shape == other[name].shape
        found[name] = float(np.abs(array - other[name]).max() / size) if same else np.inf
    return {name: np.inf if np.isnan(much) else much for name, much in found.items()}


def report(port: Port, state: Any = None, steps: int | None = 1) -> dict[tuple[str, str], float]:
    """{(level, tensor): how much of it differs}, in the ladder's order. steps: 0 ends at the loss,
    None takes all of the family's."""
    theirs, ours = compared(port, state, steps)
    named = [{f"logits {n}": a for n, a in side.outputs.items()} for side in (theirs, ours)]
    found = {
        ("logits", name): differs({"": named[0][name]}, {"": named[1][name]})[""]
        for name in named[0]
    }
    if theirs.loss is not None and ours.loss is not None:
        found["loss", "loss"] = differs({"": np.array(theirs.loss)}, {"": np.array(ours.loss)})[""]
    levels = {"gradients": (theirs.gradients, ours.gradients)}
    pairs = enumerate(zip(theirs.steps, ours.steps, strict=True))
    levels |= {f"every step {i}" if i else "step": pair for i, pair in pairs}
    levels["state"] = theirs.state, ours.state
    for level, (one, other) in levels.items():
        if one:
            found |= {(level, name): much for name, much in differs(one, other).items()}
    return found
