"""The commands. Frameworks are imported by the command that needs them, so that --help is quick.

Exit codes: see parity.exits.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from parity import exits
from parity.config import (
    AcceleratorConfig,
    BenchConfig,
    BitsConfig,
    CheckConfig,
    CompileConfig,
    ConvertConfig,
    DataConfig,
    ExportConfig,
    FaultsConfig,
    InitConfig,
    ProveConfig,
    ReportConfig,
    SweepConfig,
    TrainConfig,
    TrajectoryConfig,
)

# What a training writes: of the run before, nothing stays beside it.
TRAINED = ("weights.safetensors", "history.json", "history.csv", "curve.png")


def run_check(config: CheckConfig) -> int:
    from rich.console import Console

    exits.folder(config.out)
    log = Console(stderr=True)
    if log.is_terminal:
        log.print("Loading JAX and Torch ...", end="\r")
    if config.torch is None:
        from parity.studies.main_job import run
    else:
        from parity.studies.own_pair import run

    report = run(config, log)
    report.print(Console())
    report.write(config.out)
    print(f"Report: {config.out / 'index.html'}")
    if report.interrupted:
        return 130
    return 0 if report.ok else 2 if report.undecided else 1


def run_init(config: InitConfig) -> int:
    if config.out.exists():
        raise exits.Refused(
            f"{config.out}: exists, and is not overwritten; name another with --out"
        )
    from parity.studies.first_test import written

    text = written(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with open(config.out, "x", encoding="utf-8") as file:
        file.write(text)
    print(f"{config.out}: written; run it with: python -m pytest {config.out}")
    return 0


def run_train(config: TrainConfig) -> int:
    import importlib

    from parity.studies.placing import on
    from parity.studies.together import together

    side = importlib.import_module(f"{config.side}_mlp")
    checkpoint = importlib.import_module(f"{config.side}_mlp.checkpoint")
    _folder_of_first(config.out, config.processes, config.side)
    _check_trackers(config.track)
    side.manual_seed(config.seed)
    for option, plain in (("kernel", "scan"), ("images", "floats")):
        if (chosen := getattr(config, option)) != plain and config.side == "torch":
            raise exits.Refused(f"--{option} {chosen} is JAX's")
    if (count := config.devices * config.unit_devices) > 1:
        if config.side == "torch":
            option = "--devices" if config.unit_devices == 1 else "--unit-devices"
            raise exits.Refused(f"{option} is JAX's; for Torch, --processes gives each its own")
        importlib.import_module("jax_mlp.sharding").host_devices(count)
    with (
        together(config.side, config.processes) as tells,
        on(config.device, config.side) as where,
    ):
        if count > 1:
            where["devices"] = config.devices * config.processes, config.unit_devices
        return _train(config, side, checkpoint, where, tells)


def _train(
    config: TrainConfig, side: Any, checkpoint: Any, where: dict[str, Any], tells: bool
) -> int:
    from mlp_core.checkpoint import Checkpoints
    from mlp_core.drawing import can_draw
    from mlp_core.files import taking_their_place
    from mlp_core.history import NotFinite
    from mlp_core.weights import WeightsError

    data = side.FashionMNIST(config.batch_size, data=config.data, seed=config.seed)
    print(f"Data: {data.dataset.source}", flush=True)
    options: dict[str, Any] = {"activation": config.activation}
    if config.sigma is not None:
        options["sigma"] = config.sigma
    if config.model == "scratch":
        model = side.MLPScratch(784, 10, config.hiddens, config.lr, **options)
    else:
        model = side.MLP(10, config.hiddens, config.lr, **options)
    if config.checkpoint is not None:
        where["checkpoint"] = Checkpoints(config.checkpoint, config.checkpoint_every)
    where["at_nan"] = config.at_nan
    if config.side == "jax":
        from jax_mlp import device

        where |= {"kernel": config.kernel, "images": config.images}
        if config.kernel == "fused" and device.platform() == "cpu":
            print("jax: a CPU interprets the fused kernels, which is slow", file=sys.stderr)
    trainer = side.Trainer(config.epochs, gradient_clip_val=config.clip, **where)
    code, diverged = 0, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotFinite)  # told below, in one line
            trainer.fit(model, data, config.resume)
    except KeyboardInterrupt as stop:
        code = exits.code_of(stop)
        if not (hasattr(trainer, "history") and trainer.history.train_loss):
            raise  # before anything was measured
    if not tells:
        return code
    history = trainer.history
    with taking_their_place(config.out, TRAINED) as folder:
        history.save(folder / "history.json")
        history.save(folder / "history.csv")
        if can_draw():
            history.plot(folder / "curve.png")
        try:
            checkpoint.save(model, folder / "weights.safetensors")
        except WeightsError:
            diverged = True
    print(f"{config.side} {config.model}: {history}")
    step = history.not_finite
    if diverged or step:
        since = f" from step {step:,} on" if step else ""
        lost = "its weights are not finite either, and are not written; " * diverged
        raise exits.Refused(
            f"the training has diverged: the loss is not finite{since}; {lost}results: {config.out}"
        )
    print(f"Weights, history and curve: {config.out}")
    for target in config.track:
        try:
            history.track(target)
        except Exception as error:  # whatever a tracker has to say, the run itself is kept
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise exits.Refused(
                f"--track {target}: failed: {said}; history: {config.out}"
            ) from None
        print(f"Tracked: {target}")
    return code


def _folder_of_first(path: Path, processes: int, side: str) -> None:
    """The folder for the results, of which the first of several processes alone writes any."""
    from mlp_core.processes import place

    if processes == 1 or side == "both" or place(processes).rank == 0:
        exits.folder(path)


def _check_trackers(targets: Sequence[str]) -> None:
    """Refuse a tracker that can't be reached before the training, and not after it."""
    from mlp_core import trackers

    for target in targets:
        try:
            kind, where = trackers.check(target)
        except trackers.TrackerError as error:
            raise exits.Refused(f"--{error}") from None
        if kind == "tensorboard":
            exits.folder(Path(where), "--track")


