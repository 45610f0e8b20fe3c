"""Two reports, held against each other: what got better, what got worse, what is otherwise.

Verdicts have an order. Of a measured difference no more is known than that the true one lies within
its rounding bound of it, so it has grown only if

    error_after - bound_after > error_before + bound_before,

and shrunk only the other way round; what lies within its bound both times has done neither. Less
that is asked, or judged of the same data, is worse. Times are shown, with versions and hardware,
and never judged.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from mlp_core.files import write_atomically, write_json
from parity.report.page import rendered
from parity.report.saved import ACCEPTED, AGREED, SavedLevel, SavedPair, SavedReport

RANKS = {AGREED: 3, ACCEPTED: 2, "UNDECIDED": 1, "REFUSED": 1, "DIFFER": 0}
RANKS |= {"ok": 3, "known": 2, "skipped": 1, "VACUOUS": 1, "FAILED": 0}
SHOWN = 20  # lines of a kind in the terminal
ROWS = 4000  # levels that the page has room for, some 500 bytes each

Kind = Literal["worse", "better", "otherwise"]


@dataclass(frozen=True)
class Change:
    """pair, where: "" for the reports as such. what: in words."""

    kind: Kind
    pair: str
    where: str
    what: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.pair, self.where, self.what)))


@dataclass(frozen=True)
class Row:
    """A level of a pair in both reports; None where it isn't in one. alike: whether both were asked
    of the same data, sizes and epochs."""

    pair: str
    level: str
    before: SavedLevel | None
    after: SavedLevel | None
    alike: bool

    @property
    def kind(self) -> Kind | None:
        kinds = {change.kind for change in _level(self)}
        return next((kind for kind in ("worse", "better", "otherwise") if kind in kinds), None)


@dataclass(frozen=True)
class Changes:
    before: SavedReport
    after: SavedReport
    found: tuple[Change, ...]
    rows: tuple[Row, ...]

    @classmethod
    def between(cls, before: SavedReport, after: SavedReport) -> "Changes":
        rows = tuple(_rows(before, after))
        found = [*_whole(before, after), *_pairs(before, after)]
        found += [change for row in rows for change in _level(row)]
        return cls(before, after, tuple(found), rows)

    @property
    def ok(self) -> bool:
        """Whether nothing got worse."""
        return not self.of("worse")

    def of(self, kind: Kind) -> list[Change]:
        return [change for change in self.found if change.kind == kind]

    @property
    def verdict(self) -> str:
        worse, better = len(self.of("worse")), len(self.of("better"))
        if worse:
            return f"WORSE: {worse} got worse, {better} better."
        return f"BETTER: {better} got better, nothing worse." if better else "Nothing got worse."

    @property
    def times(self) -> list[tuple[str, float | None, float | None]]:
        """(pair, seconds before, seconds after)."""
        names = dict.fromkeys([*self.before.pairs, *self.after.pairs])
        old, new = ({n: p.seconds for n, p in r.pairs.items()} for r in (self.before, self.after))
        return [(name, old.get(name), new.get(name)) for name in names]

    @property
    def places(self) -> list[tuple[str, str, str]]:
        """(name, before, after) of versions and hardware."""
        old, new = self.before.where, self.after.where
        return [(n, old.get(n, ""), new.get(n, "")) for n in dict.fromkeys([*old, *new])]

    def print(self, console: Console) -> None:
        said = {"worse": "Worse", "better": "Better", "otherwise": "Otherwise"}
        for kind in said:
            changes = self.of(kind)  # type: ignore[arg-type]
            for change in changes[:SHOWN]:
                console.print(f"{said[kind]}: {change}", highlight=False, markup=False)
            if len(changes) > SHOWN:
                console.print(f"... and {len(changes) - SHOWN} more", highlight=False)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
        for name in ("seconds", "before", "after", "after / before"):
            table.add_column(name, justify="left" if name == "seconds" else "right")
        for pair, old, new in self.times:
            both = [f"{t:.1f}" if t is not None else "-" for t in (old, new)]
            table.add_row(pair, *both, f"{new / old:.2f}" if old and new is not None else "")
        console.print("", table, "", sep="\n", markup=False)
        moved = [place for place in self.places if place[1] != place[2]]
        same = "Times are of the same versions and hardware." if not moved else ""
        for name, old_version, new_version in moved:
            same += f"{name}: {old_version or 'none'}, then {new_version or 'none'}. "
        console.print(same, highlight=False, markup=False)
        style = "bold green" if self.ok else "bold red"
        console.print(self.verdict, style=style, highlight=False)

    def to_json(self) -> dict[str, Any]:
        both = {"before": self.before, "after": self.after}
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            **{name: {"path": r.path, "verdict": r.verdict, "time": r.time, "where": r.where}
               for name, r in both.items()},
            "changes": [asdict(change) for change in self.found],
            "levels": [
                {"pair": row.pair, "level": row.level, "kind": row.kind}
                | {name: {"verdict": x.verdict, "margin": x.margin, "judged": x.judged,
                          "seconds": x.seconds} if x else None
                   for name, x in (("before", row.before), ("after", row.after))}
                for row in self.rows
            ],
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """changes.json and changes.html."""
        write_json(folder / "changes.json", self.to_json())
        order = sorted(self.rows, key=lambda row: row.kind is None)  # what changed has room first
        left_out = max(0, len(order) - ROWS)
        page = rendered("changes.html", changes=self, rows=order[:ROWS], left_out=left_out)
        write_atomically(folder / "changes.html", page.encode())


def _whole(before: SavedReport, after: SavedReport) -> Iterator[Change]:
    for name, old in before.asked.items():
        if old != after.asked[name]:
            yield Change("otherwise", "", name, f"{old}, then {after.asked[name]}")
    for report, which in ((before, "first"), (after, "second")):
        if report.interrupted:
            yield Change("otherwise", "", f"the {which} report", "was interrupted")
        if not report.pairs and not report.refused:
            yield Change("otherwise", "", f"the {which} report", "has no pair")


def _pairs(before: SavedReport, after: SavedReport) -> Iterator[Change]:
    words = [
        {n: p.verdict for n, p in r.pairs.items()} | dict.fromkeys(r.refused, "REFUSED")
        for r in (before, after)
    ]
    old, new = words
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            yield Change("worse", name, "", f"{old[name]}, then not compared")
        elif name not in old:
            kind: Kind = "better" if RANKS[new[name]] >= 2 else "otherwise"
            yield Change(kind, name, "", f"not compared, then {new[name]}")
        elif old[name] != new[name]:
            why = after.refused.get(name, "").partition("\n")[0]
            what = f"{old[name]}, then {new[name]}" + (f": {why}" if why else "")
            yield Change(_ordered(old[name], new[name]), name, "", what)
        if name in before.pairs and name in after.pairs:
            yield from _questions(name, before.pairs[name], after.pairs[name])


def _questions(name: str, before: SavedPair, after: SavedPair) -> Iterator[Change]:
    """What was asked otherwise, and notes that came or went."""
    for what in dict.fromkeys([*before.asked, *after.asked]):
        old, new = (pair.asked.get(what, "null") for pair in (before, after))
        if old != new:
            yield Change("otherwise", name, what, f"{old}, then {new}")
    for note in dict.fromkeys([*before.notes, *after.notes]):
        if (note in before.notes) != (note in after.notes):
            said = "no longer noted" if note in before.notes else "now noted"
            yield Change("otherwise", name, said, note)


def _rows(before: SavedReport, after: SavedReport) -> Iterator[Row]:
    """Of the pairs in both reports."""
    for name, old in before.pairs.items():
        if new := after.pairs.get(name):
            alike = (before.asked, old.asked) == (after.asked, new.asked)
            for level in dict.fromkeys([*old.levels, *new.levels]):
                yield Row(name, level, old.levels.get(level), new.levels.get(level), alike)


def _level(row: Row) -> Iterator[Change]:
    old, new = row.before, row.after
    if old is None or new is None:
        words = old.verdict if old else "not asked", new.verdict if new else "not asked"
        ranks = RANKS[old.verdict] if old else 1, RANKS[new.verdict] if new else 1
        kind: Kind = "worse" if ranks[1] < ranks[0] else "otherwise"
        kind = "better" if ranks[1] > ranks[0] and ranks[1] >= 2 else kind
        yield Change(kind, row.pair, row.level, f"{words[0]}, then {words[1]}")
        return
    if old.verdict != new.verdict:
        kind = _ordered(old.verdict, new.verdict)
        yield Change(kind, row.pair, row.level, f"{old.verdict}, then {new.verdict}")
    if new.judged < old.judged and new.verdict != "skipped":
        said = f"judges {new.judged:,} numbers, where it judged {old.judged:,}"
        yield Change("worse" if row.alike else "otherwise", row.pair, row.level, said)
    yield from _sizes(row, old.sizes, new.sizes)


def _sizes(row: Row, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    """Differences that have grown, or shrunk, by more than their bounds leave open."""
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        said = f"{name} differs by {old.error:.3g}, then {new.error:.3g} (bound {new.bound:.2g})"
        if new.least > old.most:
            yield Change("worse", row.pair, row.level, said)
        elif old.least > new.most:
            yield Change("better", row.pair, row.level, said)


def _ordered(before: str, after: str) -> Kind:
    """A difference that is no longer asked about is not mended."""
    if RANKS[after] < RANKS[before]:
        return "worse"
    return "better" if RANKS[after] > RANKS[before] and RANKS[after] >= 2 else "otherwise"
