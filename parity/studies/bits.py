"""The same training in reproducible arithmetic on one side or both: hashes, and where they part.

Each side runs where the other's framework is missing: it is imported by name, when it is asked for.
"""

import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mlp_core import fashion_mnist
from mlp_core.checkpoint import Checkpoints
from mlp_core.files import write_json
from mlp_core.history import History
from mlp_core.idx import DataError
from mlp_core.shell import progress_bar
from mlp_core.weights import Weights, WeightsError, initial, layer_sizes
from parity.config import BitsConfig
from parity.exits import Refused
from parity.studies.placing import on

SIDES = ("jax", "torch")
# (SHA-256 of the final weights, of the losses) of the default run, by what it is trained on. Both
# pairs have the same: they differ in ReLU's gradient at 0, and from these weights no input of a
# ReLU is ever 0.
PUBLISHED = {
    "sample": (
        "8dc6bd049e7f80b21cf17b42342638329414419f79cef258cbbca540e5b917aa",
        "ee3a1e5bacdaa1513560698f035761be9d87fc63fdb1a7a2c7d24d70e3ad9976",
    ),
    "full": (
        "7115bddd42a798424ed9211fb1b4eb6ec7e6e2c38fa13fcb6975034b044d89d9",
        "4f7e295505165e96f9c2bd863aaf1ad38ced850aa3cb56e7bc1989baf7e0c3d3",
    ),
}


@dataclass(frozen=True)
class Trained:
    """One side's run: its final weights, and the loss of every step in float32."""

    side: str
    weights: Weights
    losses: np.ndarray
    history: History

    @property
    def hashes(self) -> tuple[str, str]:
        """(SHA-256 of the weights, of the losses)."""
        return digest(self.weights), digest({"losses": self.losses})


@dataclass(frozen=True)
class Difference:
    """The first place where two runs part. index and values: of the first element that differs."""

    step: int
    operation: str
    index: tuple[int, ...]
    values: tuple[Any, Any]
    count: int
    size: int

    def __str__(self) -> str:
        shown = [f"{s} {_hex(v)} ({v:.9g})" for s, v in zip(SIDES, self.values, strict=True)]
        return (
            f"step {self.step}, {self.operation} {list(self.index)}: {', '.join(shown)}; "
            f"{self.count:,} of {self.size:,} elements differ there"
        )


@dataclass(frozen=True)
class Outcome:
    """What a run of the command found. published: the hashes it had to have, if any are."""

    config: BitsConfig
    source: str
    runs: tuple[Trained, ...]
    published: tuple[str, str] | None
    difference: Difference | None = None

    @property
    def ok(self) -> bool:
        """All sides have the same bits, and the published ones where there are any."""
        found = {run.hashes for run in self.runs}
        return len(found) == 1 and self.published in (None, *found) and self.difference is None

    def __str__(self) -> str:
        c, first = self.config, self.runs[0]
        width = "-".join(map(str, first.weights.sizes))
        lines = [
            f"Fashion-MNIST, {self.source}: {c.model} {width}, {c.epochs} epochs, batch "
            f"{c.batch_size}, lr {c.lr:g}, seed {c.seed}",
            f"SHA-256 of {sum(a.size for a in first.weights.values()):,} weights and of "
            f"{len(first.losses):,} losses, in reproducible arithmetic:",
        ]
        for run in self.runs:
            count = c.devices * c.unit_devices
            over = f" on {count} devices" if run.side == "jax" and count > 1 else ""
            over += f", units cut in {c.unit_devices}" if over and c.unit_devices > 1 else ""
            over += f" in {c.processes} processes" if c.processes > 1 else ""
            over += ", by integers alone" if c.integers and run.side == "jax" else ""
            accuracy = run.history.val("acc")[-1]
            note = f"accuracy {accuracy:.4f}, {run.history.seconds:.1f} s{over}"
            lines += [f"{run.side:6} weights {run.hashes[0]}  {note}"]
            lines += [f"{run.side:6} losses  {run.hashes[1]}"]
        return "\n".join([*lines, self.verdict])

    @property
    def verdict(self) -> str:
        """One sentence; and where the runs part, if that was looked for."""
        names = " and ".join(run.side for run in self.runs)
        if len({run.hashes for run in self.runs}) > 1:
            text = f"DIFFERENT: {names} do not have the same bits"
            if self.difference:
                return f"{text}.\nFirst difference: {self.difference}"
            if self.config.locate:
                return f"{text}, though step by step on one device they do."
            return f"{text}; --locate names the first step, operation and element that differ."
        if self.difference:
            return f"DIFFERENT when repeated step by step: {self.difference}"
        if self.published and not self.ok:
            weights, losses = self.published
            return (
                f"DIFFERENT from what is published: weights {weights}, losses {losses}; the data "
                "are right, as SHA-256 of every byte shows once more: please report it, with the "
                "hardware and the versions."
            )
        known = "the published bits" if self.published else "the same bits" if self.runs[1:] else ""
        if not known:
            return f"{names}: no hash is published for these settings; compare with another run."
        return f"SAME: {names} gave {known}."

    def write(self, folder: Path) -> None:
        """bits.json, and the weights of each side as safetensors."""
        record = {
            "ok": self.ok,
            "verdict": self.verdict,
            "config": asdict(self.config),
            "runs": {
                run.side: {
                    "weights": run.hashes[0],
                    "losses": run.hashes[1],
                    "about": run.history.about,
                }
                for run in self.runs
            },
        }
        write_json(folder / "bits.json", record)
        for run in self.runs:
            run.weights.save(folder / f"weights-{run.side}.safetensors")


