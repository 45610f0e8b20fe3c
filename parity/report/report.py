"""What a check found: terminal table, JSON, a page that holds everything, PNGs."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from mlp_core.files import write_atomically, write_json, write_pictures
from parity.levels.level import Result
from parity.levels.verdict import Verdict
from parity.report.charts import POINTS, charts, within
from parity.report.graphs import drawing
from parity.report.page import rendered
from parity.report.summary import facts, reason

TOGETHER = 6  # pairs in the picture of margins: of more, bars are thinner than their text
# What keeps a page under 3 MB: pairs whose ladders are on it, comparisons of a level and of all
# levels, rows of both graphs, some 250 bytes, 250 bytes and 1 kB each.
WHOLE, MOST, COMPARISONS, ROWS = 40, 12, 3000, 900

CAPTION = """\
of bound   share of its bound that the worst element used; at most 1 agrees
apart      largest difference over the largest value
Bounds: none for bits; the rounding bound computed from the tensors; for curves,
a run whose updates are off by one part in 10^9, and in float32 the distance of
the other side from the float64 curve, to 6.5 bits.
"""


@dataclass(frozen=True)
class Report:
    """The verdicts on all pairs, with what it takes to repeat them.

    refused: {pair: why} of those that could not be compared at all. skipped: of those that were not
    asked about, for want of their device.
    """

    verdicts: tuple[Verdict, ...]
    about: dict[str, Any]
    seconds: float
    interrupted: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        whole = bool(self.verdicts) and not (self.interrupted or self.refused)
        return whole and all(v.ok for v in self.verdicts)

    @property
    def undecided(self) -> bool:
        """Whether nothing differs, and yet something could not be judged."""
        return not self.ok and all(v.ok or v.undecided for v in self.verdicts)

    @property
    def _not_asked(self) -> str:
        pair = f"{len(self.skipped)} pair" + "s" * (len(self.skipped) > 1)
        return f"; {pair} skipped for want of a device" * bool(self.skipped)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.interrupted:
            return "INTERRUPTED: what is above was found before; no verdict."
        if self.ok:
            levels = min(sum(not r.skipped for r in v.results) for v in self.verdicts)
            if len(self.verdicts) > 2:
                pairs = f"each of {len(self.verdicts)} pairs; {levels} checks at least"
            else:
                pairs = f"{' and '.join(v.pair for v in self.verdicts)}; {levels} checks each"
            return f"AGREE: JAX and Torch are the same model ({pairs}{self._not_asked})."
        failed = [
            f"{v.pair} {r.level.name} {r.precision}"
            for v in self.verdicts
            for r in v.results
            if not r.ok
        ]
        if self.refused and self.undecided:
            pair, why = next(iter(self.refused.items()))
            said = why.splitlines()[0]
            return f"UNDECIDED: nothing differs, but {pair} could not be compared: {said}"
        if self.undecided and not failed:
            return f"UNDECIDED: no pair was compared{self._not_asked}."
        if self.undecided:
            return f"UNDECIDED: nothing differs, but {failed[0]} could not be judged."
        return f"DIFFER: first at {failed[0]} ({len(failed)} checks failed)."

    def table(self) -> Table:
        """A row for each level and precision, three columns for each pair."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
        table.add_column("level", no_wrap=True)
        table.add_column("in")
        for v in self.verdicts:
            table.add_column(v.pair)
            table.add_column("of bound", justify="right")
            table.add_column("apart", justify="right")
        by_place = [{(r.level.name, r.precision): r for r in v.results} for v in self.verdicts]
        for place in dict.fromkeys(place for found in by_place for place in found):
            table.add_row(*place, *(cell for found in by_place for cell in cells(found.get(place))))
        return table

    def print(self, console: Console) -> None:
        console.print(f"Parity of JAX and Torch on {self.about['data']}", highlight=False)
        console.print("", self.table(), "", sep="\n")
        console.print(CAPTION, highlight=False)
        skipped: dict[str, dict[str, None]] = {}  # why, and the pairs in order
        for v in self.verdicts:
            for r in v.results:
                if r.skipped:
                    skipped.setdefault(f"'{r.level.name}' skipped: {r.skipped}", {})[v.pair] = None
        for why, pairs in skipped.items():
            console.print(f"{', '.join(pairs)}: {why}", highlight=False, markup=False)
        for v in self.verdicts:
            if not v.ok and not self.interrupted:
                console.print(str(v), highlight=False, markup=False)
            elif v.notes:
                notes = "\n".join(f"{v.pair}: {note}" for note in v.notes)
                console.print(notes, highlight=False, markup=False)
        console.print(self.verdict, style="bold green" if self.ok else "bold red", highlight=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 2),
            "about": self.about,
            "pairs": [v.to_json() for v in self.verdicts],
            "refused": dict(self.refused),
            "skipped": dict(self.skipped),
        }

    def write(self, folder: Path) -> None:
        """report.json, the pictures, and index.html, which needs neither."""
        write_json(folder / "report.json", self.to_json())
        write_pictures(folder, self.pictures)
        write_atomically(folder / "index.html", self.page().encode())

    @cached_property
    def names(self) -> list[str]:
        """Of each pair, for files and links: no two alike, letters, digits and "._-" alone."""
        names: list[str] = []
        for v in self.verdicts:
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", v.pair).strip("-.")[:80] or "pair"
            names.append(f"{name}-{len(names) + 1}" if name in names else name)
        return names

    def pictures(self) -> Iterator[tuple[str, bytes]]:
        """(file name, PNG) of each picture that the results allow."""
        from parity.report import pictures, steps_picture

        for i in self._whole():
            name, v = self.names[i], self.verdicts[i]
            if v.curves:
                yield f"curves-{name}.png", pictures.curves(v)
            if v.trajectory and v.trajectory.steps:
                yield f"margins-{name}.png", steps_picture.margins(v.trajectory, v.pair)
        if any(v.results for v in self.verdicts) and len(self.verdicts) <= TOGETHER:
            yield "ladder.png", pictures.ladder(self.verdicts)

    def page(self) -> str:
        """Everything on one page, which needs no other file."""
        parted = [v.alignment for v in self.verdicts if v.alignment]
        rows = ROWS // max(1, len(parted))
        drawings = [drawing(v.alignment, rows) if v.alignment else None for v in self.verdicts]
        whole = self._whole()
        levels = sum(len(self.verdicts[i].results) for i in whole)
        drawn = [charts(v) if i in whole else [] for i, v in enumerate(self.verdicts)]
        return rendered(
            "report.html",
            report=self,
            whole=whole,
            most=max(1, min(MOST, COMPARISONS // max(1, levels))),
            drawings=drawings,
            charts=within(drawn, POINTS // 2 if parted else POINTS),
            reason=reason,
            facts=facts,
            share=share,
        )

    def _whole(self) -> list[int]:
        """The pairs whose ladders the page has room for, those that don't agree before others."""
        order = sorted(range(len(self.verdicts)), key=lambda i: (self.verdicts[i].ok, i))
        return sorted(order[:WHOLE])


def share(margin: float) -> float:
    """How far a bar of the ladder reaches: by the logarithm, from 10^-9 to the whole bound."""
    return min(1.0, max(0.0, 1 + math.log10(margin) / 9)) if margin > 0 else 0.0


def cells(result: Result | None) -> tuple[str, str, str]:
    """(verdict, margin, relative difference) as the table shows them."""
    if result is None:
        return "-", "", ""
    if result.skipped:
        return "[dim]skipped[/]", "", ""
    if result.vacuous:
        return "[yellow]VACUOUS[/]", "", ""
    verdict = "[green]ok[/]" if result.ok else "[red]FAILED[/]"
    if result.precision == "bits" and result.ok and not result.worst.margin:
        return verdict, "", "0"
    return verdict, f"{result.worst.margin:.2g}", f"{result.relative:.0e}"
