"""Everything that a user imports has an example in its docstring, which runs as it stands."""

import ast
import doctest
import importlib
import inspect
import sys
from pathlib import Path

import pytest

PACKAGES = "parity", "jax_mlp", "torch_mlp", "mlp_core"
CLASSES = {"mlp_core.schedule": ("Schedule",), "mlp_core.weights": ("Weights",)}
CLASSES |= {"mlp_core.extras": ("advice", "needs")}


def on_the_site():
    """The modules whose functions the reference shows, besides what packages export."""
    site = Path(__file__).parents[1] / "scripts" / "site_pages.py"
    for node in ast.parse(site.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ALSO":
            return [name for names in ast.literal_eval(node.value).values() for name in names]


def exported():
    """(what users call it, the object) of all functions, and of classes but exceptions and data."""
    for package in PACKAGES[:3]:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and getattr(thing, "__module__", "").split(".")[0] in PACKAGES:
                yield f"{package}.{name}", thing
    for home in on_the_site():
        for name, thing in vars(importlib.import_module(home)).items():
            own = getattr(thing, "__module__", "") == home and not name.startswith("_")
            if own and callable(thing) and not inspect.isclass(thing):
                yield f"{home}.{name}", thing
    for home, names in CLASSES.items():
        for name in names:
            yield f"{home}.{name}", getattr(importlib.import_module(home), name)


THINGS = dict(exported())
COMPILE = ("jax_mlp.Sweep", "jax_mlp.Trainer")  # whole epochs
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n in COMPILE)) for n in THINGS]


@pytest.fixture(scope="module")
def shared():
    """What the package's own docstring defines for the examples below it."""
    import parity

    given = {}
    assert run("parity", parity.__doc__, given) == 0
    return given


def run(name, text, given):
    """How many of the examples failed; `given` gets what they define."""
    test = doctest.DocTestParser().get_doctest(text, given, name, name, 0)
    assert test.examples, f"{name}: no example in its docstring"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    found = runner.run(test, clear_globs=False)
    given.update(test.globs)
    return found.failed


@pytest.mark.parametrize("name", NAMES)
def test_an_example_gives_what_it_says(name, request, capsys):
    thing = THINGS[name]
    given = dict(vars(sys.modules[thing.__module__]))
    if thing.__module__.startswith("parity."):
        given |= request.getfixturevalue("shared")
    failed = run(name, inspect.getdoc(thing) or "", given)
    assert not failed, capsys.readouterr().out


def test_an_example_that_says_something_else_fails(capsys):
    assert run("wrong", ">>> 1 + 1\n3\n", {}) == 1


def test_what_the_site_shows_is_asked_too():
    assert {"jax_mlp.scratch.step", "torch_mlp.checkpoint.load", "parity.check"} <= THINGS.keys()
