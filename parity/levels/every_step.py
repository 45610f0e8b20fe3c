"""Every step certified: thousands of steps, each judged by its own rounding bound.

    w_(t+1) = step(w_t, batch_t);    |side's step(w_t) - float64 step(w_t)| <= bound_t(w_t)

Teacher-forced: at each step both sides start from the weights of the JAX run, so the verdict on a
step doesn't depend on the steps before it, however chaotic training is. Each side brings the batch
that its own pipeline makes. Nothing but one step's arrays is kept in memory.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from mlp_core.files import plain
from mlp_core.shell import progress_bar
from mlp_core.stopping import Stop
from mlp_core.work import Work
from parity.comparison import Comparison, compare
from parity.interrupted import Interrupted
from parity.levels import saved_steps
from parity.levels.level import Level, Skipped
from parity.levels.pair import Pair
from parity.levels.step_judge import Judged, StepJudge
from parity.locate.divergence import Divergence, locate
from parity.rounding.bound import UnsupportedPrimitive
from parity.sides.memory import is_memory, slot_of
from parity.sides.pairs import JaxSide, TorchSide, torch_threads
from parity.sides.reference import Reference, flat
from parity.sides.side import SIDES, Batch
from parity.trees import Leaves

T = TypeVar("T")
HOPELESS = 2  # steps without any finite bound, one of them with a memory: no other is taken
LAG = 4  # steps under way at a time: what waits for a result leaves the processor idle


@dataclass(frozen=True)
class Trajectory:
    """What `certify` found. Arrays run over the steps.

    margins: {"jax": {leaf or "loss": [steps]}, "torch": ...}, the largest error over its bound; at
    most 1 inside, inf where something isn't finite or is missing. visible: the smallest relative
    error of the whole update that would certainly have been seen at that step,
    2 min(bound / |update|) over all elements. apart: {leaf or "loss": [steps]}, the sides' largest
    difference over the largest value. kinks: {"max mlp.py:30": [steps]}, how many decisions
    of that line rounding could have turned. losses: of JAX's run, in nats. unjudged:
    {leaf: elements of all steps whose bound is infinite}.
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
    unjudged: dict[str, int] = field(default_factory=dict)

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
    epochs: int,
    *,
    reference: Reference | None = None,
    stop: bool = False,
    give_up: int = 0,
    work: Work | None = None,
) -> Trajectory:
    """Take every step of `epochs` epochs on both sides from JAX's weights, and judge each.

    The sides, of one precision, start from JAX's loaded parameters; what they hold stays. Weights,
    statistics and the optimiser's state are shared before each step and compared after it. stop:
    end at the first step that fails. give_up: end after so many steps if none has a finite bound.
    work: saved at the end of each epoch, until a step fails, and gone on from. Shows a progress
    bar. Ctrl-C raises Interrupted with the Trajectory of the steps until then.
    """
    start = time.perf_counter()
    reference = reference or Reference(jax_side)
    count = jax_side.accumulated
    total = epochs * len(jax_side.loader()) // count
    judge = StepJudge(reference, total)
    # `evaluate`'s program gives gradients too: they cost less than another compilation, or more.
    alone = judge.compiled and not jax_side.fused
    take = jax_side.compiled(reference.step) if alone else reference.evaluated_step
    found: saved_steps.Figures = []
    divergence = None
    interrupted, diverged = False, None
    work = work or Work(None, {}, Stop(), None)
    done, begin, each = work.step, None, total // epochs
    if taken := saved_steps.taken_up(work, judge):
        begin, found, before = taken
        start -= before

    def held(start_from: Any) -> Any:
        return saved_steps.held(start_from, found, judge, time.perf_counter() - start)

    under_way = _taken(take, judge, jax_side, torch_side, epochs, count, done, begin)
    steps = _behind(under_way, LAG, at_once=give_up)
    last: Any = begin
    try:
        bar = progress_bar(total, "step", f"certify {jax_side.dtype}")
        with torch_side.training(), torch_threads(), bar:
            bar.update(done)
            for step, at in enumerate(steps, done):
                last = at.params, at.state, at.memory
                if step > done and divergence is None and (step % each == 0 or work.due(step)):
                    work.save(step, partial(held, last))
                if at.given is not None and all(map(_overflowed, at.given.values())):
                    diverged = step  # both alike: one story, told until here
                    break
                if at.judged is not None:
                    found.append(jax.device_get((at.loss, at.judged)))
                    bar.update()
                    if len(found) == give_up and all(judge.blind(j) for _, j in found):
                        break
                if divergence is None and (at.judged is None or not found[-1][1].inside):
                    start_from = (at.params, at.state, at.memory)
                    divergence = locate(
                        reference, torch_side, *start_from, at.batches, step, at.given
                    )
                    if stop:
                        break
            if done < len(found) == total and divergence is None:
                work.save(total, partial(held, last))
    except KeyboardInterrupt:
        interrupted = True
    losses = np.array([loss for loss, _ in found])
    leaves = judge.leaves or ("loss", *jax_side.params())
    margins = np.array([judged.margins for _, judged in found])
    margins = margins.reshape(len(found), len(SIDES), len(leaves))
    apart = np.array([judged.apart for _, judged in found]).reshape(len(found), len(leaves))
    kinks: dict[str, np.ndarray] = {}
    for i, label in enumerate(judge.decisions):
        counts = [judged.kinks[i] if i < len(judged.kinks) else 0 for _, judged in found]
        kinks[label] = kinks.get(label, 0) + np.array(counts)
    result = Trajectory(
        jax_side.dtype,
        {s: {leaf: margins[:, k, i] for i, leaf in enumerate(leaves)} for k, s in enumerate(SIDES)},
        np.array([judged.visible for _, judged in found]),
        {leaf: apart[:, i] for i, leaf in enumerate(leaves)},
        kinks,
        losses,
        time.perf_counter() - start,
        divergence,
        {"epochs": epochs} | ({} if diverged is None else {"diverged": diverged}),
        {
            leaf: int(sum(judged.unjudged[i] for _, judged in found))
            for i, leaf in enumerate(leaves)
        },
    )
    if interrupted:
        raise Interrupted(result)
    return result


