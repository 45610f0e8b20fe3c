"""The ports compared by hand, in float64 and without the ladder: what it finds is checked by this.

A family's Torch weights are loaded into its JAX model; outputs, loss, gradients and running
statistics after one batch are computed on both sides.
"""

from collections.abc import Callable, Mapping
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


class Model(NamedTuple):
    """A JAX model as call(params, state, inputs) -> (outputs, new state); trees are flat."""

    call: Callable[..., Any]
    params: Arrays
    state: Arrays


class Seen(NamedTuple):
    """What one batch gives. gradients, step (the weights after it), state: by JAX's paths."""

    outputs: np.ndarray
    loss: float | None
    gradients: Arrays
    step: Arrays
    state: Arrays


def compared(port: Port, state: Any, backward: bool, rows: int = 8) -> tuple[Seen, Seen]:
    """Torch's and JAX's side of a family after the first batch, in float64 wherever it doesn't cast
    to bfloat16. state: the table of what is compared then. backward: or outputs and loss alone."""
    torchs, jaxs = port.options.get("optimizer", DESCENT)
    torch_model, inputs, targets = port.torch(), *port.data()[:2]
    half = any(p.dtype == torch.bfloat16 for p in torch_model.parameters())
    torch_model = torch_model if half else torch_model.double()
    named = {n: _array(t) for n, t in torch_model.named_parameters()}
    buffers = {n: _array(t) for n, t in torch_model.named_buffers()}
    batch = [one[:rows] for one in (inputs if isinstance(inputs, tuple) else (inputs,))]
    labels = None if targets is None else targets[:rows]
    with jax.enable_x64(True):
        model = as_function(port.jax())
        turned = _linear_weights(torch_model)
        params = moved(port.weights, named, model.params, turned)
        start = model.state | moved(port.options.get("state"), buffers, model.state, set())
        doubles = [_double(one) for one in batch]
        ours = _jax_side(model, params, start, doubles, labels, jaxs if backward else None)
    theirs = _torch_side(torch_model, batch, labels, torchs if backward else None)
    buffers = {n: _array(t) for n, t in torch_model.named_buffers()}
    gradients, step = (
        moved(port.weights, tree, model.params, turned) if tree else {}
        for tree in (theirs.gradients, theirs.step)
    )
    kept = moved(state, buffers, model.state, set())
    return theirs._replace(gradients=gradients, step=step, state=kept), ours


def as_function(made: Any) -> Model:
    """Any kind of JAX model, its numbers in float64."""
    if isinstance(made, nnx.Module):
        graph, *trees = nnx.split(made, nnx.Param, ...)
        pure = [_flat(nnx.to_pure_dict(tree)) for tree in trees]

        def call(params: Arrays, state: Arrays, inputs: Any) -> Any:
            for tree, flat in zip(trees, (params, state), strict=True):
                nnx.replace_by_pure_dict(tree, _nested(flat))
            model = nnx.merge(graph, *trees)
            out = model(*inputs)
            return out, _flat(nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2]))

        return Model(call, *pure)
    if isinstance(made, tuple) and isinstance(made[0], linen.Module):
        module, variables = made
        params = _flat(variables["params"])
        others = {n: _flat(tree) for n, tree in variables.items() if n != "params"}
        (collection,) = others

        def apply(params: Arrays, state: Arrays, inputs: Any) -> Any:
            whole = {"params": _nested(params), collection: _nested(state)}
            out, new = module.apply(whole, *inputs, mutable=[collection])
            return out, _flat(new[collection])

        return Model(apply, params, others[collection])
    if isinstance(made, tuple):
        function, params = made
        return Model(lambda p, s, x: (function(_nested(p), *x), s), _flat(params), {})
    paths, structure = jax.tree_util.tree_flatten_with_path(made)
    names = [".".join(key.name for key in path) for path, _ in paths]

    def one_by_one(params: Arrays, state: Arrays, inputs: Any) -> Any:
        model = jax.tree.unflatten(structure, [params[name] for name in names])
        return jax.vmap(model)(*inputs), state

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


def _jax_side(
    model: Model, params: Arrays, state: Arrays, inputs: Any, labels: Any, optimizer: Any
) -> Seen:
    params, state = ({n: jnp.asarray(a) for n, a in t.items()} for t in (params, state))

    def loss(params: Any) -> Any:
        out, new = model.call(params, state, inputs)
        if labels is None:
            return jnp.zeros(()), (out, new)
        return -jax.nn.log_softmax(out)[np.arange(len(labels)), labels].mean(), (out, new)

    def run(params: Any) -> Any:
        if not optimizer:
            return loss(params), {}, {}
        value, gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates = optimizer.update(gradients, optimizer.init(params), params)[0]
        return value, gradients, optax.apply_updates(params, updates)

    (value, (out, new)), *trees = jax.jit(run, compiler_options=QUICK)(params)
    trees = (jax.tree.map(_numpy, tree) for tree in (*trees, new))
    return Seen(_numpy(out), None if labels is None else value.item(), *trees)


def _torch_side(model: torch.nn.Module, inputs: Any, labels: Any, optimizer: Any) -> Seen:
    out = model(*(torch.as_tensor(_double(one)) for one in inputs))
    if labels is None:
        return Seen(_array(out), None, {}, {}, {})
    loss = torch.nn.functional.cross_entropy(out, torch.as_tensor(labels).long())
    if not optimizer:
        return Seen(_array(out), loss.item(), {}, {}, {})
    descent = optimizer(model.parameters())
    loss.backward()
    descent.step()
    named = dict(model.named_parameters())
    gradients = {name: _array(p.grad) for name, p in named.items()}
    step = {name: _array(p) for name, p in named.items()}
    return Seen(_array(out), loss.item(), gradients, step, {})


def _linear_weights(model: torch.nn.Module) -> set[str]:
    modules = model.named_modules()
    return {f"{n}.weight".lstrip(".") for n, m in modules if isinstance(m, torch.nn.Linear)}


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().double().numpy().copy()


def _numpy(array: Any) -> np.ndarray:
    return np.asarray(array, np.float64)


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


def report(port: Port, state: Any = None, backward: bool = True) -> dict[tuple[str, str], float]:
    """{(level, tensor): how much of it differs}, in the ladder's order."""
    theirs, ours = compared(port, state, backward)
    found = {("logits", "logits"): differs({"": theirs.outputs}, {"": ours.outputs})[""]}
    if theirs.loss is not None and ours.loss is not None:
        found["loss", "loss"] = abs(theirs.loss - ours.loss) / abs(theirs.loss)
    for level in ("gradients", "step", "state"):
        one, other = getattr(theirs, level), getattr(ours, level)
        if one:
            found |= {(level, name): much for name, much in differs(one, other).items()}
    return found
