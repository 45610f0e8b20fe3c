"""What a command would take of the memory at least, told before it is allocated."""

import contextlib
import os
from itertools import product
from pathlib import Path
from typing import Any

from mlp_core.weights import layer_sizes
from parity.config.bench import BenchConfig
from parity.config.bits import BitsConfig
from parity.config.check import CheckConfig
from parity.config.compile import CompileConfig
from parity.config.sweep import SweepConfig
from parity.config.train import TrainConfig
from parity.config.trajectory import TrajectoryConfig
from parity.exits import Refused

# Bytes a weight, in each command: the weight, its gradient, the new weight, in float32; in
# reproducible arithmetic two slices in float64 besides; to compare, weight and gradient on both
# sides in both precisions. To compile for another device: 15.5 were measured, of a model that is
# made, laid out and described.
A_WEIGHT: dict[type, int] = {
    TrainConfig: 12,
    BenchConfig: 12,
    SweepConfig: 12,
    BitsConfig: 28,
    CheckConfig: 48,
    TrajectoryConfig: 48,
    CompileConfig: 15,
}
EXAMPLES = 60_000  # a batch has no more


def check(config: Any) -> None:
    """Refuse networks that can't fit into this machine's memory. Raises Refused."""
    if type(config) not in A_WEIGHT:
        return
    most = max(_networks(config), key=lambda network: _needed(config, *network), default=None)
    if most is None or (needed := _needed(config, *most)) <= (there := machine()):
        return
    hiddens, batch, runs = most
    sizes = [str(size) for size in layer_sizes(784, hiddens, 10)]
    if len(sizes) > 8:
        sizes[3:-2] = [f"... ({len(hiddens)} hidden layers)"]
    network = f"{runs:,} x " * (runs > 1) + "-".join(sizes)
    raise Refused(
        f"{network}, batch {batch:,}: takes {shown(needed)} at least, and this machine has "
        f"{shown(there)} of memory; choose narrower layers, or fewer"
    )


def machine() -> int:
    """Bytes of memory that this process may use."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no limit, or "max"
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def _networks(config: Any) -> list[tuple[tuple[int, ...], int, int]]:
    """(widths of the hidden layers, batch size, how many at once) of each that is trained."""
    if isinstance(config, BenchConfig):
        found = product(config.width, config.depth, config.batch)
        return [((width,) * depth, batch, 1) for width, depth, batch in found]
    at_once = 1
    networks = [config.hiddens]
    if isinstance(config, TrajectoryConfig):
        at_once = max(1, config.copies, config.seeds)
    if isinstance(config, SweepConfig):
        from parity.config.exercises import EXERCISES, Setting

        at_once, base = config.seeds, Setting(config.hiddens, config.lr)
        if config.exercise != "all":
            settings = EXERCISES[config.exercise].settings(config.values, base)
            networks = [setting.hiddens for setting in settings.values()]
    return [(hiddens, min(config.batch_size, EXAMPLES), at_once) for hiddens in networks]


def _needed(config: Any, hiddens: tuple[int, ...], batch: int, runs: int) -> int:
    activations = 8 * min(batch, EXAMPLES) * sum(hiddens)  # and their gradients
    if isinstance(config, CompileConfig):  # nothing is trained
        activations, runs = 0, 0
    return A_WEIGHT[type(config)] * weights(hiddens) + runs * (activations + 4 * weights(hiddens))


def weights(hiddens: tuple[int, ...]) -> int:
    """How many a network has, biases too."""
    sizes = layer_sizes(784, hiddens, 10)
    return sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False))


def shown(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.4g} {unit}" if count < 1e6 else f"{count:,.0f} {unit}"
        count = count / 1000  # type: ignore[assignment]
    raise AssertionError
