"""The benchmark: rows measured in turn, as a table, as JSON, as pictures."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from mlp_core.files import write_json, write_pictures
from mlp_core.shell import progress_bar
from parity.config import BenchConfig
from parity.environment import command, environment
from parity.studies.bench.outcome import ALIGNED, MOST_FLOPS, QUICK, ROWS, SWEPT, Bench
from parity.studies.bench.timing import Figure, Row, Size, figure
from parity.studies.bench.workers import Missing, Worker, measure


def run(
    config: BenchConfig,
    tell: Callable[[str], None],
    keep: Callable[[Bench], None] = lambda bench: None,
) -> Bench:
    """Measure what the configuration asks for. Ctrl-C keeps what there is. keep: called with what
    there is after each size of several.

    Raises Missing if not even a product can be measured, for instance for want of the device.
    """
    about = environment() | {"command": command(), "rounds": config.rounds}
    about |= {"precision": config.precision, "device": config.device}
    bench = Bench(about)
    options = {"data": config.data, "precision": config.precision, "device": config.device}
    sizes = [
        Size(width, depth, batch, _examples(width, depth, batch))
        for width, depth, batch in product(
            ALIGNED if config.aligned else config.width, config.depth, config.batch
        )
    ]
    names = config.rows or (SWEPT if len(sizes) > 1 else QUICK if config.quick else ROWS)
    try:
        bench.peak, device = _peak(options, tell)
        # Of a TPU one process at a time takes hold.
        bench.interleaved = not device.startswith("TPU")
        for size in sizes:
            with progress_bar(len(names) * config.rounds, "epoch", str(size)) as bar:
                found = measure(
                    names, size, config.rounds, on_round=bar.update,
                    on_start=lambda what: tell(f"{what} ..."),
                    interleaved=bench.interleaved, **options,
                )  # fmt: skip
                for row in found:
                    if isinstance(row, Row):
                        bench.rows.append(row)
                    else:
                        bench.missing |= [row]
            if len(sizes) > 1:
                keep(bench)
        if len(sizes) == 1 and not config.quick and not config.rows:
            try:
                bench.job = _job(config, tell)
            except Missing as reason:
                bench.missing["whole job"] = str(reason)
    except KeyboardInterrupt:
        bench.interrupted = True
    return bench


def _examples(width: int, depth: int, batch: int) -> int:
    """60,000, or as many whole batches, four at least, as MOST_FLOPS allow."""
    one = Size(width, depth, batch, 1).flops
    return min(60_000, max(4, int(MOST_FLOPS / one / batch)) * batch)


def _peak(options: dict[str, Any], tell: Callable[[str], None]) -> tuple[float, str]:
    """Operations a second of the largest square product, and what the device calls itself."""
    tell("peak: a large square product ...")

    def rate(n: int) -> tuple[float, str]:
        with Worker("peak", Size(width=n), **options) as worker:
            worker.load()
            worker.warm_up()
            return 2 * n**3 / min(worker.round() for _ in range(9)), worker.device

    try:
        best, device = rate(2048)
    except Missing as reason:
        raise Missing(_missing(options["device"]) or str(reason)) from None
    return (best, device) if device == "cpu" else rate(8192)  # an accelerator needs the larger


def _missing(device: str | None) -> str:
    """Why JAX has no such device; asked in another process, for this one must not hold it."""
    if device is None:
        return ""
    code = "import sys; from parity.sides.jax_device import *\ntry: jax_device(sys.argv[1])\n"
    code += "except DeviceMissing as missing: print(missing)"
    asked = [sys.executable, "-W", "ignore", "-c", code, device]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


# From the start of a process until ten epochs are trained and evaluated, cached data and programs.
JOBS = {
    "import jax, one jit": "import jax; jax.jit(lambda x: x + 1)(1.0).block_until_ready()",
    "ten epochs in jax": "import jax_mlp as d2l; d2l.Trainer(10).fit("
    "d2l.MLPScratch(784, 10, 256, lr=0.1), d2l.FashionMNIST(256, data={data!r}))",
    "ten epochs in torch": "import torch_mlp as d2l; d2l.Trainer(10, num_gpus={gpus}).fit("
    "d2l.MLPScratch(784, 10, 256, lr=0.1), d2l.FashionMNIST(256, data={data!r}))",
}


def _job(config: BenchConfig, tell: Callable[[str], None], rounds: int = 6) -> dict[str, Figure]:
    seconds: dict[str, list[float]] = {name: [] for name in JOBS}
    env = os.environ | ({"JAX_PLATFORMS": config.device} if config.device else {})
    gpus = int(config.device == "cuda")
    for i in range(rounds + 1):
        for name, code in JOBS.items():
            tell(f"{name}: whole process, {i + 1} of {rounds + 1} ...")
            start = time.perf_counter()
            command = [sys.executable, "-c", code.format(data=config.data, gpus=gpus)]
            done = subprocess.run(command, capture_output=True, env=env, check=False)
            if done.returncode:
                said = done.stderr.decode().strip().splitlines()
                raise Missing(f"{name}: {said[-1] if said else f'exit code {done.returncode}'}")
            if i:  # the first one fills the caches
                seconds[name].append(time.perf_counter() - start)
    return {name: figure(values) for name, values in seconds.items()}


def write_figures(found: Bench, folder: Path, json_path: Path | None) -> None:
    """bench.json, or json_path, alone."""
    write_json(json_path or folder / "bench.json", found.to_json())


def write(found: Bench, folder: Path, json_path: Path | None) -> None:
    """bench.json (or json_path) and the pictures."""
    write_figures(found, folder, json_path)
    write_pictures(folder, lambda: _pictures(found))


def _pictures(found: Bench) -> Iterator[tuple[str, bytes]]:
    from parity.studies.bench import pictures

    yield from pictures.draw(found)
