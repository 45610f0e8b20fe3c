"""check and assert_parity: the ladder as a library call on a pair of models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jax_mlp import programs
from mlp_core import fashion_mnist
from parity.config import CheckConfig
from parity.levels.curve import curves
from parity.levels.every_step import Trajectory
from parity.levels.ladder import LEVELS, climb
from parity.levels.rungs import Level, Result, Rungs
from parity.locate.divergence import Divergence, locate
from parity.sides.pairs import Examples, JaxSide, TorchSide
from parity.sides.usable import as_arrays, refuse_unusable, told_apart
from parity.sides.weights import pair_names

DEFAULTS = CheckConfig()


@dataclass(frozen=True)
class Verdict:
    """What `check` found. ok: every level agreed that was not skipped, and none was vacuous.

    results: one entry for each level and precision. curves: {"jax float32": {"train_loss": ...}}.
    about: the models, versions, devices, precision, data and arguments of this check.
    divergence: if one batch shows a difference, or one of the certified steps, the first level of
    it that leaves its bound, the element, and for each later level whether its error was inherited
    or made there. trajectory: the certified steps, if they were asked for.
    """

    pair: str
    results: tuple[Result, ...]
    curves: dict[str, dict[str, np.ndarray]]
    about: dict[str, Any]
    divergence: Divergence | None = None
    trajectory: Trajectory | None = None

    @property
    def ok(self) -> bool:
        asked = [r for r in self.results if not r.skipped]
        return bool(asked) and all(r.ok for r in asked)

    def __str__(self) -> str:
        lines = [f"{self.pair}: {'agree' if self.ok else 'DIFFER'}"]
        for r in self.results:
            verdict = "vacuous" if r.vacuous else "ok" if r.ok else "FAILED"
            verdict = f"skipped: {r.skipped.splitlines()[0]}" if r.skipped else verdict
            lines.append(f"  {r.level.name:10} {r.precision:8} {verdict}")
            if not r.ok and not r.vacuous:
                failed = [c for c in r.comparisons if not c.ok]
                lines += [f"      {c}" for c in failed[:5]]
                lines += [f"      and {len(failed) - 5} more"] if len(failed) > 5 else []
        if self.divergence:
            lines.append(f"  First divergence: {self.divergence}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves' arrays, in plain types; non-finite numbers as text."""
        levels = [
            {
                "level": r.level.name,
                "asks": r.level.asks,
                "rule": r.level.rule,
                "precision": r.precision,
                "ok": r.ok,
                "vacuous": r.vacuous,
                "skipped": r.skipped,
                "note": r.note,
                "seconds": round(r.seconds, 3),
                "comparisons": [asdict(c) for c in r.comparisons],
            }
            for r in self.results
        ]
        first = self.divergence.to_json() if self.divergence else None
        found = {"pair": self.pair, "ok": self.ok, "about": self.about, "levels": levels}
        steps = self.trajectory.to_json() if self.trajectory else None
        return _plain(found | {"first divergence": first, "every step": steps})


