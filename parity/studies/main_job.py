"""The main job: the pairs that a configuration names, checked side by side."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from tqdm import tqdm

from jax_mlp.device import default_device
from mlp_core import fashion_mnist
from mlp_core.shell import progress_bar
from parity.checking import Verdict, check
from parity.config import CheckConfig
from parity.device import Device
from parity.environment import command, environment
from parity.exits import Refused
from parity.interrupted import Interrupted
from parity.levels.ladder import LEVELS, named
from parity.levels.level import Result
from parity.report.report import Report, cells
from parity.sides.pairs import book_models, book_pair, torch_threads
from parity.studies.child import Child, ChildDied, Tell

Climbed = tuple[Verdict, bool]  # what was found, and whether Ctrl-C ended it


def run(config: CheckConfig, log: Console) -> Report:
    """Check the pairs that the configuration names. Ctrl-C keeps the results so far.

    Two pairs climb at once, the second in a process of its own, for one alone leaves processors
    idle wherever JAX and Torch take turns or an operation has one thread. A TPU takes one process:
    there they climb one after the other.
    Raises Refused if that process is killed, or for a level that there isn't.
    """
    start = time.perf_counter()
    check_levels(config.levels)
    dataset = fashion_mnist.load(config.data)
    data = "sample" if dataset.is_sample else config.data
    about = environment() | {"data": f"Fashion-MNIST, {dataset.source}", "command": command()}
    about |= {"activation": config.activation, "sigma": config.sigma}
    names: list[str] = ["scratch", "mlp"] if config.model == "both" else [config.model]
    with ExitStack() as stack:
        first, *second = tells = [told(log, name, stack) for name in names]
        if not second or _on_tpu(config.device):
            found: list[Climbed] = []
            for tell, name in zip(tells, names, strict=True):
                stopped = any(interrupted for _, interrupted in found)
                found.append(_none(name) if stopped else climbed(tell, config, data, name))
        else:
            work = f"{__name__}:beside"
            child = stack.enter_context(Child(work, config, data, names[1], on_told=second[0]))
            stack.enter_context(torch_threads())

            def watching(what: str, value: Any) -> None:
                first(what, value)
                child.check()

            try:
                own = climbed(watching, config, data, names[0])
                found = [own, _result(child, names[1], interrupted=own[1])]
            except ChildDied as error:
                raise Refused(f"{names[1]}: {error}") from None
    verdicts, interrupted = zip(*found, strict=True)
    if any(interrupted) and log.is_terminal:
        log.print()  # below the lines of progress
    return Report(verdicts, about, time.perf_counter() - start, any(interrupted))


def climbed(tell: Tell, config: CheckConfig, data: str | None, name: str) -> Climbed:
    """Check one pair. tell: of each level ("start", its name), and ("result", what it found)."""
    options: dict[str, Any] = {"activation": config.activation, "sigma": config.sigma}
    return climbing(
        tell,
        name,
        *book_pair(name, config.hiddens, config.lr, config.seed, **options),
        data=data,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        initial=book_models(name, config.hiddens, config.lr, **options)[::-1],
        certify=config.certify,
        device=config.device,
        kernel=config.kernel,
        images=config.images,
        levels=config.levels or LEVELS,
        checkpoint=config.checkpoint and config.checkpoint / name,
        resume=config.resume,
    )


def climbing(tell: Tell, pair: str, one: Any, other: Any, **options: Any) -> Climbed:
    """`check`, told of as it goes. Ctrl-C keeps the results so far."""
    done: list[Result] = []

    def on_result(result: Result) -> None:
        done.append(result)
        tell("result", result)

    def on_start(what: str) -> None:
        tell("start", what)

    try:
        found = check(one, other, pair=pair, on_start=on_start, on_result=on_result, **options)
        return found, False
    except KeyboardInterrupt as stop:
        steps = stop.found if isinstance(stop, Interrupted) else None  # those certified so far
        return Verdict(pair, tuple(done), {}, {}, trajectory=steps), True


def beside(tell: Tell, config: CheckConfig, data: str | None, name: str) -> Climbed:
    """`climbed`, in the other process."""
    with torch_threads():
        return climbed(tell, config, data, name)


def _result(child: Child, name: str, interrupted: bool) -> Climbed:
    try:
        return child.result(interrupted)
    except KeyboardInterrupt:  # before it had begun
        return _none(name)


def _none(name: str) -> Climbed:
    """Of a pair that Ctrl-C came before."""
    return Verdict(name, (), {}, {}), True


def _on_tpu(device: Device | None) -> bool:
    return device == "tpu" or device is None and default_device().platform == "tpu"


def check_levels(names: Sequence[str]) -> None:
    """Raises Refused."""
    try:
        named(names or LEVELS)
    except ValueError as error:
        raise Refused(f"--{error}") from None


def told(log: Console, pair: str, stack: ExitStack) -> Callable[[str, Any], None]:
    """A pair's line of progress, and a line that stays for each result, on a terminal."""
    status = progress_bar(0, "", bar_format="{desc}")
    stack.callback(status.close)

    def tell(what: str, value: Any) -> None:
        if what == "start":
            status.set_description_str(f"{pair}: {value} ...")
        elif log.is_terminal:
            found = f"{cells(value)[0]} ({value.seconds:.1f} s)"
            with log.capture() as line:
                text = f"{pair:8}{value.level.name:11}{value.precision:9}{found}"
                log.print(text, highlight=False)
            tqdm.write(line.get(), file=log.file, end="")

    return tell
