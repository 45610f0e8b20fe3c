"""pytest's door: the fixture `parity`, its marker, one page over a run's pairs, and its cost.

pytest imports this file whenever it starts, so frameworks are imported by the first test that
compares. Under xdist workers write their verdicts into a folder of the run's own, and the
controller joins them.
"""

import pickle
import shlex
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from parity.device import NAMES, DeviceMissing

MARKER = "parity(levels=..., device=...): what the fixture `parity` asks in this test, and where"
SLOWEST = 3  # named in the summary
OURS = {"mlp_core", "jax_mlp", "torch_mlp", "parity"}
# Whose frames may lie above a line of the user's; the last two check types, where that is asked.
BETWEEN = OURS | {"contextlib", "functools", "jax", "jaxlib", "flax", "equinox", "torch"}
BETWEEN |= {"jaxtyping", "beartype"}
PARTS = "parity_parts"  # the key of a worker's input
KEY = "parity"  # of what a test's report says of its pairs

START = pytest.StashKey[float]()
FOLDER = pytest.StashKey[Path]()  # of the page
PARTS_FOLDER = pytest.StashKey[Path]()
PAGE = pytest.StashKey[str]()  # what is said of it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("parity").addoption(
        "--parity-report",
        metavar="DIR",
        help="write one page over all pairs that the fixture `parity` compares into this folder",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    config.stash[START] = time.perf_counter()
    if (given := getattr(config, "workerinput", {}).get(PARTS)) is not None:
        config.stash[PARTS_FOLDER] = Path(given)
    elif (name := config.getoption("--parity-report")) and not hasattr(config, "workerinput"):
        from parity.exits import Refused, folder

        try:
            config.stash[FOLDER] = place = folder(Path(name).absolute(), "--parity-report")
        except Refused as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[PARTS_FOLDER] = Path(tempfile.mkdtemp(prefix=".parts-", dir=place))


