"""A report.json read again. Whatever a file holds, it is read as a report or refused in a line."""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.exits import Refused

LARGEST = 500_000_000  # bytes; ten epochs of both pairs take 3 million
TEXT, PAIRS, LEVELS, COMPARED = 20_000, 100_000, 1000, 1_000_000  # most of each
AGREED, ACCEPTED = "agree", "AGREE EXCEPT for known differences"
PAIR_WORDS = (AGREED, ACCEPTED, "UNDECIDED", "DIFFER")
LEVEL_WORDS = ("ok", "known", "skipped", "VACUOUS", "FAILED")
ASKED = ("batch_size", "epochs", "seed", "certify", "parameters")  # of a pair's `about`


@dataclass(frozen=True)
class Size:
    """A measured difference, and the bound on what rounding makes of it; NaN is read as infinite.

    The true difference lies within error - bound and error + bound.
    """

    error: float
    bound: float

    @property
    def least(self) -> float:
        return self.error - self.bound if math.isfinite(self.bound) else -math.inf

    @property
    def most(self) -> float:
        return self.error + self.bound


@dataclass(frozen=True)
class SavedLevel:
    """judged: numbers that were compared against a finite bound. margin: the largest share of one.
    sizes: of each comparison, by name."""

    verdict: str
    judged: int
    margin: float
    seconds: float
    sizes: Mapping[str, Size]


@dataclass(frozen=True)
class SavedPair:
    """levels: {"logits float64": ...}. asked: what the verdict is of: sizes, epochs, devices."""

    verdict: str
    levels: Mapping[str, SavedLevel]
    asked: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return math.fsum(level.seconds for level in self.levels.values())


@dataclass(frozen=True)
class SavedReport:
    """refused: {pair: why}. where: versions and hardware. asked: data and precision."""

    path: Path
    verdict: str
    interrupted: bool
    seconds: float
    time: str
    pairs: Mapping[str, SavedPair]
    refused: Mapping[str, str]
    where: Mapping[str, str]
    asked: Mapping[str, str]

    @classmethod
    def load(cls, path: Path) -> "SavedReport":
        """Read a folder's report.json, or a file. Raises Refused for what is no report."""
        path = path / "report.json" if path.is_dir() else path
        try:
            size = path.stat().st_size
            if size > LARGEST:
                raise _Wrong("", f"{size:,} bytes", f"at most {LARGEST:,}")
            text = path.read_text(encoding="utf-8")
            return _report(path, json.loads(text, parse_constant=_constant))
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}; expected a report that check wrote") from None
        except _Wrong as wrong:
            raise Refused(f"{path}: {wrong}; is it a report.json that check wrote?") from None
        except (ValueError, RecursionError) as error:
            said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise Refused(
                f"{path}: expected a report.json that check wrote, and it is no JSON: {said[:200]}"
            ) from None


class _Wrong(Exception):
    """Something that a report hasn't."""

    def __init__(self, where: str, got: str, expected: str) -> None:
        got = got if len(got) < 60 else f"{got[:56]} ..."
        super().__init__(f"{where or 'the file'}: {got}, expected {expected}")


def _shown(value: Any) -> str:
    """A value in short; integers of thousands of digits have no text."""
    with contextlib.suppress(ValueError):
        return repr(value)
    return f"{type(value).__name__} too long to show"


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _report(path: Path, raw: Any) -> SavedReport:
    top = _Part("", raw)
    about = top.part("about")
    pairs: dict[str, SavedPair] = {}
    for part in top.parts("pairs", PAIRS):
        name = part.text("pair")
        if name in pairs:
            raise _Wrong("pairs", name, "each pair once")
        pairs[name] = _pair(part)
    where = {**about.texts("versions"), **about.texts("hardware")}
    asked = {name: about.shown(name) for name in ("data", "activation")}
    return SavedReport(
        path,
        top.text("verdict"),
        top.flag("interrupted"),
        top.number("seconds"),
        about.text("time"),
        pairs,
        top.texts("refused"),
        where,
        asked,
    )


