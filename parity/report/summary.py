"""A verdict in a sentence, and in the few figures that a reader wants before all others."""

import math
from collections import Counter
from collections.abc import Iterator

from parity.levels.level import Result
from parity.levels.verdict import Verdict

CLOSE = 3  # comparisons named as the closest to their bounds


def reason(verdict: Verdict) -> str:
    """Why the verdict is what it is, in a sentence."""
    asked = [r for r in verdict.results if not r.skipped]
    if verdict.undecided:
        bare = next((f"'{r.level.name}' in {r.precision}" for r in asked if r.vacuous), "no level")
        return (
            f"Nothing differs, and yet {bare} judged nothing at all."
            if asked
            else ("No level could be asked of this pair.")
        )
    if not verdict.ok:
        failed = [r for r in asked if r.failed]
        first = failed[0]
        more = f", and {len(failed) - 1} more of {len(asked)} checks" * (len(failed) > 1)
        return f"'{first.level.name}' in {first.precision} differs{more}: {first.failed[0]}"
    if verdict.known:
        r, name, why = verdict.known[0]
        more = f", and {len(verdict.known) - 1} more" * (len(verdict.known) > 1)
        return f"All checks agree but for what you accept: '{r.level.name}' {name} ({why}){more}."
    said = f"All of {len(asked)} checks agree"
    if closest := next(iter(_closest(asked)), None):
        result, margin = closest
        said += f"; the closest to its bound is '{result.level.name}' in {result.precision}, at "
        said += f"{margin:.2g} of it"
    return f"{said}."


def facts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """(name, figures) for a minute's reading."""
    counts = Counter(r.verdict for r in verdict.results)
    said = {"ok": "agree", "known": "known", "VACUOUS": "judged nothing", "FAILED": "differ"}
    words = [f"{counts[w]} {said.get(w, w)}" for w in (*said, "skipped") if counts[w]]
    judged = sum(c.elements - c.unjudged for r in verdict.results for c in r.comparisons)
    yield "checks", f"{', '.join(words)}; {judged:,} numbers judged"
    for result in verdict.results:
        if result.level.name == "identity" and not result.skipped:
            word = "the same function for all inputs" if result.ok else "undecided"
            word = "not the same function" if result.failed else word
            yield "identity", f"{word}; {result.note}" if result.note else word
    if closest := _closest(verdict.results):
        yield (
            "closest to their bounds",
            "; ".join(
                f"{r.level.name} {r.precision} {margin:.2g}" for r, margin in closest[:CLOSE]
            ),
        )
    for precision in ("float64", "float32"):
        parts = [r for r in verdict.results if r.level.part and r.precision == precision]
        apart = [f"{r.level.name} {r.relative:.1e}" for r in parts if r.comparisons]
        if apart:
            yield f"largest differences, {precision}", f"{', '.join(apart)} of the largest value"
    if (steps := verdict.trajectory) and steps.steps:
        outside = f"{len(steps.failed):,} outside" if len(steps.failed) else "all inside"
        yield "every step", f"{steps.steps:,} steps in {steps.precision}, {outside} their bounds"
    for key, name in (("val_acc", "validation accuracy"), ("val_loss", "validation loss")):
        runs = {n: run[key][-1] for n, run in verdict.curves.items() if len(run.get(key, ()))}
        ends = [f"{n} {runs[n]:.6g}" for n in runs if n.endswith("float32")]
        if ends:
            yield name, f"{', '.join(ends)}, at the end"
    if shapes := verdict.about.get("parameters"):
        count = sum(math.prod(shape) for shape in shapes.values())
        yield "parameters", f"{count:,} in {len(shapes)} arrays"
    yield "time", f"{sum(r.seconds for r in verdict.results):.1f} s in all levels"


def _closest(results: tuple[Result, ...] | list[Result]) -> list[tuple[Result, float]]:
    """(result, share of its bound), the largest first, of those whose bound isn't equal bits."""
    found = [(r, r.worst.margin) for r in results if r.comparisons and r.worst.margin > 0]
    return sorted(found, key=lambda pair: -pair[1])
