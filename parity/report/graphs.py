"""Both graphs of a step side by side, as rows: a tensor of JAX's on the left, Torch's right."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from parity.locate.alignment import Alignment
from parity.locate.operands import Operands
from parity.locate.parting import SHOWN, Place

DRAWN = 3000  # rows of a page, some 1 kB each; of more, those around the parting
ALL_SEEN = 100  # rows that need no folding
GROUP = 12  # rows up to which neighbouring modules share a heading
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward",
            "dot_general", "conv_general_dilated"}  # fmt: skip

Mark = Literal["parts", "suspect", "agrees", ""]


@dataclass(frozen=True)
class Cell:
    """A tensor of one side. rows: those of the tensors it was made of; given: what else it was made
    of, by name."""

    place: Place
    rows: tuple[int, ...]
    given: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Tensors on one height. factor: JAX's numbers over Torch's, where they agree but for it.

    mark: here the codes part, or may part, or the tensors are the last that agree.
    """

    number: int  # from 1
    jax: Cell | None
    torch: Cell | None
    factor: float | None
    mark: Mark

    @property
    def kind(self) -> str:
        """same, scaled, apart (in one place, of other numbers), jax or torch (one side alone)."""
        if self.jax is None or self.torch is None:
            return "jax" if self.jax else "torch"
        return "same" if self.factor == 1 else "scaled" if self.factor else "apart"

    @property
    def place(self) -> Place:
        cell = self.torch or self.jax
        assert cell is not None
        return cell.place


@dataclass(frozen=True)
class Group:
    """Rows under a heading that folds. open: whether they are seen at first. computed, aligned:
    tensors of Torch's, and those among them with a partner."""

    name: str
    rows: tuple[Row, ...]
    open: bool

    @property
    def marks(self) -> list[Mark]:
        return list(dict.fromkeys(row.mark for row in self.rows if row.mark))

    @property
    def computed(self) -> int:
        return sum(row.torch is not None for row in self.rows)

    @property
    def aligned(self) -> int:
        return sum(row.kind == "same" for row in self.rows)


@dataclass(frozen=True)
class Drawing:
    """What the page draws. left_out: rows that it has no room for. share: as an Alignment's."""

    groups: tuple[Group, ...]
    left_out: int
    share: float

    @property
    def rows(self) -> list[Row]:
        return [row for group in self.groups for row in group.rows]

    @property
    def folds(self) -> bool:
        return not all(group.open for group in self.groups)

    @property
    def stripes(self) -> list[tuple[int, int, str]]:
        """(first row from 0, rows, kind or mark) of runs of like rows: the step in a strip."""
        rows = self.rows
        colours = [row.mark or row.kind for row in rows]
        runs = [(colour, len(list(run))) for colour, run in groupby(colours)]
        starts = [sum(n for _, n in runs[:i]) for i in range(len(runs))]
        return [(start, n, colour) for start, (colour, n) in zip(starts, runs, strict=True)]

    @property
    def phases(self) -> list[tuple[int, int, str]]:
        """(first row from 0, rows, phase) of runs of one phase."""
        found: list[tuple[int, int, str]] = []
        for group in self.groups:
            phase, size = group.rows[0].place.phase, len(group.rows)
            start, before, last = found[-1] if found else (0, 0, phase)
            if last == phase:
                found[-1:] = [(start, before + size, phase)]
            else:
                found.append((start + before, size, phase))
        return found


