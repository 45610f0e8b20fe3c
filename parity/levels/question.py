"""What a verdict depends on, as JSON: what must be the same when a check goes on after a kill."""

import hashlib
import re
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlp_core import fashion_mnist
from mlp_core.checkpoint import CheckpointError
from mlp_core.files import plain
from mlp_core.resuming import fingerprint
from parity.environment import environment
from parity.levels.level import Level
from parity.levels.pair import Pair
from parity.problem import Examples, Problem
from parity.trees import leaves

Facts = dict[str, Any]
OURS = ("mlp_core", "jax_mlp", "torch_mlp", "parity")
INSTALLED = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("purelib", "platlib"))
STANDARD = str(Path(sysconfig.get_path("stdlib")).resolve())


def question(problem: Problem, pair: Pair, levels: Sequence[Level]) -> Facts:
    """Configuration, models, data, versions, hardware, code.

    Of the models: weights and statistics, JAX's step as it is traced, Torch's layers with their
    numbers and its optimiser's. Of the code: a SHA-256 for each file of the user's that is
    imported, and one for all of ours. Raises CheckpointError for a model that lies in no file,
    whose code nothing tells.
    """
    training, examples = problem.training, problem.examples
    _check_has_files(problem)
    about = environment()
    alone = pair.infer or pair.outputs_alone
    facts = {
        "levels": [[level.name, list(level.precisions)] for level in levels],
        "epochs": problem.epochs,
        "batch_size": examples.batch_size,
        "seed": examples.seed,
        "certify": problem.certify,
        "device": problem.device,
        "mode": training.mode,
        "loss": training.loss,
        "optimizer": training.optimizer,
        "lr": training.lr,
        "accumulate": training.accumulate,
        "gradient": training.gradient,
        "kernel": training.kernel,
        "images": training.images,
        "initial": problem.initial,
        "weights": problem.weights,
        "state": problem.state,
        "known": list(map(list, problem.known)),
        "parameters": fingerprint(pair.params[name] for name in sorted(pair.params)),
        "statistics": fingerprint(pair.state[name] for name in sorted(pair.state)),
        "data": _data(examples),
        "versions": about["versions"],
        "hardware": about["hardware"],
    }
    for s, side in pair.sides("float32").items():
        text = re.sub(r"\b0x[0-9a-f]+", "", side.program(alone))  # where objects lie in memory
        facts[f"{s}: program"] = hashlib.sha256(text.encode()).hexdigest()[:16]
        facts[f"{s}: about"] = side.about()
    return plain(facts, other=_named) | {"code": code()}


def code() -> dict[str, str]:
    """{module: SHA-256 of its file} of all that is imported and isn't installed; ours as one."""
    found = {"mlp-parity": _ours()}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in OURS or not isinstance(file, str):
            continue
        path = Path(file).resolve()
        elsewhere = any(path.is_relative_to(place) for place in INSTALLED)
        if elsewhere or path.is_relative_to(STANDARD) or path.suffix != ".py":
            continue
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


@cache
def _ours() -> str:
    total, house = hashlib.sha256(), Path(__file__).parents[2]
    for package in OURS:
        for path in sorted((house / package).rglob("*.py")):
            total.update(f"{path.relative_to(house)} {path.stat().st_size}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()


def _data(examples: Examples) -> str:
    parts = examples.arrays
    if parts is None:
        return fingerprint(fashion_mnist.load(examples.source).arrays)
    named = (leaves(part, str(i)) for i, part in enumerate(parts) if part is not None)
    return fingerprint(np.asarray(array) for tree in named for array in tree.values())


def _named(value: Any) -> Any:
    """A function by its name, anything else by its type: what it does is in code and programs."""
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _check_has_files(problem: Problem) -> None:
    """Raises CheckpointError."""
    training = problem.training
    given: list[Any] = [problem.torch, problem.jax, problem.weights, training.gradient]
    for pair in (training.loss, training.optimizer, problem.initial):
        given += pair if isinstance(pair, tuple) else ()
    given += problem.jax if isinstance(problem.jax, tuple) else ()
    for value in given:
        if value is None or isinstance(value, (str, Mapping)):
            continue
        named = isinstance(getattr(value, "__qualname__", None), str)
        module = sys.modules.get(value.__module__ if named else type(value).__module__)
        if module is sys.modules.get("__main__") and not getattr(module, "__file__", None):
            raise CheckpointError(
                f"checkpoint: {_named(value)} lies in no file, so that a change of it can't be "
                "seen when the check goes on: move it into a module, or check without checkpoint"
            )