def judge_every_step(pair: Pair, precision: str) -> list[Comparison]:
    """Every step of all epochs, from shared weights: each side's new weights and loss within the
    rounding bound of that very step."""
    if pair.infer:
        raise Skipped("there are no targets: nothing is trained")
    if not pair.certify:
        raise Skipped("left out, as certify=False or --no-certify asks")
    pair.on_start(f"certifying every step of {pair.epochs} epochs")
    reference = pair.reference(precision)
    try:
        t = certify(
            pair.jax[precision], pair.torch[precision], pair.epochs,
            reference=reference, give_up=HOPELESS,
        )  # fmt: skip
    except UnsupportedPrimitive as error:
        raise Skipped(f"no rounding bound: {error}") from None
    pair.certified = t
    found = []
    if t.divergence and t.divergence.problem:  # no step, but what prevented one
        failed = compare(0.0, np.inf, 0.0, name="every step", sides=SIDES)
        found.append(replace(failed, problem=str(t.divergence)))
    sizes = {name: array.size for name, array in pair.params.items()}
    sizes |= {f"state.{name}": np.size(array) for name, array in pair.state.items()}
    for s, leaves in t.margins.items() if t.steps else ():
        for leaf, margin in leaves.items():
            worst = int(np.argmax(margin))
            name = f"{leaf} at step {worst:,} of {t.steps:,}, share of its bound"
            judged = compare(margin[worst], 0.0, 1.0, name=name, sides=(s, "expected"))
            size = sizes.get(slot_of(leaf)[1] if is_memory(leaf) else leaf, 1)
            apart, elements = float(t.apart[leaf].max()), t.steps * sizes.get(leaf, size)
            never = t.unjudged[leaf]
            found.append(replace(judged, relative=apart, elements=elements, unjudged=never))
    if found and all(c.ok and c.unjudged >= c.elements for c in found):
        steps = "every step" if t.steps < HOPELESS else f"each of the first {t.steps} steps"
        raise Skipped(f"the rounding bound is infinite at {steps}: too much is amplified")
    return found


def note_every_step(pair: Pair, precision: str) -> str:
    end = pair.certified.about.get("diverged")
    until = (
        "" if end is None else f"both runs diverge at step {end:,}, and were judged until there; "
    )
    return until + str(pair.certified)


def _overflowed(after: Leaves) -> bool:
    """Whether a side's loss, or anything else after the step, isn't finite."""
    return not all(np.isfinite(np.asarray(leaf)).all() for leaf in after.values())


class At(NamedTuple):
    """A step under way: what it starts from, the batches of both sides, what came of it."""

    params: Any
    state: Any
    memory: Any
    batches: tuple[Batch | None, Batch | None]
    loss: Any = None
    judged: Judged | None = None
    given: dict[str, Leaves] | None = None  # {side: {leaf: after the step}}


def _taken(
    take: Any,
    judge: StepJudge,
    jax_side: JaxSide,
    torch_side: TorchSide,
    epochs: int,
    count: int,
    done: int = 0,
    begin: Any = None,
) -> Iterator[At]:
    """Each step when it's under way; at last one that wasn't judged if one side's data end before
    the other's. JAX computes while Torch does. done: steps that are left out, after which the
    parameters, state and memory are those of begin."""
    params, state, memory = begin or (*jax_side.held(), jax_side.memory())
    pairs = itertools.zip_longest(jax_side.stream(epochs), torch_side.stream(epochs))
    deque(itertools.islice(pairs, done * count), maxlen=0)
    groups = iter(lambda: tuple(itertools.islice(pairs, count)), ())
    group = next(groups, None)
    first = not done
    while group is not None:
        if ended := next((both for both in group if None in both), None):
            yield At(params, state, memory, ended)
            return
        if len(group) < count:  # no whole step is left
            return
        mine = tuple((jax_side.typed(x), jax_side.typed(y)) for (x, y), _ in group)
        loss, parts = take(params, state, memory, mine)
        held: Any = [
            {n: np.asarray(a) for n, a in tree.items()} for tree in (params, state, memory)
        ]
        torch_side.restart(held[0], held[1], held[2], first)
        taken = torch_side.step(*(theirs for _, theirs in group))
        other = {"step": taken.params, "state": taken.state, "memory": taken.memory}
        both = {"jax": flat(loss, parts), "torch": flat(taken.loss, other)}
        # JAX computes in the order of calls: drawn after the judge's, its next batch would have to
        # wait for the judge, and Torch for the batch.
        following = next(groups, None)
        judged = judge(params, state, memory, mine, both)
        yield At(params, state, memory, group[0], loss, judged, both)
        params, state, memory = parts["step"], parts["state"], parts["memory"]
        group, first = following, False


def _behind(items: Iterator[T], count: int, at_once: int) -> Iterator[T]:
    """The items: the first few at once, others when `count` more have been drawn."""
    yield from itertools.islice(items, at_once)
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


LEVEL = Level(
    "every step",
    "Does every step of all epochs, from shared weights, stay within its own bound?",
    "rounding bound of each step",
    judge_every_step,
    ("float32",),
    note_every_step,
    needs="train",
)