def pytest_unconfigure(config: pytest.Config) -> None:
    if FOLDER in config.stash:
        shutil.rmtree(config.stash[PARTS_FOLDER], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's, on the controller: tells a worker where its part goes."""
    if PARTS_FOLDER in node.config.stash:
        node.workerinput[PARTS] = str(node.config.stash[PARTS_FOLDER])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marker that asks for what there isn't, or of a test that compares nothing, fails it."""
    if item.get_closest_marker("parity") is None:
        return
    if "parity" not in getattr(item, "fixturenames", ()):
        pytest.fail("parity: the test is marked, and doesn't take the fixture `parity`", False)
    refusal = ""
    try:
        _asked(item)
    except ValueError as error:
        refusal = str(error)
    if refusal:
        pytest.fail(refusal, False)


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """parity(torch_model, jax_model, data, ...): assert that both are the same model.

    Takes what parity.check takes, and returns its Verdict. The marker's levels and device hold
    where the call gives none. Raises AssertionError with the ladder: in short; whole with -vv.
    """
    item, config = request.node, request.config

    def certify(one: Any, other: Any, data: Any = None, **options: Any) -> Any:
        __tracebackhide__ = True
        from parity.checking import check

        options = _asked(item, **options)
        start = time.perf_counter()
        count = sum(name == KEY for name, _ in item.user_properties)
        name = item.nodeid if not count else f"{item.nodeid} ({count + 1})"
        told = {"pair": name, "verdict": "REFUSED", "seconds": 0.0}
        item.user_properties.append((KEY, told))
        missing = ""
        try:
            verdict = check(one, other, data, **options)
        except DeviceMissing as error:
            told["verdict"], missing = "skipped", str(error)
        except Exception as error:
            if PARTS_FOLDER in config.stash:
                _keep((name, f"{type(error).__name__}: {error}"), config.stash[PARTS_FOLDER])
            raise _shown(error) from error.__cause__
        finally:
            told["seconds"] = time.perf_counter() - start
        if missing:  # no agreement, and no fault of the models: the page says so
            if PARTS_FOLDER in config.stash:
                _keep((name, missing, "skipped"), config.stash[PARTS_FOLDER])
            pytest.skip(missing)
        told["verdict"] = verdict.word
        if PARTS_FOLDER in config.stash:
            _keep(replace(verdict, pair=name), config.stash[PARTS_FOLDER])
        if not verdict.ok:
            whole = config.get_verbosity() >= 2
            raise AssertionError(str(verdict) if whole else f"{verdict.brief}\n  All levels: -vv")
        return verdict

    return certify


def _asked(item: pytest.Item, **options: Any) -> dict[str, Any]:
    """The options of a call, with those of its test's markers, the nearest first.

    Raises ValueError for a marker with other options, or for a device that there isn't.
    """
    for marker in item.iter_markers("parity"):
        if marker.args or not marker.kwargs.keys() <= {"levels", "device"}:
            given = [repr(a) for a in marker.args] + [*marker.kwargs]
            raise ValueError(
                f"parity: the marker has {', '.join(given)}, expected levels=..., device=...; "
                "all else goes into the call of the fixture"
            )
        options = dict(marker.kwargs) | options
    if (device := options.get("device")) not in (None, *NAMES):
        there = " or ".join(f'"{name}"' for name in NAMES)
        raise ValueError(f"parity: device={device!r}, expected {there}")
    return options


def _shown(error: BaseException) -> BaseException:
    """An error whose tracebacks, and those of its causes, begin in the user's own files.

    A cause without a line of theirs is left out: the message has its words.
    """
    cause = error.__cause__
    if cause is not None and _users(cause.__traceback__) is None:
        error.__cause__ = None
    elif cause is not None:
        _shown(cause)
    error.__suppress_context__ = True
    return error.with_traceback(_users(error.__traceback__))


def _users(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the first line on that isn't ours, nor a framework's on the way there."""
    while trace and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN:
        trace = trace.tb_next
    return trace


def _keep(part: Any, folder: Path) -> None:
    """A test's part of the page, in a file of its own: it outlives a worker that crashes."""
    handle, _ = tempfile.mkstemp(prefix=f"{time.time_ns()}-", suffix=".part", dir=folder)
    with open(handle, "wb") as file:
        pickle.dump(part, file)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The controller, or the only process, joins all parts into one page."""
    config = session.config
    if FOLDER not in config.stash:
        return
    files = sorted(config.stash[PARTS_FOLDER].glob("*.part"))
    if not files:
        return
    from parity.environment import environment
    from parity.report.report import Report

    parts = [pickle.loads(file.read_bytes()) for file in files]
    said = [part for part in parts if isinstance(part, tuple)]
    refused = {part[0]: part[1] for part in said if len(part) == 2}
    skipped = {part[0]: part[1] for part in said if len(part) == 3}
    verdicts = tuple(part for part in parts if not isinstance(part, tuple))
    # A test that failed before it compared, or with its worker, has no part.
    failed = f"{session.testsfailed or 'no'} test" + "s" * (session.testsfailed != 1)
    about = environment() | {
        "data": "arrays of the tests' own",
        "run": f"{len(parts)} calls in a run of pytest, in which {failed} failed",
        "command": shlex.join(["pytest", *map(str, config.invocation_params.args)]),
    }
    seconds = time.perf_counter() - config.stash[START]
    try:
        Report(verdicts, about, seconds, refused=refused, skipped=skipped).write(
            config.stash[FOLDER]
        )
        config.stash[PAGE] = f"page: {config.stash[FOLDER] / 'index.html'}"
    except OSError as error:  # what the tests found is told all the same
        config.stash[PAGE] = f"no page: {error.filename}: {error.strerror}"
        session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What the comparisons of a run found, and what they cost."""
    found: dict[str, list[dict[str, Any]]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            told = [value for key, value in getattr(report, "user_properties", ()) if key == KEY]
            if len(told) > len(found.get(report.nodeid, ())):  # of its phases, the last has all
                found[report.nodeid] = told
    pairs = [pair for told in found.values() for pair in told]
    if not pairs and FOLDER not in config.stash:
        return
    terminalreporter.section("parity")
    if not pairs:
        return terminalreporter.line("no pair was compared, and no page is written")
    counts = Counter(pair["verdict"] for pair in pairs)
    words = ", ".join(f"{count} {word}" for word, count in counts.items())
    seconds = sum(pair["seconds"] for pair in pairs)
    terminalreporter.line(f"{_pairs(len(pairs))} in {seconds:.1f} s: {words}")
    if len(pairs) > 1:
        slowest = sorted(pairs, key=lambda pair: -pair["seconds"])[:SLOWEST]
        named = ", ".join(f"{pair['pair']} {pair['seconds']:.1f} s" for pair in slowest)
        terminalreporter.line(f"slowest: {named}")
    if PAGE in config.stash:
        terminalreporter.line(config.stash[PAGE])


def _pairs(count: int) -> str:
    return f"{count} pair" + "s" * (count > 1)
