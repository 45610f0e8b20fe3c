"""The main job: the pairs that a configuration names, checked side by side."""

import time
from contextlib import nullcontext
from functools import partial
from typing import Any

from rich.console import Console
from tqdm import tqdm

from mlp_core import fashion_mnist
from mlp_core.shell import progress_bar
from parity.checking import Verdict, check
from parity.config import CheckConfig
from parity.interrupted import Interrupted
from parity.levels.level import Result
from parity.report.environment import command, environment
from parity.report.report import Report, cells
from parity.sides.pairs import book_pair, torch_threads
from parity.studies.side_by_side import side_by_side


def run(config: CheckConfig, log: Console) -> Report:
    """Check the pairs that the configuration names. Ctrl-C keeps the results so far.

    Two pairs climb at once, for one alone leaves processors idle wherever JAX and Torch take turns
    or an operation has one thread: some 150 s instead of 200 on two cores.
    """
    start = time.perf_counter()
    dataset = fashion_mnist.load(config.data)
    options: dict[str, Any] = {"activation": config.activation, "sigma": config.sigma}
    about = environment() | {"data": f"Fashion-MNIST, {dataset.source}", "command": command()}
    names = ("scratch", "mlp") if config.model == "both" else (config.model,)
    # Made one after the other: they draw from the frameworks' global random streams.
    models = {
        name: book_pair(name, config.hiddens, config.lr, config.seed, **options) for name in names
    }

    def climbed(name: str) -> tuple[Verdict, bool]:
        done: list[Result] = []
        status = progress_bar(0, "", bar_format="{desc}")
        try:
            verdict = check(
                *models[name],
                data="sample" if dataset.is_sample else config.data,
                epochs=config.epochs,
                batch_size=config.batch_size,
                seed=config.seed,
                certify=config.certify,
                pair=name,
                on_start=lambda what: status.set_description_str(f"{name}: {what} ..."),
                on_result=partial(_tell, log, name, done),
            )
            return verdict, False
        except KeyboardInterrupt as stop:
            steps = stop.found if isinstance(stop, Interrupted) else None  # those certified so far
            return Verdict(name, tuple(done), {}, {}, trajectory=steps), True
        finally:
            status.close()

    with torch_threads() if len(names) > 1 else nullcontext():
        verdicts, interrupted = zip(*side_by_side(climbed, names), strict=True)
    if any(interrupted) and log.is_terminal:
        log.print()  # below the lines of progress
    return Report(verdicts, about | options, time.perf_counter() - start, any(interrupted))


def _tell(log: Console, pair: str, done: list[Result], result: Result) -> None:
    done.append(result)
    if log.is_terminal:
        found = f"{cells(result)[0]} ({result.seconds:.1f} s)"
        with log.capture() as line:
            log.print(f"{pair:8}{result.level.name:11}{result.precision:9}{found}", highlight=False)
        tqdm.write(line.get(), file=log.file, end="")
