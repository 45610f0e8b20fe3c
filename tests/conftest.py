"""What all tests share: no window, no cache but a temporary one, reasons for what is skipped."""

import functools
import gc
import importlib.util
import os
import signal
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from hypothesis import settings

# Before anything imports torch: its threads spin while they wait for each other, which on cores
# that are shared with other work takes ten times as long as the computation.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["MPLBACKEND"] = "Agg"  # child processes inherit both

# A first example may compile, and other work may share the processor: no time limit an example.
settings.register_profile("mlp-parity", deadline=None)
settings.load_profile("mlp-parity")

# A shell starts what is put into the background with Ctrl-C ignored, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

FULL_DATA = pytest.StashKey[Path | None]()


def full_data_folder():
    """Where the real Fashion-MNIST lies on this machine, or None; nothing is fetched or copied."""
    from mlp_core import cache
    from mlp_core.fashion_mnist import DEFAULT, FULL
    from mlp_core.pinned import LAYOUT

    named = os.environ.get("FASHION_MNIST_DIR")
    places = [Path(named).expanduser()] if named else [DEFAULT.system, cache.folder() / FULL.name]
    for place in places:
        files = [
            [place / folder / (file.name + end) for folder in (LAYOUT, "") for end in ("", ".gz")]
            for file in FULL.files
        ]
        if all(any(map(os.path.isfile, candidates)) for candidates in files):
            return place
    return None


class Unchecked(PathFinder):
    """Rounding's rules define functions whenever they run; to check the types of each anew takes
    ten times as long as the bound. So those modules, except for what users call, go unchecked."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        ours = name.startswith("parity.rounding.") and not name.endswith(".bound")
        return super().find_spec(name, path, target) if ours else None


sys.meta_path.insert(0, Unchecked)  # before the hook that checks types


def pytest_sessionstart(session):
    # Before `own_cache` hides the user's cache; a child process finds the data by the name.
    session.config.stash[FULL_DATA] = folder = full_data_folder()
    if folder is not None:
        os.environ.setdefault("FASHION_MNIST_DIR", str(folder))


@pytest.fixture(scope="session")
def exact_activation():
    """(name, points) -> value and derivative at each point, to float64; ReLU's at 0 is NaN."""
    import mpmath
    import numpy as np

    half = mpmath.mpf(1) / 2
    formulas = {
        "relu": lambda x: max(x, 0),
        "tanh": mpmath.tanh,
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "gelu": lambda x: x * half * (1 + mpmath.erf(x / mpmath.sqrt(2))),
        "gelu_tanh": lambda x: x * half * (
            1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))
        ),
    }  # fmt: skip

    def exact(name, points):
        f = formulas[name]
        with mpmath.workprec(200):
            pairs = [
                (f(mpmath.mpf(x)), mpmath.diff(f, mpmath.mpf(x)) if x or name != "relu" else "nan")
                for x in map(float, points)
            ]
            return np.array([[float(number) for number in pair] for pair in pairs]).T

    return exact


@functools.cache
def without_device(framework):
    """Why `framework` has no GPU or TPU here, or None."""
    if importlib.util.find_spec(framework) is None:
        return f"{framework} is not installed"
    if framework == "torch":
        import torch

        return None if torch.cuda.is_available() else "Torch finds no GPU"
    import jax

    return "JAX finds no GPU or TPU" if jax.default_backend() == "cpu" else None


def pytest_runtest_setup(item):
    if item.get_closest_marker("full_data") and item.config.stash[FULL_DATA] is None:
        pytest.skip(
            "needs the real Fashion-MNIST: install Debian's dataset-fashion-mnist, "
            "or name its folder in $FASHION_MNIST_DIR"
        )
    if marker := item.get_closest_marker("accelerator"):  # of the frameworks it names, or of both
        reasons = [without_device(framework) for framework in marker.args or ("jax", "torch")]
        if any(reasons):
            pytest.skip("needs a GPU or a TPU: " + ", ".join(filter(None, reasons)))


@pytest.fixture(scope="session")
def full_data(pytestconfig):
    """The folder of the real Fashion-MNIST, for tests marked full_data."""
    return pytestconfig.stash[FULL_DATA]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """A cache for the whole session that isn't the user's."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("MLP_PARITY_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def programs_forgotten():
    """Compiled programs go with the file that needed them: each takes a dozen memory maps, Linux
    allows a process 65,530, and one more is a segmentation fault."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def no_folder(tmp_path, monkeypatch):
    """Where jax_mlp.programs would keep what is compiled, of a JAX that has no folder for it."""
    import jax

    from jax_mlp.programs import FOLDER, SECONDS

    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in (FOLDER, SECONDS)}
    for name, value in ((FOLDER, None), (SECONDS, 1.0)):
        jax.config.update(name, value)
    yield tmp_path / "xla"
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def once():
    """A loader that says it has two batches, and can be iterated over only once."""

    class Once:
        def __init__(self, batches):
            self.left = batches

        def __iter__(self):
            while self.left:
                yield self.left.pop()

        def __len__(self):
            return 2

    return Once
