"""The clean pairs that faults are planted in, and what of each all its faulty copies share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import optax
from jaxtyping import Float, Int

import jax_mlp
import jax_mlp.checkpoint
from mlp_core.activations import NAMES
from mlp_core.weights import canonical_names
from parity.levels.ladder import LEVELS, climb
from parity.levels.level import Level, Result
from parity.levels.pair import Pair
from parity.problem import Examples
from parity.sides.pairs import JaxSide, Pullback, Run, book_pair, paired, torch_threads
from parity.studies.faults.changes import CLIP, MOMENTUM, optimizer
from parity.studies.faults.port import Plant, Port, same
from parity.trees import Arrays

PRECISIONS = ("float32", "float64")
EPOCHS, BATCH, RATE, SEED = 3, 32, 0.1, 5
HIDDENS, CLASSES, SIZE, SPREAD = (9, 9), 4, 3, 0.5  # square kernels; images of 3 by 3
COUNTS = 70, 40  # both sets end in a partial batch

# Compiling a bound takes seconds, and the whole ladder four of them. A pair that stands for one
# matter alone is asked only what shows it.
CURVED: dict[str, tuple[str, ...]] = {
    name: ("float64",) for name in ("logits", "loss", "gradients", "step")
} | {"identity": ()}
ASKED: dict[str, dict[str, tuple[str, ...]]] = {
    "mlp": {
        name: ()
        for name in ("inputs", "weights", "identity", "initial weights", "probes", "accuracy")
    },
    "tanh": {"initial weights": (), **CURVED},
    "gelu": CURVED,
    "gelu_tanh": CURVED,
    "bits": {"same bits": ()},
}


class Clipped(jax_mlp.MLPScratch):
    """The book's scratch model, whose optimiser clips and remembers: so that both can go wrong."""

    def configure_optimizers(self) -> optax.GradientTransformation:
        descent = optax.sgd(self.lr, momentum=MOMENTUM)
        return optax.chain(optax.clip_by_global_norm(CLIP), descent)


# What makes Torch's model of the same name into the partner of JAX's, where it isn't yet.
PARTNERS: dict[str, Plant] = {"scratch": optimizer()}


