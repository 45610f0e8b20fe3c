"""Everything that a user imports has an example in its docstring, which runs as it stands."""

import doctest
import importlib
import inspect
import sys

import pytest

ALSO = {
    "mlp_core.extras": ("advice", "needs"),
    "mlp_core.fashion_mnist": ("check_labels", "load"),
    "mlp_core.schedule": ("Schedule",),
    "mlp_core.shell": ("summary",),
    "mlp_core.weights": ("Weights",),
}


def exported():
    """(what users call it, the object) of all functions and classes."""
    for package in ("parity", "jax_mlp", "torch_mlp"):
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            ours = getattr(thing, "__module__", "").partition(".")[0]
            if callable(thing) and ours in ("parity", "jax_mlp", "torch_mlp", "mlp_core"):
                yield f"{package}.{name}", thing
    for home, names in ALSO.items():
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
