"""The ports compared by hand, in float64 and without the ladder: what it finds is checked by this.

A family's Torch weights are loaded into its JAX model; outputs, loss, gradients and running
statistics after one batch are computed on both sides.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx, traverse_util
from port import Port

Arrays = dict[str, np.ndarray]


class Model(NamedTuple):
    """A JAX model as a function: call(params, state, inputs) -> (outputs, new state), flat trees."""

    call: Callable[..., Any]
    params: Arrays
    state: Arrays


class Seen(NamedTuple):
    """What one batch gives; gradients and state by JAX's paths."""

    outputs: np.ndarray
    loss: float | None
    gradients: Arrays
    state: Arrays


def compared(port: Port, rows: int = 8) -> tuple[Seen, Seen]:
    """Torch's and JAX's side of a family, after the first batch. float64, unless it has a bfloat16
    inside."""
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
        state = model.state | moved(port.options.get("state"), buffers, model.state, set())
        ours = _jax_side(model.call, params, state, [_double(one) for one in batch], labels)
    theirs = _torch_side(torch_model, batch, labels)
    buffers = {n: _array(t) for n, t in torch_model.named_buffers()}
    gradients = (
        moved(port.weights, theirs.gradients, model.params, turned) if labels is not None else {}
    )
    kept = moved(port.options.get("state"), buffers, model.state, set())
    return theirs._replace(gradients=gradients, state=kept), ours


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


def _jax_side(call: Any, params: Arrays, state: Arrays, inputs: Any, labels: Any) -> Seen:
    params, state = ({n: jnp.asarray(a) for n, a in t.items()} for t in (params, state))
    if labels is None:
        out, new = call(params, state, inputs)
        return Seen(_numpy(out), None, {}, jax.tree.map(_numpy, new))

    def loss(params: Any) -> Any:
        out, new = call(params, state, inputs)
        return -jax.nn.log_softmax(out)[np.arange(len(labels)), labels].mean(), (out, new)

    (value, (out, new)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    gradients = jax.tree.map(_numpy, gradients)
    return Seen(_numpy(out), float(value), gradients, jax.tree.map(_numpy, new))


def _torch_side(model: torch.nn.Module, inputs: Any, labels: Any) -> Seen:
    out = model(*(torch.as_tensor(_double(one)) for one in inputs))
    if labels is None:
        return Seen(_array(out), None, {}, {})
    loss = torch.nn.functional.cross_entropy(out, torch.as_tensor(labels).long())
    loss.backward()
    gradients = {name: _array(p.grad) for name, p in model.named_parameters()}
    return Seen(_array(out), float(loss), gradients, {})


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


def differs(one: Any, other: Any) -> float:
    """The largest difference over the largest value."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return np.inf
    size = max(np.abs(one).max(), np.abs(other).max(), np.finfo(np.float64).tiny)
    return float(np.abs(one - other).max() / size)


def report(port: Port) -> dict[str, float]:
    """Level and tensor, and how much of it differs, in the ladder's order."""
    theirs, ours = compared(port)
    found = {"logits": differs(theirs.outputs, ours.outputs)}
    if theirs.loss is not None:
        found["loss"] = differs(theirs.loss, ours.loss)
    for name in theirs.gradients:
        found[f"gradients {name}"] = differs(theirs.gradients[name], ours.gradients[name])
    for name in theirs.state:
        found[f"state {name}"] = differs(theirs.state[name], ours.state[name])
    return found
