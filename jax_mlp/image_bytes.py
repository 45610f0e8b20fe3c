"""What Trainer(images="bytes") leaves bytes, and the models that take them: see images."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int, UInt8

from jax_mlp.data import ArrayLoader, images_and_labels
from jax_mlp.mlp import MLP
from jax_mlp.scratch import MLPScratch
from mlp_core.arithmetic import in_force
from mlp_core.limits import NotBytes


def kept(
    shape: tuple[int, int], rows: UInt8[Array, "batch pixels"], labels: UInt8[Array, "batch"]
) -> tuple[UInt8[Array, "batch 1 height width"], Int[Array, "batch"]]:
    """What images_and_labels gives, but for the floats."""
    return rows.reshape((-1, 1, *shape)), labels.astype(jnp.int32)


def transform(loader: ArrayLoader, images: str) -> Any:
    """A loader's own, or the one that keeps its images bytes."""
    own = loader.transform
    return partial(kept, *own.args) if images == "bytes" else own  # type: ignore[attr-defined]


def check(trainer: Any, model: Any) -> None:
    """Raises NotBytes, with the reason, for what isn't trained on bytes."""
    if why := next(_reasons(trainer, model), None):
        raise NotBytes(model, why)


def _reasons(trainer: Any, model: Any) -> Iterator[str]:
    if type(model) not in (MLPScratch, MLP) or "forward" in vars(model):
        yield "expected an MLPScratch or an MLP, whose first layer is known, and none derived"
    if (chosen := in_force(model, trainer)) != "native":
        yield f"expected native arithmetic, got {chosen}"
    for loader in (trainer.train_dataloader, trainer.val_dataloader):
        if loader is not None and not holds_bytes(loader):
            yield "expected the bytes of FashionMNIST, not floats or batches of one's own"


def holds_bytes(loader: Any) -> bool:
    """Whether it turns bytes to floats, so that it needn't."""
    return isinstance(loader, ArrayLoader) and turns_bytes(loader.transform)


def turns_bytes(transform: Any) -> bool:
    """Whether rows of bytes become images, of floats or of bytes."""
    return isinstance(transform, partial) and transform.func in (images_and_labels, kept)
