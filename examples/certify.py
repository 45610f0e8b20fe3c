"""Certify the ports of this folder: `python examples/certify.py gpt2`.

    --full       the size that the model is published in, as far as 24 GiB go, with peak memory
    --errors     plant each of the port's errors instead, and print the line that is named

An example is a module: `torch_model(full)`, `jax_model(full)`, `data(full)`, `weights` and OPTIONS
are what `parity.check` takes; ERRORS are {what is wrong: (text of the port, text in its place)}.
"""

import argparse
import gc
import importlib
import importlib.util
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from parity import LEVELS, Level, check
from parity.levels.ladder import named
from parity.levels.verdict import Verdict

HERE = Path(__file__).parent
EXAMPLES = ("gpt2", "resnet18", "vit", "llama", "bert")
OF_ONE_BATCH = ("inputs", "weights", "logits", "loss", "gradients", "step", "state")
TO_GRADIENTS = OF_ONE_BATCH[:5]
PRECISIONS = "float64", "float32"
MANY = 50_000_000  # parameters, above which a step by Adam, bounded in float64, is left out


def example(name: str) -> ModuleType:
    """The module of an example. Raises ImportError where its library isn't installed."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    return importlib.import_module(name)


def certified(example: ModuleType, full: bool = False, **options: Any) -> Verdict:
    """The verdict on a port, with random weights."""
    asked = {"epochs": 2, "batch_size": 8, **example.OPTIONS, **options}
    return check(drawn(example, full), example.jax_model(full), example.data(full), **asked)


def drawn(example: ModuleType, full: bool) -> torch.nn.Module:
    """The library's model as the library draws it, but for vectors and what is all one number: a
    bias of 0 or a scale of 1 that a port leaves out would not be missed, and behind a head of 0, as
    torchvision's ViT starts with, nothing would."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = example.torch_model(full)
        for numbers in (*model.parameters(), *model.buffers()):
            if numbers.is_floating_point() and (numbers.ndim == 1 or numbers.unique().numel() == 1):
                numbers.add_(0.2 * torch.rand(numbers.shape) - 0.1)
    return model


@contextmanager
def planted(example: ModuleType, error: str) -> Iterator[tuple[ModuleType, int]]:
    """The example with one of its errors in it, and the number of the line that has it."""
    right, wrong = example.ERRORS[error]
    source = Path(str(example.__file__)).read_text()
    port, errors, rest = source.partition("ERRORS = {")
    if port.count(right) != 1:
        raise ValueError(f"{example.__name__}: '{right}' is there {port.count(right)} times")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{example.__name__}_wrong.py")
        file.write_text(port.replace(right, wrong) + errors + rest)
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module, port[: port.index(right)].count("\n") + 1


def named_line(verdict: Verdict) -> int | None:
    """The line of the port that the verdict names first as that where the codes part."""
    parting = verdict.parting
    if not (parting and parting.jax and parting.jax[0].line):
        return None
    return int(parting.jax[0].line.partition(":")[2].split()[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help=", ".join(EXAMPLES))
    parser.add_argument("--full", action="store_true", help="the published size, to one step")
    parser.add_argument("--errors", action="store_true", help="plant the errors")
    args = parser.parse_args()
    failed = False
    for name in args.examples or EXAMPLES:
        module = example(name)
        if args.errors:
            failed |= not all([found(module, error) for error in module.ERRORS])
            continue
        # One precision at a time: the numbers of both, and their bounds, are too many at once.
        for levels in [at(p, module) for p in PRECISIONS] if args.full else [LEVELS]:
            start = time.perf_counter(), time.process_time()
            verdict = certified(module, args.full, levels=levels, on_result=said)
            seconds, worked = time.perf_counter() - start[0], time.process_time() - start[1]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{verdict}\n{name}: {verdict.word}, {seconds:.0f} s ({worked:.0f} s of "
                  f"processor time), {peak:.1f} GiB at the peak", flush=True)  # fmt: skip
            failed |= not verdict.ok
            del verdict
            gc.collect()  # what a check keeps is in circles
    return int(failed)


def at(precision: str, example: ModuleType) -> list[Level]:
    """The levels of one batch, at one precision."""
    levels = named(TO_GRADIENTS if large(example) else OF_ONE_BATCH)
    return [
        level if level.precisions == ("bits",) else replace(level, precisions=(precision,))
        for level in levels
    ]


def large(example: ModuleType) -> bool:
    """Whether the published model is too large for a whole step."""
    with torch.device("meta"):
        return sum(p.numel() for p in example.torch_model(True).parameters()) > MANY


def said(result: Any) -> None:
    """A level as it ends; the note tells what was judged without a bound."""
    seconds, level = f"{result.seconds:6.1f} s", f"{result.level.name} {result.precision}"
    print(f"  {seconds}  {level:<18} {result.note[:90]}", flush=True)


def found(module: ModuleType, error: str) -> bool:
    """Whether the line of a planted error is named; prints what is."""
    with planted(module, error) as (wrong, line):
        verdict = certified(wrong, levels=("logits",))
        verdict = verdict if not verdict.ok else certified(wrong, levels=OF_ONE_BATCH)
        right = named_line(verdict) == line
        print(f"{module.__name__}, line {line}, {error}: {'found' if right else 'NOT FOUND'}")
        if not right:
            print(verdict)
    return right


if __name__ == "__main__":
    sys.exit(main())
