"""What a check found: the levels, the curves, where the models part; as text and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mlp_core.files import plain
from parity.levels.every_step import Trajectory
from parity.levels.level import Result
from parity.locate.alignment import Alignment
from parity.locate.divergence import Divergence
from parity.locate.parting import Parting


@dataclass(frozen=True)
class Verdict:
    """What `check` found. ok: every level agreed that was not skipped, and none was vacuous.

    results: one entry for each level and precision. curves: {"jax float32": {"train_loss": ...}}.
    about: the models, versions, devices, precision, data and arguments of this check.
    divergence: if one batch shows a difference, or one of the certified steps, the first level of
    it that leaves its bound, the element, and for each later level whether its error was inherited
    or made there. trajectory: the certified steps, if they were asked for. notes: what was assumed,
    what can't be told, what the data don't reach. alignment: of the step in which a failing pair
    parts, both codes' tensors.

        >>> verdict = check(theirs, ours, (X, y), weights="guess", levels=["weights"])
        >>> verdict.ok, [str(result.verdict) for result in verdict.results]
        (True, ['ok'])
    """

    pair: str
    results: tuple[Result, ...]
    curves: dict[str, dict[str, np.ndarray]]
    about: dict[str, Any]
    divergence: Divergence | None = None
    trajectory: Trajectory | None = None
    notes: tuple[str, ...] = field(default=())
    alignment: Alignment | None = None

    @property
    def ok(self) -> bool:
        asked = [r for r in self.results if not r.skipped]
        return bool(asked) and all(r.ok for r in asked)

    @property
    def parting(self) -> Parting | None:
        """The lines where both codes part, if they do and that could be told."""
        return self.alignment.parting if self.alignment else None

    @property
    def undecided(self) -> bool:
        """Whether nothing differs, and yet something could not be judged at all."""
        return not self.ok and not any(r.failed for r in self.results)

    @property
    def known(self) -> list[tuple[Result, str, str]]:
        """(result, comparison, reason) of all differences that the user accepts, as they were."""
        return [(r, name, why) for r in self.results for name, why in r.known]

    @property
    def word(self) -> str:
        """agree; AGREE EXCEPT, for known differences; DIFFER; UNDECIDED."""
        if self.undecided:
            return "UNDECIDED"
        if not self.ok:
            return "DIFFER"
        return "AGREE EXCEPT for known differences" if self.known else "agree"

    def __str__(self) -> str:
        lines = [f"{self.pair}: {self.word}"]
        width = max([10, *(len(r.level.name) for r in self.results)])
        for r in self.results:
            said = {"skipped": f"skipped: {r.skipped.splitlines()[0] if r.skipped else ''}"}
            verdict = said.get(r.verdict, r.verdict if r.verdict != "VACUOUS" else "vacuous")
            lines.append(f"  {r.level.name:{width}} {r.precision:8} {verdict}")
            lines += [f"      {c}" for c in r.failed[:5]]
            if more := list(dict.fromkeys(c.name.rpartition(": ")[2] for c in r.failed[5:])):
                lines.append(f"      and {len(r.failed) - 5} more: {', '.join(more[:24])}")
            if r.unjudged:
                share = f"{r.unjudged:,} of {sum(c.elements for c in r.comparisons):,}"
                lines.append(f"      {share} elements not judged: their bound is infinite")
            lines += [f"      known: {text}" for text in self.accepted(r)]
        if self.divergence:
            lines.append(f"  First divergence: {self.divergence}")
        if self.parting:
            lines.append(f"  In the code, {self.parting}")
        return "\n".join([*lines, *(f"  Note: {note}" for note in self.notes)])

    @property
    def brief(self) -> str:
        """Its text in short: levels by name, and the first comparison that failed."""
        by_word: dict[str, list[str]] = {}
        for r in self.results:
            by_word.setdefault(r.verdict, []).append(f"{r.level.name} {r.precision}")
        said = {"ok": "agree", "VACUOUS": "vacuous"}
        order = [w for w in ("ok", "known", "skipped", "VACUOUS", "FAILED") if w in by_word]
        lines = [f"{self.pair}: {self.word}"]
        lines += [f"  {said.get(w, w):8} {', '.join(by_word[w])}" for w in order]
        lines += [f"      {r.failed[0]}" for r in self.results if r.failed][:1]
        lines += [f"  First divergence: {self.divergence}"] if self.divergence else []
        lines += [f"  In the code, {self.parting}"] if self.parting else []
        return "\n".join([*lines, *(f"  Note: {note}" for note in self.notes)])

    @staticmethod
    def accepted(result: Result) -> Iterator[str]:
        """Each known difference with its measured size and the reason."""
        sizes = {c.name: c for c in result.comparisons}
        for name, why in result.known:
            c = sizes[name]
            yield f"{name} differs by {c.error:.3g} ({c.relative:.1e} of the largest): {why}"

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays of curves and the alignment, in plain types; non-finite numbers
        as text."""
        levels = [
            {
                "level": r.level.name,
                "asks": r.level.asks,
                "rule": r.level.rule,
                "precision": r.precision,
                "ok": r.ok,
                "verdict": r.verdict,
                "vacuous": r.vacuous,
                "skipped": r.skipped,
                "note": r.note,
                "known": [{"leaf": name, "reason": why} for name, why in r.known],
                "not judged": r.unjudged,
                "seconds": round(r.seconds, 3),
                "comparisons": [asdict(c) for c in r.comparisons],
            }
            for r in self.results
        ]
        first = self.divergence.to_json() if self.divergence else None
        found = {"pair": self.pair, "ok": self.ok, "verdict": self.word, "about": self.about}
        steps = self.trajectory.to_json() if self.trajectory else None
        apart = self.parting.to_json() if self.parting else None
        rest = {"levels": levels, "first divergence": first, "every step": steps, "parting": apart}
        return plain(found | rest | {"notes": list(self.notes)})