@programs.kept()
def check(
    one: Any,
    other: Any,
    data: Any = None,
    *,
    weights: Mapping[str, str] | Callable[[dict[str, np.ndarray]], Any] | None = None,
    epochs: int = DEFAULTS.epochs,
    batch_size: int = DEFAULTS.batch_size,
    seed: int = DEFAULTS.seed,
    lr: float = DEFAULTS.lr,
    certify: bool = DEFAULTS.certify,
    levels: Sequence[Level | str] = LEVELS,
    pair: str | None = None,
    on_start: Callable[[str], None] = lambda what: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Verdict:
    """Load the Torch model's weights into the JAX model and climb the ladder with both.

    one, other: the models, in either order. Torch's is a torch.nn.Module; JAX's a flax.nnx.Module,
    or (function, params), function(params, X) -> logits with params any pytree of arrays.
    Classifiers of this project train by their own loss and optimiser; any other model by
    cross-entropy and plain SGD at rate `lr`. Neither model is changed.
    data: a batch (X, y), or (X, y, X_val, y_val): float32 inputs [n, ...], integer labels [n]; or a
    folder of Fashion-MNIST, "sample", None to look for it.
    weights: a table {path in the JAX model: name in the Torch model} of every parameter, for
    instance {"out.kernel": "head.weight"}, or the other way round, where the weight of an nn.Linear
    is turned to [in, out];
    or a function that takes Torch's {name: array}, oriented as in its state_dict, and returns JAX's
    {path: array}, nested or not, by transposing, reshaping, splitting, joining; None pairs MLPs by
    their layers, and equal names.
    levels: those to climb, or their names: ("logits", "step").
    epochs: length of the training curves. certify: whether every step of them is judged by its own
    rounding bound, which takes about as long as four trainings. on_start, on_result: called
    as levels begin and end.

    Compiled programs are kept in the user's cache, unless JAX has a folder for them already.
    Returns a Verdict. Raises TypeError for what is no such model; ValueError if parameters cannot
    be paired or have other shapes, if the outputs have, if inputs aren't finite, if something lies
    on another device than the CPU in Torch, or if a model gives different outputs for the same
    inputs.
    """
    chosen = _levels(levels)
    examples = Examples(_resolved(data), batch_size, seed)
    dtypes = ("float32", "float64")
    jax_model, torch_model = told_apart(one, other)
    move, names = (weights, None) if callable(weights) else (None, weights)
    jax_sides = {dtype: JaxSide(jax_model, examples, dtype, lr) for dtype in dtypes}
    torch_sides = {dtype: TorchSide(torch_model, examples, dtype, lr, move) for dtype in dtypes}
    source = torch_sides["float32"].params()
    paired = pair_names(jax_sides["float32"].params(), source, names)
    rungs = Rungs(
        jax_sides, torch_sides, paired, examples, epochs, on_start=on_start, certify=certify
    )
    rungs.params = rungs.rename(source, "torch")
    for dtype in dtypes:
        jax_sides[dtype].load({a: rungs.params[name] for name, (a, _) in paired.items()})
        torch_sides[dtype].load({b: rungs.params[name] for name, (_, b) in paired.items()})
    refuse_unusable(jax_sides["float32"], torch_sides["float32"])
    results = []
    for result in climb(rungs, chosen):
        results.append(result)
        on_result(result)
    jax_about, torch_about = jax_sides["float32"].about(), torch_sides["float32"].about()
    about = {
        "jax": jax_about,
        "torch": torch_about,
        "parameters": {name: list(array.shape) for name, array in rungs.params.items()},
        "batch_size": batch_size,
        "epochs": epochs,
        "seed": seed,
        "certify": certify,
    }
    all_curves = {
        f"{side} {dtype}" if scale == 1.0 else "yardstick": curves(run)
        for (side, dtype, scale), run in rungs.runs()
    }
    label = pair or f"{jax_about['model']} = {torch_about['model']}"
    first = _first_divergence(rungs, results)
    return Verdict(label, tuple(results), all_curves, about, first, rungs.certified)


def _first_divergence(rungs: Rungs, results: Sequence[Result]) -> Divergence | None:
    """The step from the shared weights taken apart, where a level of one batch failed; or the first
    certified step that did."""
    for r in results:
        one_batch = r.level.name in ("logits", "loss", "gradients", "step")
        if one_batch and not r.ok and not rungs.unbounded(r.precision):
            sides = rungs.jax[r.precision], rungs.torch[r.precision]
            for batch in rungs.batches.values():
                if found := locate(*sides, rungs.names, rungs.params, (batch, batch), step=0):
                    return found
    return rungs.certified.divergence if rungs.certified else None


def assert_parity(one: Any, other: Any, data: Any = None, **options: Any) -> Verdict:
    """`check`, which raises AssertionError with every failed comparison unless all levels agree."""
    verdict = check(one, other, data, **options)
    if not verdict.ok:
        raise AssertionError(str(verdict))
    return verdict


def _levels(levels: Sequence[Level | str]) -> list[Level]:
    known = {level.name: level for level in LEVELS}
    if unknown := [name for name in levels if isinstance(name, str) and name not in known]:
        raise ValueError(f"levels: no {unknown}; there are {list(known)}")
    return [known[level] if isinstance(level, str) else level for level in levels]


def _resolved(data: Any) -> Any:
    """Arrays in the form that both sides take; or where Fashion-MNIST is, announced once."""
    if not isinstance(data, (tuple, list)):
        return "sample" if fashion_mnist.load(data).is_sample else data
    return as_arrays(data)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
