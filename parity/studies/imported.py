"""Objects of a user's own that a command line names as module:name."""

import contextlib
import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.exits import Refused
from parity.sides.jax_models import as_module
from parity.sides.pairs import TorchSide, arguments_needed, made
from parity.sides.usable import as_arrays

HOUSE = Path(__file__).parents[2]
TORCH = "a torch.nn.Module, or a class or a function without arguments that makes one"


@contextlib.contextmanager
def importable(folder: Path | None = None) -> Iterator[None]:
    """Modules of the current folder can be imported, as `python -m` would."""
    place = str(folder or Path.cwd())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(place)


def found(option: str, name: str, expected: str) -> Any:
    """The object module:name. Raises Refused, with the option and what was expected of it."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise _refused(option, name, "is not of the form module:name", expected)
    if module_name.endswith(".py") or "/" in module_name:
        module = ".".join(Path(module_name).with_suffix("").parts).strip("./")
        raise _refused(option, name, "names a file", f"its module, {module}:{path}")
    try:
        item = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise _refused(option, name, f"importing it failed: {_said(error)}") from None
        what = f"there is no module '{error.name}' in {Path.cwd()}, and none is installed"
        raise _refused(option, name, what, expected) from None
    except (Exception, SystemExit) as error:
        raise _failed(option, name, "importing it", error) from None
    for part in path.split("."):
        if not hasattr(item, part):
            there = [word for word in dir(item) if not word.startswith("_")]
            near = difflib.get_close_matches(part, there) or there[:8]
            where = getattr(item, "__name__", type(item).__name__)
            what = f"{where} has no '{part}'; it has {', '.join(near) or 'nothing'}"
            raise _refused(option, name, what, expected)
        item = getattr(item, part)
    return item


def is_maker(item: Any) -> bool:
    """Whether it is called to make what is meant: a class or a function, but no model."""
    return inspect.isclass(item) or inspect.isroutine(item)


def needs_rngs(maker: Any) -> bool:
    """Whether it is one of NNX's that asks for its random keys."""
    return "rngs" in arguments_needed(maker)


def called(option: str, name: str, item: Any, seed: int) -> Any:
    """What a class or function makes, or the object itself. Raises Refused."""
    if not is_maker(item):
        return item
    try:
        return made(item, seed)
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and str(error).startswith("it needs "):
            raise _refused(option, name, str(error)) from None
        raise _failed(option, name, "calling it", error) from None


def torch_model(name: str, seed: int) -> Any:
    """Raises Refused."""
    model = called("--torch", name, found("--torch", name, TORCH), seed)
    if not TorchSide.takes(model):
        raise _refused("--torch", name, f"is a {_kind(model)}", TORCH)
    return model


def jax_model(name: str, seed: int) -> Any:
    """Raises Refused."""
    expected = "a JAX model, or a class or a function without arguments that makes one"
    model = called("--jax", name, found("--jax", name, expected), seed)
    try:
        as_module(model)
    except TypeError as error:
        raise Refused(f"--jax {name}: {str(error).removeprefix('jax: ')}") from None
    return model


def data(name: str, seed: int) -> Any:
    """Raises Refused."""
    expected = "(inputs, targets), or a function without arguments that returns them"
    parts = called("--data", name, found("--data", name, expected), seed)
    if not isinstance(parts, (tuple, list)):
        raise _refused("--data", name, f"is a {_kind(parts)}", expected)
    try:
        return as_arrays(parts)
    except ValueError as error:
        raise Refused(f"--data {name}: {str(error).removeprefix('data: ')}") from None


def weights(name: str | None, seed: int) -> Any:
    """A table, a function of Torch's arrays, "guess" or None. Raises Refused."""
    if name in (None, "guess"):
        return name
    expected = '"guess", a table {JAX path: Torch name}, or a function of Torch\'s arrays'
    item = found("--weights", name, expected)
    if inspect.isroutine(item) and arguments_needed(item):
        return item
    table = called("--weights", name, item, seed)
    if not (isinstance(table, dict) or callable(table)):
        raise _refused("--weights", name, f"is a {_kind(table)}", expected)
    return table


def pair_of(option: str, name: str | None, expected: str, seed: int) -> Any:
    """A pair of functions; of a loss, its name as well. Raises Refused."""
    if name is None or (option == "--loss" and ":" not in name):
        return name
    item = called(option, name, found(option, name, expected), seed)
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise _refused(option, name, f"is a {_kind(item)}", expected)
    return tuple(item)


def _refused(option: str, name: str, what: str, expected: str = "") -> Refused:
    return Refused(f"{option} {name}: {what}" + (f"; expected {expected}" if expected else ""))


def _failed(option: str, name: str, doing: str, error: BaseException) -> Refused:
    return _refused(option, name, f"{doing} failed: {_said(error)}")


def _kind(item: Any) -> str:
    return f"{type(item).__module__}.{type(item).__name__}".removeprefix("builtins.")


def _said(error: BaseException) -> str:
    """An error in one line, with the last line of the user's own that led to it."""
    said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if isinstance(error, SyntaxError):
        return said  # which names its file and line
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if os.path.exists(f.filename) and not _foreign(f.filename)]
    return f"{said}, at {os.path.relpath(own[-1].filename)}:{own[-1].lineno}" if own else said


def _foreign(file: str) -> bool:
    path = Path(file)
    standard = Path(contextlib.__file__).parent
    ours = path.is_relative_to(HOUSE / "parity")
    return ours or path.is_relative_to(standard) or "site-packages" in path.parts
