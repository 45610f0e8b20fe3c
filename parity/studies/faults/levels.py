"""Three more levels, for what no step from shared weights can show: init, accuracy, refit."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mlp_core.weights import canonical_names
from parity.compare import Comparison, compare
from parity.levels.curve import YARDSTICK, curves
from parity.levels.ladder import LEVELS
from parity.levels.rungs import Level, Rungs
from parity.sides.side import SIDES
from parity.sides.pairs import Arrays, JaxSide, Run, book_pair

DRAWS = 4  # models whose initial weights are pooled
FALSE_ALARM = 1e-9  # of a comparison of two samples of one distribution, at most


class DrawingJaxSide(JaxSide):
    """A JAX side that can draw a new 784-256-10 of NNX layers. sigma: as MLP takes it."""

    sigma: float | None = None

    def initial(self, seed: int) -> Arrays:
        import jax_mlp.checkpoint

        ours = book_pair("mlp", (256,), 0.1, seed, sigma=self.sigma)[0]
        named = jax_mlp.checkpoint.named_params(ours)
        return {key: np.asarray(named[own]) for key, own in canonical_names(named)[1].items()}


def judge_init(rungs: Rungs, precision: str) -> list[Comparison]:
    """Kolmogorov-Smirnov: initial parameters of both sides, leaf by leaf.

        D = max_x |F(x) - G(x)|  <=  e(n) + e(m),    e(n) = sqrt(ln(4 / alpha) / 2n)

    F, G: empirical distributions of n and m values. Each is within e of its true one with
    probability 1 - alpha/2 (Massart 1990), so alpha = 1e-9 bounds the rate of false alarms; and
    true distributions at least 2 (e(n) + e(m)) apart are found with probability 1 - alpha.
    That is 0.03 for the 200,704 weights of a first layer in each of 4 models, and 0.41 for its 256
    biases; Torch's uniform and Flax's LeCun normal are 0.16 apart, and 0.5 from zero biases.
    """
    sides: list[Any] = [rungs.jax["float32"], rungs.torch["float32"]]
    if not all(hasattr(side, "initial") for side in sides):
        return []
    kept = rungs._evaluations.setdefault("init", {})
    # Few faults touch what is drawn: with the side's own method it is what it was.
    key = None if "initial" in vars(sides[1]) else "honest"
    if key in kept:
        return kept[key]
    if "jax" not in kept:
        kept["jax"] = _pooled(sides[0])
    samples = kept["jax"], _pooled(sides[1])
    found = []
    for name in samples[0]:
        a, b = (sample[name] for sample in samples)
        room = sum(np.sqrt(np.log(4 / FALSE_ALARM) / (2 * len(x))) for x in (a, b))
        label = f"distribution of initial {name} ({len(a):,} values; shows {2 * room:.2g})"
        found.append(compare(distance(a, b), 0.0, room, name=label, sides=("distance", "expected")))
    if key:
        kept[key] = found
    return found


def distance(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> float:
    """The Kolmogorov-Smirnov distance of two sorted samples."""
    x = np.concatenate([a, b])
    F, G = (np.searchsorted(s, x, side="right") / len(s) for s in (a, b))
    return float(np.abs(F - G).max())


def judge_accuracy(rungs: Rungs, precision: str) -> list[Comparison]:
    """Hits and accuracy of both sides on the same small-integer logits, many of them tied.

    A hit is 0 or 1 and has no room. The mean is a sum of ones, exact, divided by n or multiplied by
    its rounded inverse: two roundings a side, 2 * (2 u + u^2) of it.
    """
    classes = rungs.evaluate("torch", "float32", next(iter(rungs.batches))).logits.shape[-1]
    z, y = tied_logits(classes)
    ours, theirs = _hits(rungs, z, y), _torch_hits(rungs.torch["float32"], z, y)
    u = 2.0**-24
    room = 2 * (2 * u + u * u) * abs(float(ours[1]))
    return [
        compare(ours[0], theirs[0], name="hits", sides=SIDES),
        compare(ours[1], theirs[1], room, name="accuracy", sides=SIDES),
    ]


def tied_logits(
    classes: int,
) -> tuple[Float[np.ndarray, "examples classes"], Int[np.ndarray, "examples"]]:
    """Logits of 0, 1, 2 and all labels, so that two largest logits are often equal."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (7 * classes, classes)).astype(np.float32)
    z[0] = 0
    return z, np.resize(np.arange(classes, dtype=np.int32), len(z))


