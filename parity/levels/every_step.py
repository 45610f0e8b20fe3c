"""Every step certified: thousands of steps, each judged by its own rounding bound.

    w_(t+1) = step(w_t, batch_t);    |side's step(w_t) - float64 step(w_t)| <= bound_t(w_t)

Teacher-forced: at each step both sides start from the weights of the JAX run, so the verdict on a
step doesn't depend on the steps before it, however chaotic training is. Each side brings the batch
that its own pipeline makes. Nothing but one step's arrays is kept in memory.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import jax
import numpy as np

from mlp_core.shell import progress_bar
from parity.compare import Comparison, compare
from parity.interrupted import Interrupted
from parity.levels.rungs import Rungs, Skipped
from parity.levels.step_judge import Judged, StepJudge
from parity.locate.divergence import Batch, Divergence, locate
from parity.rounding.bound import UnsupportedPrimitive
from parity.sides.pairs import JaxSide, TorchSide, torch_threads
from parity.sides.side import SIDES
from parity.sides.stages import Stages, Tree, stages_of

T = TypeVar("T")
LAG = 4  # steps under way at a time: what waits for a result leaves the processor idle


@dataclass(frozen=True)
class Trajectory:
    """What `certify` found. Arrays run over the steps.

    margins: {"jax": {leaf or "loss": [steps]}, "torch": ...}, the largest error over its bound; at
    most 1 inside, inf where something isn't finite or is missing. visible: the smallest relative
    error of the whole update that would certainly have been seen at that step,
    2 min(bound / |update|) over all elements. apart: {leaf or "loss": [steps]}, the sides' largest
    difference over the largest value. kinks: {"max mlp.py:30": [steps]}, how many decisions
    of that line rounding could have turned. losses: of JAX's run, in nats.
    """

    precision: str
    margins: dict[str, dict[str, np.ndarray]]
    visible: np.ndarray
    apart: dict[str, np.ndarray]
    kinks: dict[str, np.ndarray]
    losses: np.ndarray
    seconds: float
    divergence: Divergence | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.losses)

    @property
    def margin(self) -> dict[str, np.ndarray]:
        """{side: [steps]}: the margin curve, over all leaves and the loss."""
        return {s: np.max(list(leaves.values()), axis=0) for s, leaves in self.margins.items()}

    @property
    def failed(self) -> np.ndarray:
        """The steps at which a side left its bound."""
        return np.flatnonzero(~(np.max(list(self.margin.values()), axis=0) <= 1))

    @property
    def ok(self) -> bool:
        return self.steps > 0 and not len(self.failed) and self.divergence is None

    @property
    def uncertain(self) -> np.ndarray:
        """[steps]: decisions that rounding could have turned, those of ReLU for the most part.

        The way back takes each decision again: of each line the first primitive counts.
        """
        firsts = {name.split(" ", 1)[1]: count for name, count in reversed(self.kinks.items())}
        return np.sum([*firsts.values(), np.zeros(self.steps)], axis=0)

    def __str__(self) -> str:
        if not self.steps:
            return f"{self.precision}: no step was taken"
        worst = ", ".join(
            f"{s} {m.max():.3g} (median {np.median(m):.3g})" for s, m in self.margin.items()
        )
        verdict = "all certified" if self.ok else f"{len(self.failed):,} NOT certified"
        lines = [
            f"{self.precision}: {self.steps:,} steps, {verdict}; "
            f"largest share of the bound: {worst}",
            f"  an update off by {np.median(self.visible):.2g} of itself would be seen at a median "
            f"step, by {self.visible.min():.2g} at the best one",
            f"  uncertain decisions: {int(self.uncertain.sum()):,} in all, "
            f"{np.median(self.uncertain):.0f} at a median step; {self.seconds:.1f} s",
        ]
        return "\n".join(lines + ([f"  first: {self.divergence}"] if self.divergence else []))

    def to_json(self) -> dict[str, Any]:
        """Everything, in plain types; non-finite numbers as text."""
        return {
            "precision": self.precision,
            "ok": self.ok,
            "steps": self.steps,
            "failed": self.failed.tolist(),
            "margins": {s: {k: plain(v) for k, v in m.items()} for s, m in self.margins.items()},
            "visible": plain(self.visible),
            "apart": {leaf: plain(v) for leaf, v in self.apart.items()},
            "kinks": {name: count.tolist() for name, count in self.kinks.items()},
            "losses": plain(self.losses),
            "divergence": plain(self.divergence.to_json()) if self.divergence else None,
            "seconds": round(self.seconds, 2),
            "about": self.about,
        }


def certify(
    jax_side: JaxSide,
    torch_side: TorchSide,
    names: Mapping[str, tuple[str, str]],
    epochs: int,
    *,
    stop: bool = False,
) -> Trajectory:
    """Take every step of `epochs` epochs on both sides from JAX's weights, and judge each.

    The sides, of one precision, start from JAX's loaded parameters; what they hold stays.
    names: {reported name: (name in JAX, name in Torch)}. stop: end at the first step that fails.
    An optimiser starts each step without memory. Shows a progress bar. Ctrl-C raises Interrupted
    with the Trajectory of the steps until then.
    """
    start = time.perf_counter()
    take, judge = _programs(stages_of(jax_side))
    found: list[tuple[float, Judged]] = []
    divergence = None
    interrupted = False
    total = epochs * len(jax_side.loader())
    steps = _behind(_taken(take, judge, jax_side, torch_side, names, epochs), LAG)
    try:
        label = f"certify {jax_side.dtype}"
        bar = progress_bar(total, "step", label)
        with torch_side.restored(), torch_threads(), bar:
            for step, (params, batches, loss, judged) in enumerate(steps):
                if judged is not None:
                    found.append(jax.device_get((loss, judged)))
                    bar.update()
                if divergence is None and (judged is None or not found[-1][1].inside):
                    divergence = _located(jax_side, torch_side, names, params, batches, step)
                    if stop:
                        break
    except KeyboardInterrupt:
        interrupted = True
    losses = np.array([loss for loss, _ in found])
    reported = {own: name for name, (own, _) in names.items()} | {"loss": "loss"}
    leaves = judge.leaves or tuple(reported)
    margins = np.array([judged.margins for _, judged in found])
    margins = margins.reshape(len(found), len(SIDES), len(leaves))
    apart = np.array([judged.apart for _, judged in found]).reshape(len(found), len(leaves))
    kinks: dict[str, np.ndarray] = {}
    for i, label in enumerate(judge.decisions):
        kinks[label] = kinks.get(label, 0) + np.array([judged.kinks[i] for _, judged in found])
    result = Trajectory(
        jax_side.dtype,
        {
            s: {reported[leaf]: margins[:, k, i] for i, leaf in enumerate(leaves)}
            for k, s in enumerate(SIDES)
        },
        np.array([judged.visible for _, judged in found]),
        {reported[leaf]: apart[:, i] for i, leaf in enumerate(leaves)},
        kinks,
        losses,
        time.perf_counter() - start,
        divergence,
        {"epochs": epochs},
    )
    if interrupted:
        raise Interrupted(result)
    return result


def judge_every_step(rungs: Rungs, precision: str) -> list[Comparison]:
    """Every step of all epochs, from shared weights: each side's new weights and loss within the
    rounding bound of that very step."""
    if not rungs.certify:
        raise Skipped("left out, as certify=False or --no-certify asks")
    rungs.on_start(f"certifying every step of {rungs.epochs} epochs")
    try:
        t = certify(rungs.jax[precision], rungs.torch[precision], rungs.names, rungs.epochs)
    except UnsupportedPrimitive as error:
        raise Skipped(f"no rounding bound: {error}") from None
    rungs.certified = t
    found = []
    if t.divergence and t.divergence.problem:  # no step, but what prevented one
        failed = compare(0.0, np.inf, name="every step", sides=SIDES)
        found.append(replace(failed, problem=str(t.divergence)))
    sizes = {name: array.size for name, array in rungs.params.items()} | {"loss": 1}
    for s, leaves in t.margins.items() if t.steps else ():
        for leaf, margin in leaves.items():
            worst = int(np.argmax(margin))
            name = f"{leaf} at step {worst:,} of {t.steps:,}, share of its bound"
            judged = compare(margin[worst], 0.0, 1.0, name=name, sides=(s, "expected"))
            apart, elements = float(t.apart[leaf].max()), t.steps * sizes[leaf]
            found.append(replace(judged, relative=apart, elements=elements))
    return found


def note_every_step(rungs: Rungs, precision: str) -> str:
    return str(rungs.certified)


@lru_cache(maxsize=8)
def _programs(stages: Stages) -> tuple[Any, StepJudge]:
    return stages.compiled(stages.step), StepJudge(stages)


def _taken(
    take: Any,
    judge: StepJudge,
    jax_side: JaxSide,
    torch_side: TorchSide,
    names: Mapping[str, tuple[str, str]],
    epochs: int,
) -> Iterator[tuple[Tree, tuple[Batch | None, Batch | None], Any, Judged | None]]:
    """Each step when it's under way: (weights, batches, loss, judged); at last one with judged None
    if one side's data end before the other's. JAX computes while Torch does."""
    params: Tree = jax_side.params()
    streams = itertools.zip_longest(jax_side.stream(epochs), torch_side.stream(epochs))
    batches = next(streams, None)
    while batches is not None:
        mine, theirs = batches
        if mine is None or theirs is None:
            yield params, batches, None, None
            return
        X, y = mine[0].astype(jax_side.dtype), mine[1]
        loss, new = take(params, X, y)
        torch_side.load({other: np.asarray(params[own]) for own, other in names.values()})
        other_loss, stepped = torch_side.step(*theirs)
        other_new = {own: stepped[other] for own, other in names.values()}
        losses, both = {"jax": loss, "torch": other_loss}, {"jax": new, "torch": other_new}
        # JAX computes in the order of calls: drawn after the judge's, its next batch would have to
        # wait for the judge, and Torch for the batch.
        following = next(streams, None)
        yield params, batches, loss, judge(params, X, y, losses, both)
        params, batches = new, following


def _behind(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, each when `count` more have been drawn."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def _located(
    jax_side: JaxSide,
    torch_side: TorchSide,
    names: Mapping[str, tuple[str, str]],
    params: Tree,
    batches: tuple[Batch | None, Batch | None],
    step: int,
) -> Divergence | None:
    shared = {name: np.asarray(params[own]) for name, (own, _) in names.items()}
    return locate(jax_side, torch_side, names, shared, batches, step)


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