class Remembered(JaxSide):
    """A JAX side that computes each thing once: it is clean and deterministic."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._seen: dict[Any, Any] = {}

    def batches(self, train: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if train not in self._seen:
            self._seen[train] = list(super().batches(train))
        return iter(self._seen[train])

    def reproducible_epoch(self) -> Run:
        key = tuple(a.tobytes() for a in self.params().values())
        if key not in self._seen:
            self._seen[key] = super().reproducible_epoch()
        return self._seen[key]

    def twins(self, epochs: int, count: int, spread: float) -> list[Run]:
        key = epochs, count, spread, *(a.tobytes() for a in self.params().values())
        if key not in self._seen:
            self._seen[key] = super().twins(epochs, count, spread)
        return self._seen[key]

    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        key = tuple(np.asarray(a).tobytes() for a in (*params.values(), X, cotangent))
        if key not in self._seen:
            self._seen[key] = super().pullback(params, X, cotangent)
        return self._seen[key]


class Bench:
    """A clean pair, and the ladder for any fault in its Torch side.

    levels: of which a pair other than "scratch" is asked a few.
    """

    def __init__(self, name: str = "scratch", levels: Sequence[Level] | None = None) -> None:
        self.name = name
        self.levels = _asked(name, LEVELS if levels is None else levels)
        curved = name in NAMES  # whose activation it is then, and whose spread of initial weights
        rows = BATCH if curved else None  # one shape of batch: one bound to compile
        X, y, X_val, y_val = small_images(np.random.default_rng(0))
        self.examples = Examples((X[:rows], y[:rows], X_val, y_val), BATCH, SEED)
        kind = "mlp" if name == "mlp" else "scratch"
        hiddens = HIDDENS[:1] if curved else HIDDENS
        spread = None if kind == "mlp" else SPREAD
        activation = name if curved else "relu"
        sizes = SIZE**2, CLASSES
        ours, self._theirs = book_pair(kind, hiddens, RATE, SEED, *sizes, spread, activation)
        if name == "scratch":
            ours = Clipped(*sizes, hiddens, RATE)
        self.drawn = SPREAD if curved else None
        self.jax: dict[str, Any] = {p: Remembered(ours, self.examples, p) for p in PRECISIONS}
        port = Port(self._theirs, self.examples)
        for side in self.jax.values():
            paired(side, port)
        self.source = port.params()
        self._shared: dict[Any, Any] = {}
        self._runs: dict[Any, Any] = {}

    @cached_property
    def clean(self) -> tuple[Result, ...]:
        """The honest pair on every level. What JAX computes for it is kept."""
        pair = self.pair(lambda port: None)
        for side in self.jax.values():
            side.load(pair.params)
        results = self.judged(pair)
        self._shared = {k: v for k, v in pair.kept.items() if "torch" not in k}
        self._honest_draws = pair.kept.get(("initial weights", "torch"))
        self._runs = {key: run for key, run in pair.runs() if key[0] == "jax"}
        return results

    def judge(self, plant: Plant) -> tuple[Result, ...]:
        """What the levels find with a fault planted."""
        assert self.clean  # first, so that its work is shared
        return self.judged(self.pair(plant))

    def pair(self, plant: Plant) -> Pair:
        """The ladder's view of JAX and of a port with a fault in it."""
        ports: dict[str, Any] = {p: Port(self._theirs, self.examples, p) for p in PRECISIONS}
        for port in ports.values():
            paired(self.jax["float32"], port)
            port.sigma = self.drawn
            PARTNERS.get(self.name, same)(port)
            plant(port)
            port.load(self.source)
        pair = Pair(self.jax, ports, self.examples, EPOCHS, dict(self.source))
        drawn = ports["float32"]
        pair.initial = {"jax": self._initial, "torch": drawn.initial}
        pair.kept.update(self._shared)
        # Few faults touch what is drawn: with the side's own method it is what it was.
        if self._shared and "initial" not in vars(drawn):
            pair.kept["initial weights", "torch"] = self._honest_draws
        pair._runs.update(self._runs)
        return pair

    def judged(self, pair: Pair, leave_out: Sequence[str] = ()) -> tuple[Result, ...]:
        levels = [level for level in self.levels if level.name not in leave_out]
        # A fault may overflow: that is its effect.
        with np.errstate(all="ignore"), torch_threads(1):
            return tuple(climb(pair, levels))

    def _initial(self, seed: int) -> Arrays:
        """The parameters W1 b1 ... of a new 784-256-10 of NNX layers."""
        ours = book_pair("mlp", (256,), 0.1, seed, sigma=self.drawn)[0]
        named = jax_mlp.checkpoint.named_params(ours)
        return {key: np.asarray(named[own]) for key, own in canonical_names(named)[1].items()}


def small_images(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Two sets of 3 by 3 bytes over 255, in 4 classes; every tenth image is blank, for the ties."""
    means = rng.integers(0, 128, (CLASSES, 1, SIZE, SIZE))

    def draw(n: int) -> tuple[Float[np.ndarray, "n 1 h w"], Int[np.ndarray, " n"]]:
        y = rng.integers(0, CLASSES, n).astype(np.int32)
        X = means[y] + rng.integers(0, 128, (n, 1, SIZE, SIZE))
        X[::10] = 0
        return X.astype(np.float32) / np.float32(255), y

    return *draw(COUNTS[0]), *draw(COUNTS[1])


def _asked(name: str, levels: Sequence[Level]) -> tuple[Level, ...]:
    if name not in ASKED:
        return tuple(levels)
    asked = ASKED[name]
    return tuple(
        replace(level, precisions=asked[level.name] or level.precisions)
        for level in levels
        if level.name in asked
    )
