"""Programs for devices that this machine needn't have: compiled ahead of time, run elsewhere."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import numpy as np

from jax_mlp import exact
from jax_mlp.device import GPU, compiling_for
from jax_mlp.sharding import Shares
from jax_mlp.training import Trainer
from mlp_core.limits import NotFused


def epoch(trainer: Trainer, model: Any, data: Any, devices: Sequence[Any]) -> jax.stages.Compiled:
    """The very program that trainer.fit(model, data) runs for an epoch of training.

    devices: described by jax.experimental.topologies, each batch is shared out over them. The
    model stays as it is. Raises NotFused for fused kernels on several devices, as fit does.
    """
    if trainer.kernel == "fused" and len(devices) > 1:
        raise NotFused(model, f"expected one device, got {len(devices)}")
    shares = Shares().over(devices)
    assert shares.mesh is not None
    everywhere, described_mesh = jax.NamedSharding(shares.mesh, jax.P()), shares.mesh.abstract_mesh

    def described(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=everywhere)

    def instead(function: Callable, *args: Any) -> None:
        if len(devices) > 1:
            trainer.shares = shares
        without = exact.integers_alone() if devices[0].platform == "tpu" else nullcontext()
        # Pallas asks which GPU it is for; from jax 0.11 on of the mesh, if there is none here.
        on_gpu = trainer.kernel == "fused" and devices[0].platform in GPU
        meant = jax.sharding.use_abstract_mesh(described_mesh) if on_gpu else nullcontext()
        with without, meant, compiling_for(devices[0].platform):
            lowered = jax.jit(function).lower(*jax.tree.map(described, args))
        raise _Compiled(lowered.compile(trainer.compiler_options()))

    trainer.compile, trainer.target = instead, devices[0]  # type: ignore
    try:
        trainer.fit(model, data)
    except _Compiled as found:
        return found.program
    finally:
        del trainer.compile, trainer.target
    raise ValueError(f"{type(data).__name__} gives batches one at a time: there is no whole epoch")


class _Compiled(Exception):
    """What fit wanted to run first."""

    def __init__(self, program: jax.stages.Compiled) -> None:
        super().__init__()
        self.program = program