def run(config: BitsConfig) -> Outcome:
    """Train as the configuration says. Raises Refused, or DataError for missing data."""
    sides = SIDES if config.side == "both" else (config.side,)
    if config.devices * config.unit_devices > 1 and "jax" not in sides:
        raise Refused("--devices simulates devices of JAX, and --side torch leaves JAX out")
    if config.integers and "jax" not in sides:
        raise Refused("--integers is JAX's: Torch needs float64, and --side torch leaves JAX out")
    if config.locate and len(sides) < 2:
        raise Refused("--locate compares two sides: --side both")
    for side in sides:
        if side not in sys.modules and find_spec(side) is None:
            raise Refused(f"{side} is not installed: choose the other side with --side")
    dataset = fashion_mnist.load(config.data)
    runs = tuple(train(side, config) for side in sides)
    difference = locate(config) if config.locate else None
    known = published(config, dataset.is_sample)
    outcome = Outcome(config, dataset.source, runs, known, difference)
    if not outcome.ok:  # before the hardware, suspect the data
        try:
            fashion_mnist.check_in_memory(dataset)
            fashion_mnist.load(config.data)
        except DataError as error:
            why = "other bits, but the data are to blame, not the hardware"
            raise Refused(f"{why}: {error}") from None
    return outcome


def published(config: BitsConfig, is_sample: bool) -> tuple[str, str] | None:
    """The published hashes for these settings, if they are the default ones."""
    names = ("epochs", "hiddens", "lr", "batch_size", "seed")
    defaults = BitsConfig()
    if any(getattr(config, name) != getattr(defaults, name) for name in names):
        return None
    return PUBLISHED.get("sample" if is_sample else "full")


def train(side: str, config: BitsConfig) -> Trained:
    """Train one side by its own Trainer. Raises Refused where the hardware can't."""
    # Torch's threads spin while they wait, which on cores shared with other work takes ten times
    # as long as the computation. Read when Torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    place: Checkpoints | None = None
    if config.checkpoint is not None:
        place = Checkpoints(config.checkpoint / side, config.checkpoint_every)
    refusals: tuple[type[Exception], ...] = (NotImplementedError,)
    if side == "jax":
        refusals += (importlib.import_module("jax_mlp.sharding").DevicesError,)
    try:
        beside_jax = config.side == "both"
        with on(config.device, side, beside_jax) as options, _arithmetic(side, config):
            trainer = _trainer(side, config, options | {"checkpoint": place})
            model, data = build(side, config)
            history = trainer.fit(model, data, config.resume)
    except refusals as error:
        raise Refused(f"{side}: {error}") from None
    try:
        weights = importlib.import_module(f"{side}_mlp.checkpoint").get_weights(model)
    except WeightsError:
        raise Refused(f"{side}: the training has diverged: its weights are not finite") from None
    return Trained(side, weights, np.array(history.train_loss, np.float32), history)


