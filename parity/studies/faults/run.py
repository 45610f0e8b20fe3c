"""Faults on purpose: what each level of the ladder sees of them, and that it sees nothing else.

A fault is planted in the Torch side of a small pair; JAX and the bounds are computed once and
shared. Every fault must be caught, first at the level where it can show: else the ladder isn't
sharp. Honest networks must raise no alarm: else it isn't sound.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mlp_core.files import write_json, write_pictures
from parity.interrupted import Interrupted
from parity.levels.identity import LEVEL
from parity.levels.level import Level, Result
from parity.studies.faults.bench import Bench
from parity.studies.faults.catalogue import CATALOGUE, Fault
from parity.studies.faults.random_networks import CleanRun, clean_run

IDENTITY = LEVEL.name
CAPTION = """\
A number is the effect over the bound: above 1 caught, first in [bold green]green[/].
≠  other bits, not finite, or another function: caught       ·  as without the fault
-  not asked: this fault's pair stands for one matter alone
"""


@dataclass(frozen=True)
class Sight:
    """What one level saw of one fault: margin is the largest effect over its bound."""

    level: str
    caught: bool
    margin: float
    what: str

    def __str__(self) -> str:
        if not np.isfinite(self.margin):
            return "≠"
        if 0.1 <= self.margin < 10:
            return f"{self.margin:.1f}"
        mantissa, exponent = f"{self.margin:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"


@dataclass(frozen=True)
class Outcome:
    """One fault before all levels. ok: caught, and first at the level that can show it first.

    What identity sees counts as first where no other level sees it: it sees most, by no data.
    """

    fault: Fault
    sights: tuple[Sight, ...]

    @property
    def first(self) -> str | None:
        """The level that caught it."""
        caught = [s.level for s in self.sights if s.caught]
        others = [level for level in caught if level != IDENTITY]
        return next(iter(others or caught), None)

    @property
    def ok(self) -> bool:
        return self.first == self.fault.level

    def __str__(self) -> str:
        name = f"{self.fault.name} ({self.fault.pair})"
        if self.first is None:
            return f"{name}: SLIPPED THROUGH. {self.fault.says}"
        what = next(s.what for s in self.sights if s.level == self.first)
        expected = "" if self.ok else f", expected at {self.fault.level}"
        return f"{name}: caught at {self.first}{expected}: {what}"

    def to_json(self) -> dict[str, Any]:
        f = self.fault
        return {
            "name": f.name,
            "kind": f.kind,
            "says": f.says,
            "pair": f.pair,
            "expected": f.level,
            "first": self.first,
            "ok": self.ok,
            "levels": {
                s.level: {"caught": s.caught, "margin": s.margin, "what": s.what}
                for s in self.sights
            },
        }


@dataclass(frozen=True)
class FaultReport:
    """What all levels saw of all faults, and of honest networks.

    pairs: the clean pairs on the ladder, without a fault.
    """

    outcomes: tuple[Outcome, ...]
    pairs: dict[str, tuple[Result, ...]]
    clean: CleanRun | None
    seconds: float
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Every fault is caught where it should be, and nothing else is."""
        honest = not self.false_alarms and (self.clean is None or self.clean.ok)
        complete = bool(self.outcomes) and not self.interrupted
        return complete and honest and all(o.ok for o in self.outcomes)

    @property
    def levels(self) -> tuple[str, ...]:
        """All levels that were asked, in the ladder's order."""
        asked = (s.level for o in self.outcomes for s in o.sights)
        found = (r for results in self.pairs.values() for r in results)
        climbed = (r.level.name for r in found if not r.skipped)
        return tuple(dict.fromkeys((*climbed, *asked)))

    @property
    def false_alarms(self) -> list[str]:
        """What the levels found in the clean pairs."""
        return [
            f"{pair}, {r.level.name} {r.precision}: {r.worst}"
            for pair, results in self.pairs.items()
            for r in results
            if not r.ok and not r.vacuous
        ]

    @property
    def vacuous(self) -> list[str]:
        """Levels that caught nothing at all; not known of an interrupted run."""
        if self.interrupted:
            return []
        seen = {s.level for o in self.outcomes for s in o.sights if s.caught}
        return [level for level in self.levels if level not in seen]

    @property
    def slipped(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.first is None]

    @property
    def verdict(self) -> str:
        """One sentence."""
        count = len(self.outcomes)
        if self.interrupted:
            return f"INTERRUPTED: {count} faults were planted before; no verdict."
        if self.slipped:
            names = ", ".join(o.fault.name for o in self.slipped)
            return f"NOT SHARP: {len(self.slipped)} of {count} faults slip through: {names}."
        if misplaced := [o for o in self.outcomes if not o.ok]:
            return f"MISPLACED: {len(misplaced)} of {count} faults are caught at another level."
        if not self.ok:
            return "NOT SOUND: honest networks raise alarms."
        return f"SHARP: all {count} planted faults are caught, each at the first level that can."

    def table(self) -> Table:
        """A row for each fault, a column for each level."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("fault", no_wrap=True)
        for level in self.levels:
            table.add_column(level, justify="right", no_wrap=True)
        kinds = dict.fromkeys(o.fault.kind for o in self.outcomes)
        clean = {pair: set(sights(results)) for pair, results in self.pairs.items()}
        for kind in kinds:
            table.add_section()
            table.add_row(f"[bold]{kind}[/]")
            for o in (o for o in self.outcomes if o.fault.kind == kind):
                by_level = {s.level: s for s in o.sights}
                unmoved = clean[o.fault.pair]
                cells = (_cell(by_level.get(level), o, unmoved) for level in self.levels)
                table.add_row(o.fault.name if o.ok else f"[red]{o.fault.name}[/]", *cells)
        table.add_section()
        first = Counter(o.first for o in self.outcomes)
        seen = Counter(s.level for o in self.outcomes for s in o.sights if s.caught)
        table.add_row("caught here first", *(str(first[level]) for level in self.levels))
        table.add_row("caught here", *(str(seen[level]) for level in self.levels))
        return table

    def print(self, console: Console) -> None:
        if not console.is_terminal:  # a file has no width to fit into
            console = Console(file=console.file, width=200)
        console.print(self.table())
        console.print(CAPTION, highlight=False)
        for level in self.vacuous:
            console.print(f"VACUOUS: level '{level}' catches nothing.", style="yellow")
        for line in (*(str(o) for o in self.outcomes if not o.ok), *self.false_alarms):
            console.print(line, highlight=False, markup=False)
        if self.clean is not None:
            console.print(str(self.clean), highlight=False, markup=False)
        console.print(self.verdict, style="bold green" if self.ok else "bold red", highlight=False)

    def __str__(self) -> str:
        wrong = [str(o) for o in self.outcomes if not o.ok] + self.false_alarms
        wrong += [f"VACUOUS: level '{level}' catches nothing" for level in self.vacuous]
        clean = [] if self.clean is None else [str(self.clean)]
        return "\n".join([*wrong, *clean, self.verdict])

    def write(self, folder: Path) -> None:
        """faults.json and faults.png."""
        write_json(folder / "faults.json", self.to_json())
        if self.outcomes:
            write_pictures(folder, self._pictures)

    def _pictures(self) -> Iterator[tuple[str, bytes]]:
        from parity.studies.faults.picture import matrix

        yield "faults.png", matrix(self.outcomes, self.levels)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 1),
            "vacuous levels": self.vacuous,
            "false alarms": self.false_alarms,
            "clean": None if self.clean is None else self.clean.to_json(),
            "faults": [o.to_json() for o in self.outcomes],
        }


def plant_faults(
    catalogue: Sequence[Fault] = CATALOGUE,
    *,
    clean: int = 0,
    levels: Sequence[Level] | None = None,
    benches: dict[str, Bench] | None = None,
    on_pair: Callable[[str], None] = lambda pair: None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    on_network: Callable[[int], None] = lambda number: None,
) -> FaultReport:
    """Plant each fault in turn, and judge `clean` random honest networks.

    levels: of the ladder; by default all, with init, probes, accuracy and refit where they belong.
    benches: of earlier calls with the same levels, by pair; new ones are added. Compiling what a
    bench needs takes longer than a hundred faults.
    on_pair, on_outcome, on_network: called as each begins, is done, begins. Ctrl-C ends the
    planting; the report keeps what was found until then.
    """
    start = time.perf_counter()
    outcomes: list[Outcome] = []
    pairs: dict[str, tuple[Result, ...]] = {}
    benches = {} if benches is None else benches
    honest, interrupted = None, False
    try:
        for pair in dict.fromkeys((*(f.pair for f in catalogue), *(["scratch"] if clean else []))):
            on_pair(pair)
            benches.setdefault(pair, Bench(pair, levels))
            pairs[pair] = benches[pair].clean
            for fault in (f for f in catalogue if f.pair == pair):
                outcomes.append(Outcome(fault, tuple(sights(benches[pair].judge(fault.plant)))))
                on_outcome(outcomes[-1])
        honest = clean_run(benches["scratch"], clean, on_network) if clean else None
    except KeyboardInterrupt as stop:
        interrupted = True
        honest = stop.found if isinstance(stop, Interrupted) else None
    outcomes.sort(key=lambda o: catalogue.index(o.fault))
    seconds = time.perf_counter() - start
    return FaultReport(tuple(outcomes), pairs, honest, seconds, interrupted)


def sights(results: Iterable[Result]) -> Iterator[Sight]:
    """Level by level, the precision that sees most. A level that compared nothing has no sight."""
    by_level: dict[str, list[Result]] = {}
    for r in results:
        if r.comparisons:
            by_level.setdefault(r.level.name, []).append(r)
    for level, found in by_level.items():
        r = max(found, key=lambda r: (not r.ok, r.worst.margin))
        yield Sight(level, not r.ok, r.worst.margin, f"{r.precision}, {r.worst}")


def _cell(sight: Sight | None, outcome: Outcome, clean: set[Sight]) -> str:
    if sight is None:
        return "[dim]-[/]"
    if sight in clean:
        return "[dim]·[/]"
    if not sight.caught:
        return f"[dim]{sight}[/]"
    if sight.level == outcome.first:
        return f"[bold {'green' if outcome.ok else 'red'}]{sight}[/]"
    return str(sight)
