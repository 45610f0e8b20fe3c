"""The other half of detection power: random honest networks, on which no level may raise an alarm.

Weights, images, labels and shuffles are drawn anew for each; shapes and optimiser are the bench's,
so that nothing is compiled twice. JAX's Trainer compiles at every fit: its curve is made here by
the same step, compiled once, from the same loader's batches. Torch's side is the whole one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlp_core.history import Epoch, History
from parity.interrupted import Interrupted
from parity.levels.pair import Pair
from parity.sides.pairs import Examples, JaxSide, Run
from parity.sides.reference import Reference
from parity.studies.faults.bench import BATCH, EPOCHS, PRECISIONS, Bench, Remembered, small_images

# Drawn once for all: probes hold fixed integers; init and refit look at no network's weights.
LEFT_OUT = ("identity", "initial weights", "probes", "accuracy", "refit", "same bits")

# Every fourth network has zero biases: on blank images all its units start at a tie. Where a bias's
# gradient cancels to rounding noise, the sign of the noise decides the ReLU for those images, in
# each arithmetic its own way, so that two honest runs may part at once.
TIED = 4


@dataclass(frozen=True)
class CleanRun:
    """Honest networks on the ladder. alarms: what was called a fault, and is none.

    turned: how many were trained past a sign that rounding turned, and so judged by twins.
    largest: by level, the largest share of its bound that any of them used.
    """

    networks: int
    turned: int
    comparisons: int
    alarms: tuple[str, ...]
    largest: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.alarms

    def __str__(self) -> str:
        verdict = f"{len(self.alarms)} FALSE ALARMS" if self.alarms else "no alarm"
        lines = [
            f"{self.networks:,} random honest networks, {self.comparisons:,} comparisons: "
            f"{verdict}; in {self.turned:,} trainings rounding turned a sign"
        ]
        lines += [f"  {alarm}" for alarm in self.alarms[:5]]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "networks": self.networks,
            "turned": self.turned,
            "comparisons": self.comparisons,
            "alarms": list(self.alarms),
            "largest margins": {
                k: v if np.isfinite(v) else str(v) for k, v in self.largest.items()
            },
            "seconds": round(self.seconds, 1),
        }


class Looped(JaxSide):
    """A JAX side that was built already, on other data, trained by one compiled step."""

    _seen: dict[Any, Any]

    def __init__(self, built: Remembered) -> None:
        self.__dict__.update(vars(built))
        self._update = jax.jit(self._one_update)
        self._scores = jax.jit(Reference(self).scores)

    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        with self._settings():
            params, memory = self.params(), self.memory()
            history = History()
            loader = self.loader()
            for _ in range(epochs):
                record = Epoch(steps=0, samples=0, seconds=0.0)
                for batch in loader:
                    X, y = np.asarray(batch[0], self.dtype), np.asarray(batch[1])
                    params, memory, loss = self._update(params, memory, X, y, update_scale)
                    history.train_loss.append(float(loss))
                    record.steps += 1
                    record.samples += len(y)
                found = [
                    self._scores(params, np.asarray(X, self.dtype), y)
                    for X, y in self.batches(train=False)
                ]
                loss, acc = (np.concatenate(figures).mean() for figures in zip(*found, strict=True))
                record.val = {"loss": float(loss), "acc": float(acc)}
                history.epochs.append(record)
            return Run(history, {name: np.array(a) for name, a in params.items()})

    def twins(self, epochs: int, count: int, spread: float) -> list[Run]:
        kept, found = self.params(), []
        for params in self._nearby(count, spread):
            self.load(params)
            found.append(self.train(epochs))
        self.load(kept)
        return found

    def _one_update(self, params: Any, memory: Any, X: Any, y: Any, scale: Any) -> tuple:
        taken = self.taken(params, {}, memory, ((X, y),))
        scaled = {name: w + (taken["step"][name] - w) * scale for name, w in params.items()}
        new = {n: jnp.where(scale == 1.0, taken["step"][n], w) for n, w in scaled.items()}
        return new, taken["memory"], taken["loss"]


def clean_run(
    bench: Bench, networks: int, on_network: Callable[[int], None] = lambda i: None
) -> CleanRun:
    """Judge this many random honest networks on the bench's levels.

    Ctrl-C raises Interrupted with the CleanRun of those that were judged until then.
    """
    start = time.perf_counter()
    assert bench.clean
    sides: dict[str, Any] = {p: Looped(bench.jax[p]) for p in PRECISIONS}
    alarms: list[str] = []
    largest: dict[str, float] = {}
    turned = count = judged = 0
    try:
        for i in range(networks):
            on_network(i)
            pair = honest(bench, sides, i, tied=i % TIED == 0)
            for r in bench.judged(pair, LEFT_OUT):
                count += len(r.comparisons)
                if r.comparisons:
                    largest[r.level.name] = max(largest.get(r.level.name, 0.0), r.worst.margin)
                if not r.ok:
                    alarms.append(f"network {i}, {r.level.name} {r.precision}: {r.worst}")
            turned += any(pair.has_twins(p) for p in PRECISIONS)
            judged += 1
    except KeyboardInterrupt:
        pass  # judged < networks says so
    finally:
        for side in bench.jax.values():
            side.load(bench.source)
    seconds = time.perf_counter() - start
    found = CleanRun(judged, turned, count, tuple(alarms), largest, seconds)
    if judged < networks:
        raise Interrupted(found)
    return found


def honest(bench: Bench, sides: dict[str, Any], number: int, tied: bool) -> Pair:
    """The ladder's view of one random network, its images, its shuffles. tied: zero biases."""
    rng = np.random.default_rng([7, number])
    examples = Examples(small_images(rng), BATCH, int(rng.integers(2**32)))
    params = {
        name: a * 0 if tied and name[0] == "b" else _drawn(rng, a)
        for name, a in bench.source.items()
    }
    pair = bench.pair(lambda port: None)
    for side in (*sides.values(), *pair.torch.values()):
        side.examples = examples
        side.load(params)
        if isinstance(side, Looped):
            side._seen = {}  # batches of the network before
    return Pair(sides, pair.torch, examples, EPOCHS, params)


def _drawn(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """Of any size from 0.01, where units hardly differ, to 3, where the softmax saturates."""
    size = 10 ** rng.uniform(-2, 0.5)
    return (size * rng.standard_normal(like.shape)).astype(like.dtype)