def run_prove(config: ProveConfig) -> int:
    from parity.studies.proof import run

    codes = []
    for name, proof in run(config):
        print(f"{name}: {proof}")
        codes.append({"identical": 0, "different": 1}.get(proof.verdict, 2))
    return 1 if 1 in codes else max(codes)


def run_report(config: ReportConfig) -> int:
    from rich.console import Console

    from parity.report.changes import Changes
    from parity.report.saved import SavedReport

    if config.out is not None:
        exits.folder(config.out)
    changes = Changes.between(SavedReport.load(config.before), SavedReport.load(config.after))
    changes.print(Console())
    if config.out is not None:
        changes.write(config.out)
        print(f"Page: {config.out / 'changes.html'}")
    return 0 if changes.ok else 1


def run_bits(config: BitsConfig) -> int:
    from parity.studies.bits import run
    from parity.studies.together import together

    if config.out is not None:
        _folder_of_first(config.out, config.processes, config.side)
    with together(config.side, config.processes) as tells:
        outcome = run(config)
        print(outcome)
    if config.out is not None and tells:
        outcome.write(config.out)
    return 0 if outcome.ok else 1


def run_trajectory(config: TrajectoryConfig) -> int:
    from dataclasses import asdict

    exits.folder(config.out)
    from parity.studies.trajectory.run import travel

    options = asdict(config)
    model, out = options.pop("model"), options.pop("out")
    codes = []
    for kind in ("scratch", "mlp") if model == "both" else (model,):
        found = travel(kind, **options, on_start=lambda what: print(what, file=sys.stderr))
        found.write(out)
        print(found)
        if found.interrupted:
            codes.append(130)
            break
        codes.append(0 if found.ok else 2 if found.undecided else 1)
    print(f"Report: {out}")
    return 1 if max(codes) < 130 and 1 in codes else max(codes)


def run_sweep(config: SweepConfig) -> int:
    from rich.console import Console

    from parity.studies.sweep.run import run

    exits.folder(config.out)
    console, code = Console(), 0
    for outcome in run(config):
        outcome.print(console)
        code = 130 if outcome.interrupted else 0
    print(f"Report: {config.out}")
    return code


def run_faults(config: FaultsConfig) -> int:
    from rich.console import Console

    from parity.studies.faults.run import CATALOGUE, Outcome, plant_faults

    chosen = [f for f in CATALOGUE if config.only in ("", f.kind, f.level, f.name)]
    if not chosen:
        kinds = ", ".join(dict.fromkeys(f.kind for f in CATALOGUE))
        raise exits.Refused(f"no fault, kind or level '{config.only}'; kinds: {kinds}")
    exits.folder(config.out)
    log = Console(stderr=True)
    done: list[Outcome] = []

    def tell(text: str) -> None:
        if log.is_terminal:
            log.print(text.ljust(60), end="\r", highlight=False)

    def on_outcome(outcome: Outcome) -> None:
        done.append(outcome)
        tell(f"{len(done)} of {len(chosen)} faults")
        if len(done) == len(chosen):
            log.print(f"{len(done)} faults planted", highlight=False)

    report = plant_faults(
        chosen,
        clean=config.clean,
        on_pair=lambda pair: tell(f"compiling what the pair '{pair}' needs ..."),
        on_outcome=on_outcome,
        on_network=lambda i: tell(f"honest network {i + 1} of {config.clean}"),
    )
    report.print(Console())
    report.write(config.out)
    print(f"Report: {config.out / 'faults.json'}")
    return 130 if report.interrupted else 0 if report.ok else 1