def _arithmetic(side: str, config: BitsConfig) -> contextlib.AbstractContextManager[None]:
    if config.integers and side == "jax":
        return importlib.import_module("jax_mlp.exact").integers_alone()
    return contextlib.nullcontext()


def build(side: str, config: BitsConfig) -> tuple[Any, Any]:
    """(model with its initial weights, data with the shared order) of one side."""
    room = importlib.import_module(f"{side}_mlp")
    if config.model == "scratch":
        model = room.MLPScratch(784, 10, config.hiddens, config.lr, arithmetic="reproducible")
    else:
        model = room.MLP(10, config.hiddens, config.lr, arithmetic="reproducible")
    weights = initial(layer_sizes(784, config.hiddens, 10), config.seed)
    importlib.import_module(f"{side}_mlp.checkpoint").set_weights(model, weights)
    return model, room.FashionMNIST(config.batch_size, data=config.data, seed=config.seed)


def _trainer(side: str, config: BitsConfig, options: dict[str, Any]) -> Any:
    count = config.devices * config.unit_devices
    if side == "torch" or count == config.processes == 1:
        return importlib.import_module(f"{side}_mlp").Trainer(
            config.epochs, at_nan="ignore", **options
        )
    importlib.import_module("jax_mlp.sharding").simulate(count)
    devices = config.devices * config.processes, config.unit_devices
    return importlib.import_module("jax_mlp").Trainer(
        config.epochs, devices=devices, at_nan="ignore", **options
    )


def locate(config: BitsConfig) -> Difference | None:
    """Train both sides in step, each on its own data, until some result differs."""
    length = len(build("jax", config)[1].train_dataloader())
    sides = (traced(side, config) for side in SIDES)
    with progress_bar(config.epochs * length, "step", "locate") as bar:
        for step, pair in enumerate(zip(*sides, strict=True)):
            if found := first_difference(step, *pair):
                return found
            bar.update()
    return None


def traced(side: str, config: BitsConfig) -> Iterator[dict[str, np.ndarray]]:
    """The results of every operation of every step, {operation: array}, of one side."""
    model, data = build(side, config)
    tracer = importlib.import_module(f"{side}_mlp.tracing").Tracer(model)
    loader = data.train_dataloader()
    for _ in range(config.epochs):
        for batch in loader:
            with _arithmetic(side, config):  # left while the other side takes its step
                found = tracer.step(*batch)
            yield found


def first_difference(
    step: int, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> Difference | None:
    """The first operation in the order of computation whose results differ in a bit."""
    if list(ours) != list(theirs):
        raise ValueError(f"operations {list(ours)} on one side, {list(theirs)} on the other")
    for operation, a in ours.items():
        b = theirs[operation]
        if a.shape != b.shape:
            raise ValueError(f"{operation}: shape {a.shape} on one side, {b.shape} on the other")
        floating = np.issubdtype(a.dtype, np.floating)
        different = a.view(np.uint32) != b.view(np.uint32) if floating else a != b
        if different.any():
            index = tuple(int(i) for i in np.argwhere(different)[0])
            count = int(different.sum())
            return Difference(step, operation, index, (a[index], b[index]), count, a.size)
    return None


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over "name [shape]", a line feed, and little-endian float32, array by array."""
    total = hashlib.sha256()
    for name, array in arrays.items():
        total.update(f"{name} {list(array.shape)}\n".encode())
        total.update(np.ascontiguousarray(array, "<f4").tobytes())
    return total.hexdigest()


def _hex(value: Any) -> str:
    return f"0x{value.view(np.uint32):08x}" if isinstance(value, np.float32) else str(value)
