"""Every step certified: thousands of steps, each judged by its own rounding bound.

    w_(t+1) = step(w_t, batch_t);    |side's step(w_t) - float64 step(w_t)| <= bound_t(w_t)

Teacher-forced: at each step both sides start from the weights of the JAX run, so the verdict on a
step doesn't depend on the steps before it, however chaotic training is. Each side brings the batch
that its own pipeline makes. Nothing but one step's arrays is kept in memory.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlp_core.shell import progress_bar
from parity.bounds import Bounds, bounded
from parity.divergence import ROOM, Batch, Divergence, locate
from parity.interrupted import Interrupted
from parity.rungs import ROUNDOFF, SIDES
from parity.sides import JaxSide, TorchSide
from parity.stages import Stages, Tree, stages_of


@dataclass(frozen=True)
class Trajectory:
    """What `certify` found. Arrays run over the steps.

    margins: {"jax": {leaf or "loss": [steps]}, "torch": ...}, the largest error over its bound; at
    most 1 inside, inf where something isn't finite or is missing. visible: the smallest relative
    error of the whole update that would certainly have been seen at that step,
    2 min(bound / |update|) over all elements. kinks: {"max mlp.py:30": [steps]}, how many decisions
    of that line rounding could have turned. losses: of JAX's run, in nats.
    """

    precision: str
    margins: dict[str, dict[str, np.ndarray]]
    visible: np.ndarray
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
    stages = stages_of(jax_side)
    take, judge = _programs(stages)
    params: Tree = jax_side.params()
    kept = torch_side.params()
    found: list[Any] = []
    losses: list[float] = []
    labels: tuple[str, ...] = ()
    divergence = None
    streams = itertools.zip_longest(jax_side.stream(epochs), torch_side.stream(epochs))
    total = epochs * len(jax_side.loader())
    interrupted = False
    try:
        with progress_bar(total, "step", f"certify {jax_side.dtype}") as bar:
            for step, (mine, theirs) in enumerate(streams):
                if mine is None or theirs is None:
                    divergence = divergence or _located(
                        jax_side, torch_side, names, params, (mine, theirs), step
                    )
                    break
                X = mine[0].astype(jax_side.dtype)
                loss, new = take(params, X, mine[1])
                other_loss, other_new = _torch_step(torch_side, names, params, theirs)
                ours = {s: _fitting(tree, params) for s, tree in zip(SIDES, (new, other_new),
                        strict=True)}  # fmt: skip
                verdict, kinks = judge(params, X, mine[1], ours, {"jax": loss, "torch": other_loss})
                labels = labels or tuple(k for k, _ in kinks)
                found.append((verdict, [count for _, count in kinks]))
                losses.append(float(loss))
                bar.update()
                if divergence is None and not _inside(verdict):
                    divergence = _located(jax_side, torch_side, names, params, (mine, theirs), step)
                    if stop:
                        break
                params = new
    except KeyboardInterrupt:
        interrupted = True
    finally:
        torch_side.load(kept)
    found = found[: len(losses)]
    verdicts, counts = jax.device_get(([v for v, _ in found], [c for _, c in found]))
    reported = {own: name for name, (own, _) in names.items()} | {"loss": "loss"}
    margins = {
        s: {reported[leaf]: np.array([v[s][leaf] for v in verdicts]) for leaf in reported}
        for s in SIDES
    }
    visible = np.array([v["visible"] for v in verdicts])
    kinks_by_line: dict[str, np.ndarray] = {}
    for i, label in enumerate(labels):
        kinks_by_line[label] = kinks_by_line.get(label, 0) + np.array([c[i] for c in counts])
    seconds = time.perf_counter() - start
    result = Trajectory(jax_side.dtype, margins, visible, kinks_by_line, np.array(losses), seconds,
                        divergence, {"epochs": epochs})  # fmt: skip
    if interrupted:
        raise Interrupted(result)
    return result


@lru_cache(maxsize=8)
def _programs(stages: Stages) -> tuple[Any, Any]:
    return stages.compiled(stages.step), _judge(stages, ROUNDOFF[stages.side.dtype])


def _judge(stages: Stages, roundoff: float) -> Any:
    """Compiled: (params, X, y, {side: new params}, {side: loss}) -> (margins, kinks)."""
    certain = bounded(stages.step, roundoff=roundoff, masks=False)

    def judge(params: Tree, X: Any, y: Any, new: dict[str, Tree], loss: dict[str, Any]) -> Any:
        b: Bounds = certain(params, X, y)
        value, room = (_merged(*tree) for tree in (b.value, b.bound))
        margins: dict[str, Any] = {
            s: {
                leaf: _margin(array, value[leaf], ROOM * room[leaf])
                for leaf, array in _merged(loss[s], new[s]).items()
            }
            for s in SIDES
        }
        seen = [
            jnp.min(jnp.where(moved > 0, room[leaf] / moved, jnp.inf))
            for leaf, w in params.items()
            for moved in [jnp.abs(value[leaf] - w)]
        ]
        return margins | {"visible": 2 * jnp.min(jnp.stack(seen))}, [k.count for k in b.kinks]

    labels: list[str] = []
    jitted = jax.jit(judge)

    def run(*args: Any) -> Any:
        with jax.enable_x64(True):
            if not labels:
                kinks = jax.eval_shape(certain, *args[:3]).kinks
                labels.extend(f"{k.primitive} {k.source.rsplit('/', 1)[-1]}" for k in kinks)
            margins, counts = jitted(*args)
            return margins, list(zip(labels, counts, strict=True))

    return run


def _torch_step(
    side: TorchSide, names: Mapping[str, tuple[str, str]], params: Tree, batch: Batch
) -> tuple[np.ndarray, Tree]:
    side.load({theirs: np.asarray(params[own]) for own, theirs in names.values()})
    one = side.evaluate(*batch)
    return one.loss, {own: one.step[theirs] for own, theirs in names.values()}


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


def _margin(x: Any, value: Any, room: Any) -> Any:
    """Largest |x - value| / room; inf for anything not finite, or any difference without room."""
    x = jnp.asarray(x).astype(jnp.float64)
    error = jnp.abs(x - value)
    margin = jnp.where(error == 0, 0.0, error / room)
    finite = jnp.isfinite(x) & jnp.isfinite(room) & ~jnp.isnan(margin)
    return jnp.max(jnp.where(finite, margin, jnp.inf))


def _merged(loss: Any, params: Tree) -> Tree:
    return {"loss": loss, **params}


def _fitting(tree: Tree, like: Tree) -> Tree:
    """The tree; NaN in place of an array whose shape is wrong, so that it fails and isn't lost."""
    return {
        name: leaf if np.shape(leaf) == np.shape(like[name]) else np.full(np.shape(like[name]),
        np.nan, np.dtype(like[name].dtype)) for name, leaf in tree.items()
    }  # fmt: skip


def _inside(verdict: Any) -> bool:
    return all(float(m) <= 1 for s in SIDES for m in verdict[s].values())


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(v) for v in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return str(value) if isinstance(value, float) and not np.isfinite(value) else value