def run_bench(config: BenchConfig) -> int:
    from rich.console import Console

    from parity.studies.bench import run as bench

    if unknown := [name for name in config.rows if name not in bench.ROWS]:
        known = ", ".join(f"'{name}'" for name in bench.ROWS)
        raise exits.Refused(f"no row {unknown}; rows: {known}")
    if config.json is not None:
        exits.folder(config.json.absolute().parent, "--json")
    if config.data is not None:
        from mlp_core import fashion_mnist

        fashion_mnist.load(config.data)  # once, before every row says that it isn't there
    exits.folder(config.out)
    log = Console(stderr=True)

    def tell(text: str) -> None:
        if log.is_terminal:
            log.print(text.ljust(70), end="\r", highlight=False)

    try:
        found = bench.run(
            config, tell, lambda found: bench.write_figures(found, config.out, config.json)
        )
    except bench.Missing as reason:
        where = f"--device {config.device}" if config.device else "the default device"
        raise exits.Refused(f"not even a product could be measured on {where}: {reason}") from None
    found.print(Console())
    bench.write(found, config.out, config.json)
    print(f"Report: {config.json or config.out / 'bench.json'}")
    return 130 if found.interrupted else 0 if found.rows else exits.USAGE


def run_accelerator(config: AcceleratorConfig) -> int:
    from rich.console import Console

    from parity.studies.accelerator.run import Tried, run

    exits.folder(config.out)
    log = Console(stderr=True)
    tried: Tried | None = None
    for tried in run(config, lambda text: log.print(text, highlight=False)):
        last = tried.ended[-1]
        print(f"{last.stage}: {last.outcome} ({last.seconds:.1f} s)", flush=True)
    print(f"Report: {config.out / 'index.html'}, {config.out / 'DEVICE.md'}")
    assert tried is not None
    return 130 if tried.interrupted else 0 if tried.ok else 1


def run_compile(config: CompileConfig) -> int:
    from rich.console import Console

    from parity.studies.ahead.run import HEADER, NOTE, Compiled, run, write

    if config.out is not None:
        exits.folder(config.out)
    if not config.target:
        raise exits.Refused("--target: expected at least one, as tpu-v5e:2x2 or h100:1x1x8")
    log, found = Console(stderr=True), []
    for outcome in run(config, lambda text: log.print(text, highlight=False)):
        found.append(outcome)
        for name, told in zip(HEADER, outcome.row, strict=True):
            if told != "-":
                indent = "" if name == HEADER[0] else "  "
                print(f"{indent}{name}: {told}", flush=True)
        if config.out is not None:
            write(found, config, config.out)
    if any(isinstance(outcome, Compiled) for outcome in found):
        print(NOTE)
    if config.out is not None:
        print(f"Report: {config.out / 'compile.md'}")
    return 0 if all(outcome.fits for outcome in found) else 2


def run_export(config: ExportConfig) -> int:
    exits.folder(config.out)
    from parity.studies.exported import run

    found = run(config)
    for comparison in found:
        print(comparison)
    print(f"Written: {config.out}")
    return 0 if all(comparison.ok for comparison in found) else 1


def run_convert(config: ConvertConfig) -> int:
    from mlp_core.weights import Weights

    weights = Weights.load(config.source)
    weights.save(config.target, config.to)
    print(f"{config.target}: {'-'.join(map(str, weights.sizes))} in {config.to} layout")
    return 0


def run_data(config: DataConfig) -> int:
    from mlp_core import fashion_mnist

    for place, found in fashion_mnist.search(config.data):
        if isinstance(found, str):
            print(f"{place}: {found}")
        else:
            print(f"{place}: found\n\n{fashion_mnist.describe(found)}")
            if found.is_sample and config.data != "sample":
                print("\nThis is NOT the whole of Fashion-MNIST.")
    return 0


COMMANDS: dict[type, Callable[[Any], int]] = {
    CheckConfig: run_check,
    InitConfig: run_init,
    ProveConfig: run_prove,
    ReportConfig: run_report,
    TrainConfig: run_train,
    BitsConfig: run_bits,
    TrajectoryConfig: run_trajectory,
    SweepConfig: run_sweep,
    FaultsConfig: run_faults,
    BenchConfig: run_bench,
    AcceleratorConfig: run_accelerator,
    CompileConfig: run_compile,
    ConvertConfig: run_convert,
    ExportConfig: run_export,
    DataConfig: run_data,
}


def parse(arguments: Sequence[str] | None = None) -> Any:
    """The configuration that a command line asks for. Exits with 2 if it is none."""
    union: Any = None
    for config in COMMANDS:
        name = config.__name__.removesuffix("Config").lower()
        help_text = inspect.getdoc(config)
        command: Any = Annotated[config, tyro.conf.subcommand(name, description=help_text)]
        union = command if union is None else union | command
    return tyro.cli(
        union,
        prog="mlp-parity",
        description="Prove that a JAX model and a Torch model are the same model.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every error that a user can cause is one message and exit code 2."""
    return exits.guarded(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    config = parse(arguments)
    from mlp_core import cache
    from parity.config import memory

    memory.check(config)

    # Compiled programs are kept, by this process and its children: read when JAX is imported.
    if folder := cache.programs():
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # On a GPU JAX would take three quarters of the memory when it starts: Torch, and JAX in another
    # process of the same command, need some of it.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # How long Torch's idle threads spin, through JAX's work: by default so long that a step of both
    # took 61 ms where 8 are enough; not at all ("passive") makes Torch alone twice as slow. This
    # bridges the gaps between Torch's own operations, some 100 us, and no more.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    return COMMANDS[type(config)](config)


if __name__ == "__main__":
    sys.exit(main())
