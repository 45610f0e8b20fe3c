"""Trainer(kernel="fused"): the book's network in the fewest kernels, written in Pallas.

A TPU runs an epoch as one kernel, a GPU a step as three; both do what training_step, its gradient
and SGD do for MLPScratch and MLP. On a CPU the TPU's kernel is interpreted: for tests, not fast.
"""

import numbers
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jax_mlp import fused_gpu, fused_tpu, image_bytes
from jax_mlp.data import ArrayLoader
from jax_mlp.device import GPU
from jax_mlp.fused_tpu import MIB, Weights
from jax_mlp.mlp import MLP
from jax_mlp.scratch import MLPScratch
from jax_mlp.step import Carry, State, Taken, split
from mlp_core.arithmetic import in_force
from mlp_core.limits import NotFused

INTERPRETED = fused_tpu  # on a CPU
MOST_CLASSES = 128  # on a GPU: one block holds all logits of its rows
PRECISION = "jax_default_matmul_precision"
PRECISIONS = (None, "default", "bfloat16", "highest", "float32")  # what Mosaic has of JAX's
# Methods in whose place the kernels stand.
MODEL = ("forward", "loss", "training_step", "configure_optimizers")
TRAINER = ("clip_gradients", "prepare_batch", "assemble")


def check(trainer: Any, model: Any, device: Any) -> None:
    """Raises NotFused, with the reason, for what `epoch` doesn't compute on a device."""
    if why := next(_reasons(trainer, model, device), None):
        raise NotFused(model, why)


def _reasons(trainer: Any, model: Any, device: Any) -> Iterator[str]:
    if type(model) not in (MLPScratch, MLP):
        yield "expected an MLPScratch or an MLP, and no class derived from them"
    parts = [(model, MODEL), (trainer, TRAINER)]
    if own := [name for part, names in parts for name in names if _is_own(part, name)]:
        yield f"its own {', '.join(own)} would not be called"
    if (chosen := in_force(model, trainer)) != "native":
        yield f"expected native arithmetic, got {chosen}"
    if model.activation != "relu":
        yield f"expected the activation relu, got {model.activation}"
    leaves = jax.tree.leaves(split(model)[1])
    if len(leaves) != 4:
        yield f"expected one hidden layer, got {len(leaves) // 2 - 1}"
    if kinds := {str(leaf.dtype) for leaf in leaves} - {"float32"}:
        yield f"expected weights in float32, got {', '.join(sorted(kinds))}"
    if not isinstance(model.lr, numbers.Real):
        yield f"expected a number as rate, got {type(model.lr).__name__}"
    if trainer.gradient_clip_val:
        yield f"no gradient is clipped, gradient_clip_val = {trainer.gradient_clip_val}"
    if trainer.shares.count > 1:
        yield f"expected one device, got {trainer.shares.count}"
    if trainer.checkpoint is not None and trainer.checkpoint.every:
        yield "an epoch is one call, after which checkpoints are saved, not every so many steps"
    loader = trainer.train_dataloader
    if not isinstance(loader, ArrayLoader):
        yield "expected data in arrays, an ArrayLoader, not one batch at a time"
    W1, _, _, b2 = _weights(split(model)[1])
    (inputs, hidden), classes = W1.shape, len(b2)
    if device.platform in GPU:
        pixels = loader.schedule.num_examples * inputs
        if classes > MOST_CLASSES:
            yield f"expected at most {MOST_CLASSES} classes on a GPU, got {classes}"
        if pixels >= 2**31:
            yield f"{pixels:,} inputs of all examples, a GPU's kernel can index {2**31:,}"
        return
    if device.platform not in ("cpu", "tpu"):
        yield f"there is no kernel for {device.platform}"
    asked = getattr(jax.config, PRECISION)
    if asked not in PRECISIONS:
        yield f"its products take no precision {asked!r}, expected one of {PRECISIONS}"
    batch = loader.schedule.batch_size
    itemsize = 1 if image_bytes.turns_bytes(loader.transform) else 4
    needs = fused_tpu.needed(inputs, hidden, classes, batch, itemsize)
    if needs > (has := fused_tpu.VMEM.get(device.device_kind, fused_tpu.SMALLEST) * MIB):
        kind = device.device_kind
        where = kind if kind in fused_tpu.VMEM else "the smallest TPU of today"
        yield (
            f"{inputs}-{hidden}-{classes} in batches of {batch} needs {needs / MIB:,.1f} MiB of "
            f"vector memory, of which {where} has {has // MIB}"
        )