def judge_refit(rungs: Rungs, precision: str) -> list[Comparison]:
    """A second fit from the same weights against the first, on each side.

    As close as on the level `curve`: nearer than a run whose updates are off by one part in 10^9.
    """
    off = rungs.run("jax", precision, 1 + YARDSTICK)
    exact = rungs.run("jax", precision)
    reach = _reach(rungs, exact, off)
    found = []
    for s in SIDES:
        first, again = (
            _flat(run) for run in (rungs.run(s, precision), _refit(rungs, s, precision))
        )
        for name, room in reach.items():
            label = f"second fit: {name}"
            sides = ("first", "second")
            room = _of_length(room, first[name])
            found.append(compare(first[name], again[name], room, name=f"{s} {label}", sides=sides))
    return found


INIT = Level(
    "init",
    "Are initial weights drawn from the same distribution?",
    f"Kolmogorov-Smirnov, false alarms below {FALSE_ALARM:g}",
    judge_init,
    ("bits",),
)
ACCURACY = Level(
    "accuracy",
    "Same hits on the same logits, tied ones too?",
    "same bits",
    judge_accuracy,
    ("float32",),
)
REFIT = Level(
    "refit",
    "Does a second fit from the same weights repeat the first?",
    "closer than a run with updates off by 1e-9",
    judge_refit,
    ("float64",),
)  # fmt: skip


def with_more(levels: Sequence[Level] = LEVELS) -> tuple[Level, ...]:
    """The ladder with these levels where they belong, unless it has them already."""
    names = [level.name for level in levels]
    after = {"weights": (INIT,), "loss": (ACCURACY,), "curve": (REFIT,)}
    return tuple(
        one
        for level in levels
        for one in (level, *after.get(level.name, ()))
        if one is level or one.name not in names
    )


def _pooled(side: Any) -> dict[str, np.ndarray]:
    """All values of each leaf, sorted."""
    models = [side.initial(seed) for seed in range(DRAWS)]
    return {n: np.sort(np.concatenate([np.ravel(m[n]) for m in models])) for n in models[0]}


def _hits(rungs: Rungs, z: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    key = "accuracy", "jax"
    if key not in rungs._evaluations:
        import jax.numpy as jnp

        model: Any = rungs.jax["float32"].model
        both = [model.accuracy(jnp.asarray(z), jnp.asarray(y), averaged=a) for a in (False, True)]
        rungs._evaluations[key] = [np.asarray(x) for x in both]
    return rungs._evaluations[key]


def _torch_hits(side: Any, z: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    like = next(side.model.parameters()).detach()
    given = like.new_tensor(z), like.new_tensor(y).long()
    return [side.model.accuracy(*given, averaged=a).numpy() for a in (False, True)]


def _refit(rungs: Rungs, s: str, precision: str) -> Run:
    key = "refit", s, precision
    if key not in rungs._evaluations:
        run = getattr(rungs, s)[precision].train(rungs.epochs)
        rungs._evaluations[key] = Run(run.history, rungs.rename(run.params, s))
    return rungs._evaluations[key]


def _flat(run: Run) -> dict[str, np.ndarray]:
    return curves(run) | {f"final {name}": array for name, array in run.params.items()}


def _reach(rungs: Rungs, exact: Run, off: Run) -> dict[str, Any]:
    floor = float(rungs.reference("float64", next(iter(rungs.batches))).bound.loss)
    room: dict[str, Any] = {}
    for name, curve in curves(exact).items():
        wrong = curves(off)[name]
        away = np.maximum.accumulate(np.abs(curve[: len(wrong)] - wrong))
        least = 0.5 / rungs.val_examples if name == "val_acc" else 2 * floor
        room[name] = least + np.pad(away, (0, len(curve) - len(away)), mode="edge")
    for name, array in exact.params.items():
        room[f"final {name}"] = YARDSTICK * np.abs(array - rungs.params[name]).max()
    return room


def _of_length(room: Any, curve: np.ndarray) -> Any:
    """For a faulty run that has more steps, or fewer."""
    if np.ndim(room) == 0:
        return room
    return np.pad(room, (0, max(0, len(curve) - len(room))), mode="edge")[: len(curve)]
