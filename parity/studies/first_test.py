"""`mlp-parity init`: a parity test for two models, with the guessed weights in it, ready to run."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.config.init import InitConfig
from parity.exits import Refused
from parity.problem import Problem, own_method
from parity.sides.asked import asked
from parity.sides.pairs import JaxSide, TorchSide, guess_of
from parity.sides.torch_layers import shapes_taken
from parity.studies import imported

EXAMPLES, BATCH, SEED = 96, 32, 0


@dataclass(frozen=True)
class Data:
    """Arrays that both models take, and the lines of a test that make them."""

    arrays: Any
    lines: tuple[str, ...]
    loss: str | None
    imports: tuple[str, ...] = ()
    given: str = "(X, y)"


def written(config: InitConfig) -> str:
    """The test file. Raises Refused for what can't be imported, made, fed or paired."""
    with imported.importable():
        theirs = imported.torch_model(config.torch, SEED)
        ours = imported.jax_model(config.jax, SEED)
        data = _imported(config.data) if config.data else _invented(theirs, ours)
        try:
            problem = asked(ours, theirs, data.arrays, weights="guess", loss=data.loss)
            table = guess_of(problem).text
            random = _is_random(problem)
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from None
        names = _names(config)
        calls = [_call(name, option, shown) for (option, name), shown in names.items()]
    options = [f'loss="{data.loss}"'] if data.loss else []
    options += ['mode="eval"'] if random else []
    options += ["weights=weights" if table.startswith("def ") else "weights=WEIGHTS"]
    options += ["epochs=1", f"batch_size={BATCH}"]
    needs_rngs = any("nnx.Rngs" in call for call in calls)
    lines = [
        f'"""Is {config.jax} the same model as {config.torch}? Written by `mlp-parity init`."""',
        "",
        *(["import numpy as np"] if any("np." in line for line in data.lines) else []),
        "import torch",
        *(["from flax import nnx"] if needs_rngs else []),
        "",
        *_joined({*map(_import, names, names.values()), *data.imports}),
        "",
        table if table.startswith("def ") else f"WEIGHTS = {table}",
        "",
        "",
        f"def test_{_word(config.jax)}_is_{_word(config.torch)}(parity):",
        *(f"    {line}" for line in data.lines),
        "    torch.manual_seed(0)",
        "    parity(",
        *(f"        {argument}," for argument in (*calls, data.given, *options)),
        "    )",
    ]
    return "\n".join(lines) + "\n"


def _invented(theirs: Any, ours: Any) -> Data:
    """Random inputs of a shape that both models take, and targets for what comes out."""
    tried = []
    for shape, indices in shapes_taken(theirs):
        rng = np.random.default_rng(0)
        size = (EXAMPLES, *shape)
        if indices is None:
            X = rng.normal(size=size).astype("float32")
            made = f'X = rng.normal(size={size}).astype("float32")'
        else:
            X = rng.integers(0, indices, size).astype("int32")
            made = f'X = rng.integers(0, {indices}, {size}).astype("int32")'
        tried.append(str(size))
        try:
            problem = asked(ours, theirs, (X, None))
            sides = TorchSide(theirs, problem.examples), JaxSide(ours, problem.examples)
            outputs, others = (side.forward(X) for side in sides)
        except ValueError:  # not this one
            continue
        shapes = [array.shape for array in outputs.values()]
        if shapes == [array.shape for array in others.values()]:
            lines, y, loss = _targets(rng, shapes, own_method(theirs, "loss") is not None)
            first = "rng = np.random.default_rng(0)"
            return Data((X, y), (first, made, lines), loss)
    told = f"tried inputs of the shapes {', '.join(tried)}" if tried else "no first layer was found"
    raise Refused(
        f"no inputs were found that both models take, to outputs of one shape ({told}); "
        "name data with --data module:name, as (inputs, targets)"
    )


def _targets(
    rng: np.random.Generator, shapes: list[tuple[int, ...]], own_loss: bool
) -> tuple[str, Any, str | None]:
    """(line, targets, loss): classes for the last axis of outputs; numbers for a single one."""
    if len(shapes) != 1:
        return (
            "y = None  # several outputs: to compare training, give targets and loss=",
            None,
            None,
        )
    if len(shape := shapes[0]) > 1 and shape[-1] > 1:
        size = shape[:-1] if len(shape) > 2 else shape[0]
        line = f'y = rng.integers(0, {shape[-1]}, {size}).astype("int32")'
        y = rng.integers(0, shape[-1], size).astype("int32")
        return line, y, None if own_loss else "cross_entropy"
    line = f'y = rng.normal(size={shape}).astype("float32")'
    return line, rng.normal(size=shape).astype("float32"), None if own_loss else "mse"


def _imported(name: str) -> Data:
    arrays = imported.data(name, SEED)
    target = arrays[1]
    whole = isinstance(target, np.ndarray) and target.dtype.kind in "iu"
    loss = None if target is None else "cross_entropy" if whole else "mse"
    shown = name.partition(":")[2]
    line = _import(("data", name), shown)
    return Data(arrays, (), loss, (line,), _call(name, "data", shown))


def _is_random(problem: Problem) -> bool:
    """Whether dropout makes the models no functions of their inputs, in training mode."""
    arrays = problem.examples.arrays
    inputs = arrays[0] if arrays else None
    sides = TorchSide(problem.torch, problem.examples), JaxSide(problem.jax, problem.examples)
    return any(side.is_random(inputs) for side in sides)


def _names(config: InitConfig) -> dict[tuple[str, str], str]:
    """{(option, module:name): what the test calls it}."""
    given = {("torch", config.torch), ("jax", config.jax)}
    shown = {key: key[1].partition(":")[2] for key in sorted(given, reverse=True)}
    if len(set(shown.values())) < len(shown):
        shown = {key: f"{key[0]}_{name}" for key, name in shown.items()}
    return shown


def _import(key: tuple[str, str], shown: str) -> str:
    module, _, path = key[1].partition(":")
    first = path.partition(".")[0]
    alias = shown.partition(".")[0]
    return f"from {module} import {first}" + (f" as {alias}" if alias != first else "")


def _joined(imports: set[str]) -> list[str]:
    """Of one module in one line."""
    found: dict[str, list[str]] = {}
    for line in sorted(imports):
        module, _, item = line.partition(" import ")
        found.setdefault(module, []).append(item)
    return [f"{module} import {', '.join(items)}" for module, items in found.items()]


def _call(name: str, option: str, shown: str) -> str:
    """The expression that makes what a command line names."""
    item = imported.found(f"--{option}", name, "")
    if not imported.is_maker(item):
        return shown
    return f"{shown}(rngs=nnx.Rngs(0))" if imported.needs_rngs(item) else f"{shown}()"


def _word(name: str) -> str:
    """As a function is called: Ours and OurMLP become ours and our_mlp."""
    last = name.replace(":", ".").rpartition(".")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", last).lower().strip("_")
