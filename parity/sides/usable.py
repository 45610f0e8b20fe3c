"""What can't be compared: refused with its reason before any level is climbed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from parity.sides.jax_models import KINDS, as_module
from parity.sides.jax_port import JaxPort
from parity.sides.pairs import JaxSide, TorchSide
from parity.sides.side import ModelFails
from parity.sides.torch_port import TorchPort
from parity.trees import Tree, leaves, length, mapped


def told_apart(one: Any, other: Any) -> tuple[Any, Any]:
    """(JAX model, Torch module), given in either order.

    Raises TypeError unless one is a torch.nn.Module and the other a JAX model of some kind.
    """
    jax_model, torch_model = (other, one) if TorchSide.takes(one) else (one, other)
    if not TorchSide.takes(torch_model) or TorchSide.takes(jax_model):
        raise TypeError(
            f"models: {_type_name(one)} and {_type_name(other)}, expected one torch.nn.Module, and "
            f"one JAX model: {KINDS}"
        )
    as_module(jax_model)
    return jax_model, torch_model


def _type_name(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__name__}"


def as_arrays(data: Sequence[Any]) -> tuple[Tree, ...]:
    """(inputs, targets) or (inputs, targets, validation inputs, validation targets), of NumPy.

    Raises ValueError for another number of parts, an array elsewhere than on the CPU or CUDA, other
    types than floats, integers and booleans, other lengths, or floats that aren't finite.
    """
    if len(data) not in (2, 4):
        raise ValueError(
            f"data: {len(data)} parts, expected (inputs, targets) or (inputs, targets, validation "
            "inputs, validation targets); several inputs go into one tuple, or a dict by name"
        )
    names = ("inputs", "targets", "validation inputs", "validation targets")
    parts = []
    for name, tree in zip(names, data, strict=False):
        parts.append(mapped(_array, tree))
        for leaf, array in leaves(parts[-1], "array").items():
            where = f"data: {name} '{leaf}'" if leaf != "array" else f"data: {name}"
            _check_array(where, array)
    for train, validation, name in zip(parts, parts[2:], names[2:], strict=False):
        ours, theirs = ([*leaves(part, "array")] for part in (train, validation))
        if sorted(ours) != sorted(theirs):
            raise ValueError(
                f"data: {name} are {theirs or None}, expected {ours or None}, as in training"
            )
    for inputs, targets in zip(parts[::2], parts[1::2], strict=True):
        sizes = {n: len(a) for n, a in leaves({"inputs": inputs, "targets": targets}).items()}
        if not sizes or len(set(sizes.values())) > 1:
            raise ValueError(f"data: lengths {sizes}, expected one length, that of the batch axis")
        if not all(sizes.values()):
            raise ValueError("data: no example, expected one at least")
    return tuple(parts)


def _array(leaf: Any) -> np.ndarray:
    device = getattr(getattr(leaf, "device", None), "type", "cpu")  # torch.device has a type
    if device not in ("cpu", "cuda"):
        raise ValueError(f"data: an array is on {device}, expected the CPU or CUDA: tensor.cpu()")
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        if str(leaf.dtype) == "torch.bfloat16":
            return leaf.float().numpy().astype(jnp.bfloat16)
    return np.asarray(leaf)


def _check_array(where: str, array: np.ndarray) -> None:
    if array.dtype == np.float64:
        raise ValueError(
            f"{where} is float64 {array.shape}, expected float32, integers or booleans, as JAX "
            "takes them: .astype('float32')"
        )
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"{where} is {array.dtype} {array.shape}, expected float32, integers or booleans"
        )
    if not array.ndim:
        raise ValueError(f"{where} is a single number, expected a batch: an array [examples, ...]")
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if floats and len(bad := np.argwhere(~np.isfinite(array))):
        first = tuple(map(int, bad[0]))
        raise ValueError(
            f"{where}: {len(bad)} numbers are not finite, the first at {first}: {array[first]}"
        )


def refuse_unusable(jax_side: JaxSide, torch_side: TorchSide) -> None:
    """Raises ValueError if outputs differ in shape or name, a model isn't a function of its inputs,
    labels aren't classes of the outputs, or a trainer that hangs on a model does more than train.
    """
    inputs, targets = next(jax_side.batches())
    few = min(8, length(inputs))
    some = mapped(lambda leaf: leaf[:few], inputs)
    outputs = {}
    for s, side in (("jax", jax_side), ("torch", torch_side)):
        outputs[s] = _called(s, side, some)
        if side.is_random(some):
            raise ValueError(
                f"{s}: two calls of the model with the same inputs differ, in {_remedy(side)}"
            )
    shapes = {s: {n: a.shape for n, a in found.items()} for s, found in outputs.items()}
    if shapes["jax"] != shapes["torch"]:
        given = {name: leaf.shape for name, leaf in leaves(some, "inputs").items()}
        raise ValueError(
            f"outputs: jax {_shown(shapes['jax'])}, torch {_shown(shapes['torch'])} for "
            f"{_shown(given)}; models of different outputs can't be the same"
        )
    _check_labels(jax_side, torch_side, outputs["jax"], targets)
    _check_trainer(torch_side)


def _remedy(side: Any) -> str:
    """The mode in which a model is random, and what to do."""
    if not _in_eval(side.model):
        return "training mode; is there dropout? Compare with mode='eval', or set its rate to 0"
    how = {
        "torch": "F.dropout(x, p, training=self.training)",
        "jax": "nnx.Dropout, which deterministic=True turns off",
    }
    return f"eval mode too; is there dropout that no mode turns off? Write {how[side.name]}"


def _in_eval(model: Any) -> bool:
    if isinstance(model, JaxPort):
        return model.chosen.training.mode == "eval"
    if not isinstance(model, TorchPort):
        return False
    return model.chosen.mode == "eval" or not (model.chosen.mode or any(model.given.values()))


def _called(s: str, side: Any, inputs: Tree) -> dict[str, np.ndarray]:
    """The outputs. Raises ValueError, with the model's own words, if it fails."""
    try:
        return side.forward(inputs)
    except Exception as failed:
        if isinstance(failed, ModelFails) and failed.__cause__ is None:  # says all there is to say
            raise
        error = failed.__cause__ if isinstance(failed, ModelFails) else failed
        given = {name: f"{a.dtype} {a.shape}" for name, a in leaves(inputs, "inputs").items()}
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        keyless = s == "jax" and "Dropout requires a key" in said  # Equinox's own words
        hint = "; to compare without dropout, pass eqx.nn.inference_mode(model)" * keyless
        raise ValueError(
            f"{s}: the model fails for {_shown(given)}, in {side.dtype}: {said:.300}{hint}"
        ) from error