def drawing(alignment: Alignment) -> Drawing:
    """Rows in Torch's order; a tensor of JAX's alone stands below all that it was made of."""
    rows = _rows(alignment)
    left_out = max(0, len(rows) - DRAWN)
    if left_out:
        middle = next((i for i, row in enumerate(rows) if row.mark == "parts"), 0)
        start = min(max(0, middle - DRAWN // 2), left_out)
        rows = rows[start : start + DRAWN]
    return Drawing(tuple(_groups(rows)), left_out, alignment.share)


@dataclass
class _Height:
    """A row before its number is known."""

    torch: Place | None
    jax: Place | None = None
    factor: float | None = None
    below: list[_Height] = field(default_factory=list)  # JAX's alone, in its order


def _rows(alignment: Alignment) -> list[Row]:
    parting = alignment.parting
    torch_marks, jax_marks = _marks(alignment)
    heights = [_Height(t, j, 1.0) for t, j in alignment.pairs]
    heights += [_Height(t, j, factor) for t, j, factor in alignment.scaled]
    heights += [_Height(t) for t in alignment.lone_torch]
    lone = {j.number: j for j in alignment.lone_jax}
    if parting:  # what is named there may be no tensor of its own numbers: a layout, what is given
        theirs = {h.torch.number for h in heights if h.torch}
        ours = {h.jax.number for h in heights if h.jax}
        for t, j in parting.agreeing[:SHOWN]:
            if t.number not in theirs:
                heights.append(_Height(t, j, 1.0))
                theirs.add(t.number)
                ours.add(j.number)
        heights += [_Height(t) for t in parting.torch[:SHOWN] if t.number not in theirs]
        lone |= {j.number: j for j in parting.jax[:SHOWN] if j.number not in ours}
        if parting.torch and parting.jax and parting.jax[0].number in lone:
            here = parting.torch[0].number
            h = next(h for h in heights if h.torch and h.torch.number == here)
            if h.factor != 1:
                h.jax, h.factor = lone.pop(parting.jax[0].number), None
    heights.sort(key=lambda h: h.torch.number if h.torch else -1)
    heights = _with_lone_jax(heights, lone, alignment.jax_made_of)
    torch_rows = {h.torch.number: i for i, h in enumerate(heights, 1) if h.torch}
    jax_rows = {h.jax.number: i for i, h in reversed([*enumerate(heights, 1)]) if h.jax}
    rows = []
    for i, h in enumerate(heights, 1):
        marks = {torch_marks.get(h.torch.number, "")} if h.torch else set()
        marks |= {jax_marks.get(h.jax.number, "")} if h.jax else set()
        order: tuple[Mark, ...] = ("parts", "suspect", "agrees", "")
        mark = next(m for m in order if m in marks)
        jax = _cell(h.jax, jax_rows, alignment.jax_made_of)
        torch = _cell(h.torch, torch_rows, alignment.torch_made_of)
        rows.append(Row(i, jax, torch, h.factor, mark))
    return rows


def _marks(alignment: Alignment) -> tuple[dict[int, Mark], dict[int, Mark]]:
    """By number of Torch's and of JAX's tensors."""
    torch: dict[int, Mark] = {}
    jax: dict[int, Mark] = {}
    if parting := alignment.parting:
        for marks, places in ((torch, parting.torch), (jax, parting.jax)):
            for i, place in enumerate(places[:SHOWN]):
                marks[place.number] = "suspect" if i else "parts"
        for t, j in parting.agreeing[:SHOWN]:
            torch.setdefault(t.number, "agrees")
            jax.setdefault(j.number, "agrees")
    return torch, jax


def _with_lone_jax(
    heights: Sequence[_Height], lone: dict[int, Place], made_of: Operands
) -> list[_Height]:
    """Each below the lowest row of what it was made of, or of the tensor before it, as far as its
    phase reaches; and a product where Torch's is."""
    top = _Height(None)
    spots = [top, *heights]
    at = {h.jax.number: i for i, h in reversed([*enumerate(spots)]) if h.jax}
    phases = [h.torch.phase if h.torch else "" for h in spots]
    begins = {phase: i for i, phase in reversed([*enumerate(phases)])}
    ends = {phase: i for i, phase in enumerate(phases)}
    beside = _beside(spots, lone)
    before = 0
    for number in sorted({*at, *lone}):
        if number not in lone:  # what is given has its number before all that are computed
            spot = spots[at[number]].jax
            before = before if spot is None or spot.given else at[number]
            continue
        operands = [at[o] for o in made_of.get(number, ()) if isinstance(o, int) and o in at]
        phase = lone[number].phase if lone[number].phase in ends else phases[before]
        lowest = max(operands, default=before)
        lowest = max(lowest, begins[phase] - 1, beside.get(number, 1) - 1)
        before = at[number] = min(lowest, ends[phase])
        spots[before].below.append(_Height(None, lone[number]))
    return [h for spot in spots for h in ([] if spot is top else [spot]) + spot.below]


def _beside(spots: Sequence[_Height], lone: dict[int, Place]) -> dict[int, int]:
    """{number of a product of JAX's without a partner: spot of one of Torch's, also without}.

    Of one phase and one shape, in order: behind a parting nothing agrees, and yet a reader wants to
    see what both compute there at about one height.
    """
    waiting: defaultdict[tuple[str, tuple[int, ...]], deque[int]] = defaultdict(deque)
    for i, h in enumerate(spots):
        if h.torch and h.jax is None and h.torch.op in PRODUCTS:
            waiting[_kind(h.torch)].append(i)
    found: dict[int, int] = {}
    for number, place in sorted(lone.items()):
        if place.op in PRODUCTS and waiting[_kind(place)]:
            found[number] = waiting[_kind(place)].popleft()
    return found


def _kind(place: Place) -> tuple[str, tuple[int, ...]]:
    return place.phase, tuple(sorted(n for n in place.shape if n > 1))


def _cell(place: Place | None, rows: dict[int, int], made_of: Operands) -> Cell | None:
    if place is None:
        return None
    operands = made_of.get(place.number, ())
    above = sorted({rows[o] for o in operands if isinstance(o, int) and o in rows})
    return Cell(place, tuple(above), tuple(o.strip() for o in operands if isinstance(o, str)))


def _groups(rows: Sequence[Row]) -> Iterator[Group]:
    """Runs of one module; small neighbours of one phase together."""
    runs: list[tuple[list[str], list[Row]]] = []
    for row in rows:
        name = _block(row.place.module) if row.torch else None
        same_phase = bool(runs) and runs[-1][1][-1].place.phase == row.place.phase
        if same_phase and (name is None or name == runs[-1][0][-1]):
            runs[-1][1].append(row)
        else:
            runs.append(([name or ""], [row]))
    joined: list[tuple[list[str], list[Row]]] = []
    for names, found in runs:
        near = bool(joined) and joined[-1][1][-1].place.phase == found[0].place.phase
        if near and len(joined[-1][1]) + len(found) <= GROUP:
            joined[-1][0].extend(names)
            joined[-1][1].extend(found)
        else:
            joined.append(([*names], [*found]))
    parted = [i for i, (_, found) in enumerate(joined) if any(r.mark == "parts" for r in found)]
    for i, (names, found) in enumerate(joined):
        known = list(dict.fromkeys(filter(None, names)))
        where = f"{known[0]} to {known[-1]}" if len(known) > 1 else known[0] if known else ""
        phase = found[0].place.phase
        marked = any(row.mark for row in found)
        seen = len(rows) <= ALL_SEEN or marked and any(abs(i - at) <= 1 for at in parted)
        yield Group(f"{phase}: {where}" if where else phase, tuple(found), seen)


def _block(module: str) -> str:
    """A module's path up to its first number: a block of a deep model."""
    parts = module.split(".")
    at = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: at + 1])
