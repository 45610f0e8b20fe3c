"""All stages, one after the other, within the time given; each written when it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mlp_core.files import write_atomically, write_json
from mlp_core.shell import progress_bar
from parity.config import AcceleratorConfig
from parity.environment import environment
from parity.exits import Refused
from parity.report.page import rendered
from parity.studies.accelerator.stages import FOUND, GRAPH, Stage, shown, stages
from parity.studies.orphans import end_with_parent

GRACE = 15.0  # seconds from Ctrl-C, at which a command writes what it has, until it is killed
NO_TIME = "no time left"
SHARE = 0.5  # of the time left, which one stage may take: what hangs leaves as much to the others
OUTCOMES = {0: "ok", 1: "differs", 2: "refused", 130: "interrupted"}


@dataclass(frozen=True)
class Ended:
    """How a stage ended. said: the last lines that it printed."""

    stage: str
    question: str
    outcome: str
    seconds: float
    said: str = ""

    @property
    def begun(self) -> bool:
        return self.outcome != NO_TIME


@dataclass(frozen=True)
class Tried:
    """What a device was asked, as far as it came."""

    device: str
    about: dict[str, Any]
    ended: tuple[Ended, ...] = ()
    tables: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        return (
            bool(self.ended)
            and not self.interrupted
            and all(one.outcome == "ok" for one in self.ended)
        )

    @property
    def name(self) -> str:
        """What the device calls itself."""
        rows = self.tables.get("found", [])
        return next((row[1] for row in rows if row[0] == "device"), self.device)

    def markdown(self) -> str:
        """The page for docs/accelerators/DEVICE.md."""
        lines = [f"# {self.name}", "", f"{self.about['time']}.", ""]
        rows = [("stage", "question", "outcome", "seconds")]
        rows += [(e.stage, e.question, e.outcome, f"{e.seconds:.0f}") for e in self.ended]
        lines += [shown(rows), ""]
        if self.interrupted:
            lines += ["Interrupted: later stages were not tried.", ""]
        for one in (e for e in self.ended if e.begun):
            lines += [f"## {one.stage}: {one.question}", ""]
            if table := self.tables.get(one.stage):
                lines += [shown(table), ""]
            if one.outcome != "ok" or one.stage not in self.tables:
                lines += ["```", one.said or one.outcome, "```", ""]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """accelerator.json, DEVICE.md and index.html, each whole or not at all."""
        record = asdict(self) | {"ok": self.ok}
        write_json(folder / "accelerator.json", record)
        write_atomically(folder / "DEVICE.md", self.markdown().encode())
        page = rendered("accelerator.html", tried=self, name=self.name)
        write_atomically(folder / "index.html", page.encode())


def run(config: AcceleratorConfig, tell: Callable[[str], None]) -> Iterator[Tried]:
    """What is known after each stage, already written. Raises Refused without the device, and then
    leaves what an earlier run wrote."""
    device = config.device or _default()
    end = time.monotonic() + 60 * config.minutes
    tried = Tried(device, environment() | {"minutes": config.minutes, "small": config.small})
    all_stages = stages(config, device)
    environ = dict(os.environ)
    for stage in all_stages:
        left = end - time.monotonic()
        if left > 0:
            tell(f"{stage.name}: {stage.question} ({left / 60:.1f} minutes left)")
        interrupted = False
        stage.forget(config.out)
        if left <= 0:
            one = Ended(stage.name, stage.question, NO_TIME, 0.0)
        else:
            share = 1.0 if stage is all_stages[-1] else SHARE
            one, interrupted = _tried(stage, config.out, share * left, environ)
        tables = dict(tried.tables)
        if stage.name == FOUND and one.outcome == OUTCOMES[2]:
            raise Refused(one.said.splitlines()[-1] if one.said else f"no device '{device}' here")
        if (found := stage.read(config.out)) is not None:
            tables[stage.name] = stage.table(found)
        tried = replace(tried, ended=(*tried.ended, one), tables=tables, interrupted=interrupted)
        tried.write(config.out)
        yield tried
        if stage.name == GRAPH and one.outcome != "ok":
            environ["XLA_FLAGS"] = _without_graphs(environ.get("XLA_FLAGS", ""))
        if interrupted:
            return


def _without_graphs(flags: str) -> str:
    from jax_mlp.programs import COMMAND_BUFFER  # here: a run that has graphs needn't import JAX

    return f"{flags} --{COMMAND_BUFFER}=".strip()


def _tried(stage: Stage, folder: Path, limit: float, environ: dict[str, str]) -> tuple[Ended, bool]:
    """(how it ended, whether by Ctrl-C). At the limit it is interrupted, then killed."""
    start, timed_out, interrupted = time.monotonic(), False, False
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", *stage.arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True, env=environ, preexec_fn=end_with_parent,
    )  # fmt: skip
    said = ""
    try:
        said = _waited(process, stage.name, limit)
    except subprocess.TimeoutExpired:
        timed_out = True
    except KeyboardInterrupt:
        interrupted = True
    if timed_out or interrupted:
        said = _stopped(process)
    code = process.returncode
    outcome = OUTCOMES.get(code, f"failed with exit code {code}")
    if outcome == OUTCOMES[1] and stage.read(folder) is None:  # what Python ends with at an error
        outcome = f"failed with exit code {code}"
    outcome = "stopped, out of time" if timed_out else "interrupted" if interrupted else outcome
    seconds = time.monotonic() - start
    return Ended(stage.name, stage.question, outcome, round(seconds, 1), _last(said)), interrupted


def _waited(process: subprocess.Popen, name: str, limit: float) -> str:
    """What it printed until it ended. Raises TimeoutExpired at the limit."""
    end = time.monotonic() + limit
    told = "{desc}: {elapsed} of at most {total_fmt}"
    with progress_bar(int(limit), " s", name, bar_format=told) as bar:
        while True:
            left = end - time.monotonic()
            try:
                return process.communicate(timeout=min(1.0, max(0.0, left)))[0]
            except subprocess.TimeoutExpired:
                bar.refresh()
                if left <= 1.0:
                    raise


def _stopped(process: subprocess.Popen) -> str:
    """Ctrl-C to the stage and its children; what it printed."""
    for sign, wait in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            return process.communicate(timeout=wait)[0] or ""
        except subprocess.TimeoutExpired:
            continue
    return ""


def _last(said: str, lines: int = 12) -> str:
    """The last lines, without those that a progress bar overwrote."""
    whole: Sequence[str] = [line.rpartition("\r")[2].rstrip() for line in said.splitlines()]
    return "\n".join(line for line in whole[-lines:] if line)


def _default() -> str:
    """By JAX, asked in another process: this one must not hold the device's memory."""
    code = "import jax; print(jax.devices()[0].platform)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = done.stdout.split()
    return {"gpu": "cuda"}.get(said[-1], said[-1]) if said else "cpu"