def _check_labels(
    jax_side: JaxSide, torch_side: TorchSide, outputs: Mapping[str, np.ndarray], targets: Tree
) -> None:
    """XLA can't raise, and Torch lets -100 through: labels are checked where they enter."""
    named = [
        side.model.loss_name
        for side in (jax_side, torch_side)
        if isinstance(side.model, (JaxPort, TorchPort))
    ]
    if "cross_entropy" not in named or targets is None:
        return
    if len(outputs) != 1 or not isinstance(targets, np.ndarray):
        raise ValueError(
            f"loss: cross-entropy takes one output and one array of labels; there are outputs "
            f"{[*outputs]}; pass loss=(torch function, jax function) of (outputs, targets)"
        )
    logits = next(iter(outputs.values()))
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"loss: targets are {targets.dtype} {targets.shape}, and cross-entropy takes integer "
            "labels; pass loss='mse', 'bce_with_logits', or a pair of functions"
        )
    if targets.shape[1:] != logits.shape[1:-1]:
        raise ValueError(
            f"loss: logits {logits.shape} and labels {targets.shape}, expected labels of the "
            "logits' shape without their last axis; pass loss=(torch function, jax function)"
        )
    for part in (True, False):
        for _, labels in jax_side.batches(part):
            wrong = (labels < 0) | (labels >= logits.shape[-1])
            if wrong.any():
                bad = int(labels[wrong].flat[0])
                raise ValueError(
                    f"labels: {bad}, expected 0 to {logits.shape[-1] - 1}; for an ignored index "
                    "pass loss=(torch function, jax function)"
                )


def _check_trainer(torch_side: TorchSide) -> None:
    """A trainer of the user's own, on the model, may do what `check`'s doesn't."""
    trainer = vars(torch_side._inner).get("trainer")
    if trainer is None:
        return
    clip = getattr(trainer, "gradient_clip_val", 0)
    home = type(trainer).__module__.partition(".")[0]
    if home not in ("torch_mlp", "parity"):
        raise ValueError(
            f"torch: the model's trainer is a {_type_name(trainer)}, whose own steps `check` can't "
            "take; delete model.trainer, and say what it does by loss= and optimizer="
        )
    if isinstance(clip, (int, float)) and clip > 0 and math.isfinite(clip):
        raise ValueError(
            f"torch: the model's trainer clips gradients to a norm of {clip:g}, and `check` trains "
            "without it; delete model.trainer, or clip in both optimisers: optimizer="
        )


def _shown(shapes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