def _pair(raw: "_Part") -> SavedPair:
    levels: dict[str, SavedLevel] = {}
    for part in raw.parts("levels", LEVELS):
        name = f"{part.text('level')} {part.text('precision')}"
        if name in levels:
            raise _Wrong(raw.where, name, "each level once")
        levels[name] = _level(part)
    about = raw.part("about")
    asked = {name: about.shown(name) for name in ASKED}
    for side in ("jax", "torch"):
        if side in about.raw:
            asked[f"{side} on"] = about.part(side).shown("device")
            asked[f"{side} matmul precision"] = about.part(side).shown("matmul precision")
    notes = raw.raw.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise _Wrong(f"{raw.where}.notes", _shown(notes), "texts")
    return SavedPair(raw.word("verdict", PAIR_WORDS), levels, asked, tuple(notes))


def _level(raw: "_Part") -> SavedLevel:
    judged, margin, sizes = 0, 0.0, {}
    seen: Counter[str] = Counter()
    for part in raw.parts("comparisons", COMPARED):
        judged += part.count("elements") - part.count("unjudged")
        margin = max(margin, part.number("margin"))
        name = part.text("name")
        seen[name] += 1
        name += f" ({seen[name]})" if seen[name] > 1 else ""
        sizes[name] = Size(part.number("error"), part.number("bound"))
    verdict = raw.word("verdict", LEVEL_WORDS)
    return SavedLevel(verdict, judged, margin, raw.number("seconds"), sizes)


class _Part:
    """An object of the file: each value is asked for with its type."""

    def __init__(self, where: str, raw: Any) -> None:
        if not isinstance(raw, dict):
            raise _Wrong(where, f"{type(raw).__name__}", "an object")
        self.where, self.raw = where, raw

    def __getitem__(self, name: str) -> Any:
        if name not in self.raw:
            raise _Wrong(self.at(name), "nothing", "a value")
        return self.raw[name]

    def at(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where else name

    def part(self, name: str) -> "_Part":
        return _Part(self.at(name), self[name])

    def parts(self, name: str, most: int) -> list["_Part"]:
        found = self._typed(name, lambda raw: isinstance(raw, list), "a list")
        if len(found) > most:
            raise _Wrong(self.at(name), f"{len(found):,} entries", f"at most {most:,}")
        return [_Part(f"{self.at(name)}[{i}]", raw) for i, raw in enumerate(found)]

    def text(self, name: str) -> str:
        return self._typed(name, lambda raw: isinstance(raw, str) and len(raw) <= TEXT, "a text")

    def word(self, name: str, known: tuple[str, ...]) -> str:
        return self._typed(name, lambda raw: raw in known, f"one of {', '.join(known)}")

    def flag(self, name: str) -> bool:
        return self._typed(name, lambda raw: isinstance(raw, bool), "true or false")

    def count(self, name: str) -> int:
        return self._typed(
            name, lambda raw: isinstance(raw, int) and 0 <= raw < 2**63, "a whole number from 0"
        )

    def number(self, name: str) -> float:
        """Not below 0. Numbers that JSON hasn't were written as text."""
        raw = self[name]
        if raw in ("nan", "inf") and isinstance(raw, str):
            return math.inf
        good = isinstance(raw, (int, float)) and not isinstance(raw, bool) and 0 <= raw < 2**1023
        if not good:
            raise _Wrong(self.at(name), _shown(raw), 'a number from 0, "nan" or "inf"')
        return float(raw)

    def texts(self, name: str) -> dict[str, str]:
        values = self.part(name).raw if name in self.raw else {}
        return {str(key)[:TEXT]: str(value)[:TEXT] for key, value in values.items()}

    def shown(self, name: str) -> str:
        """Whatever it is, in one line."""
        return json.dumps(self.raw.get(name), sort_keys=True)[:TEXT]

    def _typed(self, name: str, good: Callable[[Any], bool], expected: str) -> Any:
        if not good(raw := self[name]):
            raise _Wrong(self.at(name), _shown(raw), expected)
        return raw