def _is_own(part: Any, name: str) -> bool:
    """Whether a method isn't this package's: of an object, or put into its class."""
    return name in vars(part) or not getattr(type(part), name).__module__.startswith("jax_mlp.")


def epoch(model: Any, as_bytes: bool = False) -> Callable[..., tuple[Carry, Any]]:
    """What scan_batches is for the Trainer's own step: (carry, arrays, order, batch size,
    transform) -> (carry, (losses [steps], tape)). Traceable. as_bytes: see jax_mlp.images."""

    def run(
        carry: Carry, arrays: tuple, order: Any, size: int, transform: Callable
    ) -> tuple[Carry, Any]:
        rows, labels, order = _laid(arrays, order, size, transform)
        given = _weights(carry.params), rows, labels, order, size
        weights, losses = _kernels(model, *given, as_bytes=as_bytes)
        return carry._replace(params=_filled(carry.params, weights)), (losses, _tape(losses))

    return run


def step(model: Any, batch_size: int) -> Callable[[Carry, Any], tuple[Carry, Taken]]:
    """One step by the kernels, as pure_step gives it; no outputs, which they keep to themselves.

    batch_size: of whole ones; the kernels take one that has fewer rows as an epoch's last.
    """

    def run(carry: Carry, batch: Any) -> tuple[Carry, Taken]:
        X, y = batch
        as_bytes, weights = X.dtype == jnp.uint8, _weights(carry.params)
        given = _flat(X), y, jnp.arange(len(y), dtype=jnp.int32), batch_size
        after, losses = _kernels(model, weights, *given, as_bytes=as_bytes)
        gradients, _ = _kernels(model, weights, *given, as_bytes=as_bytes, lr=None)
        taken = Taken(losses[0], None, _filled(carry.params, gradients), _tape(losses[0]))
        return carry._replace(params=_filled(carry.params, after)), taken

    return run


def _kernels(
    model: Any, weights: Weights, rows: Array, labels: Array, order: Array, size: int, **ways: Any
) -> tuple[Weights, Float[Array, "steps"]]:
    options = {"batch_size": size, "lr": float(model.lr), "tie": model.relu_tie} | ways
    return lax.platform_dependent(
        weights,
        rows,
        labels,
        order,
        cpu=partial(INTERPRETED.epoch, interpret=True, **options),
        tpu=partial(fused_tpu.epoch, **options),
        cuda=partial(fused_gpu.epoch, **options),
    )


def _laid(arrays: tuple, order: Array, size: int, transform: Callable) -> tuple[Array, ...]:
    """(rows, labels, order) for the kernels, which make floats of an image's bytes themselves."""
    if image_bytes.turns_bytes(transform):
        return *arrays, order
    whole = len(order) // size * size
    parts = []
    for batches in (order[:whole].reshape(-1, size), order[None, whole:]):
        if batches.size:
            X, y = jax.vmap(lambda rows: transform(*(array[rows] for array in arrays)))(batches)
            parts.append((_flat(X.reshape(-1, *X.shape[2:])), y.reshape(-1)))
    rows, labels = (jnp.concatenate(both) for both in zip(*parts, strict=True))
    return rows, labels, jnp.arange(len(order), dtype=jnp.int32)


def _flat(X: Array) -> Array:
    flat = X.reshape(len(X), -1)
    return flat if X.dtype == jnp.uint8 else flat.astype(jnp.float32)


def _ordered(params: State) -> list[tuple[tuple, Any]]:
    """(path, leaf) of W1, b1, W2, b2: of a dict of arrays, or of NNX's layers."""

    def place(one: tuple[tuple, Any]) -> tuple[int, bool]:
        *above, name = one[0]
        if name in ("kernel", "bias"):
            return above[-1], name == "bias"
        return int(name[1:]), name[0] == "b"

    return sorted(nnx.to_flat_state(params), key=place)


def _weights(params: State) -> Weights:
    W1, b1, W2, b2 = (
        leaf[...] if isinstance(leaf, nnx.Variable) else leaf for _, leaf in _ordered(params)
    )
    return W1, b1, W2, b2


def _filled(params: State, weights: Weights) -> State:
    """Such parameters with these weights."""
    made = [
        (path, leaf.replace(new) if isinstance(leaf, nnx.Variable) else new)
        for (path, leaf), new in zip(_ordered(params), weights, strict=True)
    ]
    return nnx.from_flat_state(made)


def _tape(losses: Array) -> Any:
    return OrderedDict({("loss", True): losses})
