"""The epoch that JAX's Trainer runs, compiled for a target. Nothing is run on it."""

import importlib.metadata
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlp_core.files import write_atomically, write_json
from mlp_core.limits import NotBytes, NotFused
from parity.config import CompileConfig, memory
from parity.exits import Refused
from parity.studies.ahead.program import Around, Program, Step
from parity.studies.ahead.targets import Target
from parity.studies.child import Child, ChildDied

QUIET = {  # libtpu asks the machine what it is, and complains where it is none of its kind
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is taken, so that others may do the same
    "TPU_HOST_BOUNDS": "1,1,1",
    "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # such a program is written, and can't be read
}
HEADER = ("target", "devices", "kernel", "memory a device", "near", "launches a step",
          "once an epoch", "moved an epoch", "collectives a step", "products",
          "compiled")  # fmt: skip
NOTE = (
    "Compiled ahead of time; not run on any of these devices. Near: share of what the loop holds "
    "that lies in a TPU's vector memory. Launches: operations on arrays in a step, each a kernel "
    "on a GPU; once an epoch: those outside the loop. Moved: operands and results of all launches "
    "in main memory, each once. Products: how the matrix units are asked to take their operands; "
    "those within a kernel of its own are not seen."
)


@dataclass(frozen=True)
class Compiled:
    """devices: compiled for so many `of` those that the target has. memory: bytes a device,
    arguments, results and temporaries; has: the chip. step: of the loop; around: what isn't in it;
    moved: bytes, by an epoch."""

    target: str
    kind: str
    devices: int
    of: int
    memory: int
    has: int
    kernel: str
    step: Step | None
    around: Around
    moved: int
    seconds: float
    versions: dict[str, str]
    text: str = ""

    @property
    def fits(self) -> bool:
        return self.memory <= self.has

    @property
    def row(self) -> tuple[str, ...]:
        """One of a table under HEADER."""
        share = self.memory / self.has
        memory = f"{self.memory / 1e6:,.1f} MB, {share:.1%} of {self.has / 1e9:.0f} GB"
        if not self.fits:
            memory += ": TOO MUCH"
        near, launches, collectives, products = "-", "no loop", "-", "-"
        if step := self.step:
            near = f"{step.near / step.held:.0%}" if step.near else "-"
            launches = str(step.launches)
            collectives, products = _counted(step.collectives), _counted(step.products)
        first = self.target, f"{self.devices} of {self.of}", self.kernel, memory, near, launches
        moved = str(self.around.launches), f"{self.moved / 1e6:,.0f} MB"
        return *first, *moved, collectives, products, f"in {self.seconds:.1f} s"


@dataclass(frozen=True)
class Failed:
    target: str
    why: str

    fits = False

    @property
    def row(self) -> tuple[str, ...]:
        return self.target, *("-",) * (len(HEADER) - 2), f"no: {self.why}"


Outcome = Compiled | Failed


def run(config: CompileConfig, tell: Callable[[str], None] = lambda _: None) -> Iterator[Outcome]:
    """Each target in turn, in a process of its own: a compiler that dies takes nothing along.

    Raises Refused, before the first, where one is no target by its form.
    """
    targets = [Target.parsed(text) for text in config.target]
    for target in targets:
        why = target.impossible() or too_large(config, target) or target.missing()
        if why:
            yield Failed(str(target), why)
            continue
        tell(f"compiling for {target} ...")
        before = {name: os.environ.get(name) for name in QUIET}
        os.environ.update(QUIET)
        try:
            outcome = _in_a_child(config, target)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
        yield outcome


def _in_a_child(config: CompileConfig, target: Target) -> Outcome:
    work = f"{__name__}:compiled"
    try:
        with Child(work, config, target, on_told=lambda *_: None, listens=False) as child:
            return child.result()
    except ChildDied as error:
        if error.signal != signal.SIGKILL:
            return Failed(str(target), f"the compiler died: {error}")
        return Failed(
            str(target),
            "the compiler was killed (signal 9): compiling takes memory of this machine, which has "
            f"{memory.shown(memory.machine())}, and it was probably short; choose narrower layers, "
            "or a machine with more",
        )


def too_large(config: CompileConfig, target: Target) -> str:
    """Why it can't fit the chip, whatever the compiler makes of it; "" if that isn't known."""
    needed, has = 4 * memory.weights(config.hiddens), target.about.memory
    if needed <= has:
        return ""
    return (
        f"the weights alone take {memory.shown(needed)} on each device, which has "
        f"{memory.shown(has)}"
    )


def compiled(tell: Any, config: CompileConfig, target: Target) -> Outcome:
    """The work of a child."""
    import jax

    import jax_mlp
    from jax_mlp.ahead import epoch

    try:
        all_devices = target.devices()
    except Refused as error:
        return Failed(str(target), str(error))
    if config.devices > len(all_devices):
        return Failed(str(target), f"--devices {config.devices}, but it has {len(all_devices)}")
    devices = all_devices[: config.devices or len(all_devices)]
    data = jax_mlp.FashionMNIST(config.batch_size, data=config.data)
    if config.model == "scratch":
        model: Any = jax_mlp.MLPScratch(784, 10, config.hiddens, config.lr)
    else:
        model = jax_mlp.MLP(10, config.hiddens, config.lr)
    ways: dict[str, Any] = {"kernel": config.kernel, "images": config.images}
    trainer = jax_mlp.Trainer(1, arithmetic=config.arithmetic, **ways)
    with jax.default_matmul_precision(None if config.precision == "default" else config.precision):
        try:
            start = time.perf_counter()
            program = epoch(trainer, model, data, devices)
            seconds = time.perf_counter() - start
        except jax.errors.JaxRuntimeError as error:
            return Failed(str(target), str(error).strip().splitlines()[0][:200])
        except (NotBytes, NotFused) as error:
            return Failed(str(target), str(error))
    used: Any = program.memory_analysis()
    text = program.as_text() or ""
    taken = sum(
        getattr(used, f"{part}_size_in_bytes")
        for part in ("argument", "output", "temp", "generated_code")
    )
    loader = data.train_dataloader()
    read = Program(text, target.about.platform, len(loader), loader.schedule.num_examples)
    names = ("jax", "jaxlib", "flax", "libtpu", "jax-cuda13-plugin")
    return Compiled(
        str(target),
        devices[0].device_kind,
        len(devices),
        len(all_devices),
        taken - used.alias_size_in_bytes,
        target.about.memory,
        config.kernel + ", bytes" * (config.images == "bytes"),
        read.step(),
        read.around(),
        read.moved(),
        seconds,
        {name: found for name in names if (found := _version(name))},
        text,
    )


def write(outcomes: list[Outcome], config: CompileConfig, folder: Path) -> None:
    """compile.json, compile.md, and the text of each program."""
    found = []
    for one in outcomes:
        told = asdict(one)
        if text := told.pop("text", ""):
            write_atomically(folder / f"{one.target.replace(':', '-')}.txt", text.encode())
        found.append(told)
    write_json(folder / "compile.json", {"config": asdict(config), "targets": found})
    write_atomically(folder / "compile.md", markdown(outcomes).encode())


def markdown(outcomes: list[Outcome]) -> str:
    """The table, and what it is not."""
    rows = [HEADER, ("---",) * len(HEADER), *(one.row for one in outcomes)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{NOTE}\n"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _counted(found: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in found.items()) or "none"
