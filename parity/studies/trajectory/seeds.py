"""Seed-level equivalence: do both sides train to the same accuracy, over many seeds?

    TOST: |mean_jax - mean_torch| < margin,  if both one-sided Welch tests reject at level alpha

Each run has its own initial weights, drawn by its own framework, and its own shuffles. Past the
saturation of rounding (see `envelope`) this is all that can be compared.

margin: 1.96 sqrt(2) s / sqrt(n), s the spread over the n validation examples: two models further
apart would be told apart, at 95%, by validation on two independent sets of this size; closer, the
data themselves can't tell. Source: Schuirmann 1987 (TOST); Welch 1947.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jax_mlp.training import scan_batches
from mlp_core.checkpoint import told
from mlp_core.files import plain
from mlp_core.shell import progress_bar
from mlp_core.stopping import Stop
from mlp_core.work import Work
from parity.device import Device
from parity.problem import Training
from parity.sides.pairs import Examples, JaxSide, TorchSide
from parity.sides.reference import Reference
from parity.trees import Leaves

LEVEL, POWER = 0.05, 0.9
ALARM = 1e-3  # how often a faithful port may be called different


@dataclass(frozen=True)
class Equivalence:
    """One figure over the seeds of both sides. margin: largest difference of means that counts as
    none."""

    name: str
    jax: Float[np.ndarray, "seeds"]
    torch: Float[np.ndarray, "seeds"]
    margin: float

    @property
    def difference(self) -> float:
        return float(self.jax.mean() - self.torch.mean())

    @property
    def error(self) -> tuple[float, float]:
        """(standard error of the difference, Welch's degrees of freedom)."""
        a, b = (x.var(ddof=1) / len(x) for x in (self.jax, self.torch))
        if a + b == 0:
            return 0.0, float(len(self.jax) + len(self.torch) - 2)
        return float(np.sqrt(a + b)), float(
            (a + b) ** 2 / (a**2 / (len(self.jax) - 1) + b**2 / (len(self.torch) - 1))
        )

    @property
    def p(self) -> float:
        """P of means this close, or closer, if the true difference were the margin (TOST)."""
        from scipy import stats

        se, df = self.error
        if se == 0:
            return float(abs(self.difference) >= self.margin)
        return float(stats.t.sf((self.margin - abs(self.difference)) / se, df))

    @property
    def p_equal(self) -> float:
        """P of means this far apart if the true means were equal (Welch)."""
        from scipy import stats

        se, df = self.error
        if se == 0:
            return float(self.difference == 0)
        return float(2 * stats.t.sf(abs(self.difference) / se, df))

    @property
    def power(self) -> float:
        """Probability that equivalence is shown if the true means are equal."""
        from scipy import stats

        se, df = self.error
        if se == 0:
            return 1.0
        room = self.margin / se - stats.t.ppf(1 - LEVEL, df)
        return float(max(0.0, 2 * stats.t.cdf(room, df) - 1))

    @property
    def needed(self) -> int:
        """Seeds a side with which equal means would be shown to be so with probability POWER."""
        from scipy import stats

        spread = np.hypot(self.jax.std(ddof=1), self.torch.std(ddof=1))
        z = stats.norm.ppf(1 - LEVEL) + stats.norm.ppf((1 + POWER) / 2)
        return max(3, int(np.ceil((z * spread / self.margin) ** 2)))

    @property
    def detectable(self) -> float:
        """The smallest true difference that Welch's test at ALARM finds with probability POWER."""
        from scipy import optimize, stats

        se, df = self.error
        edge = stats.t.ppf(1 - ALARM / 2, df)
        return se * float(
            optimize.brentq(lambda shift: stats.nct.sf(edge, df, shift) - POWER, 0.0, 10 * edge)
        )

    @property
    def verdict(self) -> str:
        """equivalent; different; or undecided, where more seeds are needed."""
        if self.p < LEVEL:
            return "equivalent"
        return "different" if self.p_equal < ALARM else "undecided"

    @property
    def ok(self) -> bool:
        return self.verdict == "equivalent"

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.verdict}; jax {self.jax.mean():.4f} +- {self.jax.std(ddof=1):.4f}"
            f", torch {self.torch.mean():.4f} +- {self.torch.std(ddof=1):.4f} over {len(self.jax)} "
            f"and {len(self.torch)} seeds, difference {self.difference:+.2g}, margin "
            f"{self.margin:.2g} (TOST p {self.p:.2g}, power {self.power:.0%}; a true difference of "
            f"{self.detectable:.2g} would be found with {POWER:.0%}; {self.needed} seeds a side "
            f"would show equivalence with {POWER:.0%})"
        )


@dataclass(frozen=True)
class Seeds:
    """What `compare_seeds` found."""

    figures: tuple[Equivalence, ...]
    seconds: dict[str, float]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return bool(self.figures) and all(f.ok for f in self.figures)

    def __str__(self) -> str:
        return "\n".join(str(f) for f in self.figures)

    def to_json(self) -> dict[str, Any]:
        keys = ("margin", "difference", "p", "p_equal", "power", "detectable", "needed", "verdict")
        figures = [
            {"name": f.name, "jax": plain(f.jax), "torch": plain(f.torch)}
            | {key: plain(getattr(f, key)) for key in keys}
            for f in self.figures
        ]
        return {"ok": self.ok, "figures": figures, "seconds": self.seconds, "about": self.about}


def compare_seeds(
    jax_model: Callable[[int], Any],
    torch_model: Callable[[int], Any],
    examples: Examples,
    epochs: int,
    *,
    seeds: Sequence[int] = tuple(range(16)),
    lr: float = 0.1,
    device: Device | None = None,
    work: Work | None = None,
) -> Seeds:
    """Final validation accuracy and loss of both sides over seeds, and a test of equivalence.

    jax_model, torch_model: seed -> a model with the initial weights of that seed. JAX's are
    trained all at once, vmapped over seeds and scanned over steps; Torch's one after the other, by
    their own Trainer. The shuffles of run i: of the Schedule with seed seeds[i] in JAX and, so that
    the samples are independent, 1000 + seeds[i] in Torch.
    work: saved after JAX's runs and after each of Torch's, and gone on from.
    Raises ValueError for fewer than 3 seeds, or without validation data.
    """
    if len(set(seeds)) < 3:
        raise ValueError(f"compare_seeds: seeds {list(seeds)}, expected at least 3 different ones")
    training = Training(lr=lr)
    side = JaxSide(jax_model(seeds[0]), examples, training=training, device=device)
    if side.loader(train=False) is None:
        raise ValueError("compare_seeds: no validation data")
    start = time.perf_counter()
    sides = [
        side,
        *(
            JaxSide(jax_model(seed), examples, training=training, device=device)
            for seed in seeds[1:]
        ),
    ]
    accuracy: list[float] = []
    loss: list[float] = []
    work = work or Work(None, {}, Stop(), None)
    if work.found is not None:
        arrays = work.found.arrays
        with told(work.found.path):
            losses, hits = arrays["losses"], arrays["hits"]
            accuracy, loss = arrays["accuracy"].tolist(), arrays["loss"].tolist()
            jax_seconds, before = arrays["seconds"].tolist()
            if {losses.shape, hits.shape} != {(len(seeds), losses.shape[-1])}:
                raise ValueError("other seeds")
    else:
        losses, hits = _train_jax(side, [s.params() for s in sides], seeds, epochs)
        jax_seconds, before = time.perf_counter() - start, 0.0
    start = time.perf_counter() - before

    def kept() -> Any:
        took = [jax_seconds, time.perf_counter() - start]
        figures = {"losses": losses, "hits": hits, "accuracy": accuracy, "loss": loss}
        return {n: np.array(a) for n, a in (figures | {"seconds": took}).items()}, {}

    if work.found is None:
        work.save(0, kept)
    with progress_bar(len(seeds), "seed", "torch") as bar:
        bar.update(len(loss))
        for seed in seeds[len(loss) :]:
            shuffled = Examples(examples.source, examples.batch_size, 1000 + seed)
            run = TorchSide(torch_model(seed), shuffled, training=training, device=device).train(
                epochs
            )
            accuracy.append(run.history.val("acc")[-1])
            loss.append(run.history.val("loss")[-1])
            bar.update()
            work.save(len(loss), kept)
    n = losses.shape[1]

    def margin(scores: np.ndarray) -> float:
        return float(1.96 * np.sqrt(2) * scores.std(axis=1).mean() / np.sqrt(n))

    figures = (
        Equivalence("accuracy", hits.mean(axis=1), np.array(accuracy), margin(hits)),
        Equivalence("loss", losses.mean(axis=1), np.array(loss), margin(losses)),
    )
    took = {"jax": round(jax_seconds, 2), "torch": round(time.perf_counter() - start, 2)}
    about = {"epochs": epochs, "seeds": list(seeds), "validation examples": n}
    return Seeds(figures, took, about)


def _train_jax(
    side: JaxSide, initial: list[Leaves], seeds: Sequence[int], epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """(validation loss of each example [seeds, n], hit or miss of each [seeds, n]) at the end."""
    reference, train, val = Reference(side), side.loader(), side.loader(train=False)
    schedules = [replace(train.schedule, seed=seed) for seed in seeds]

    def epoch(carry: Any, arrays: Any, order: Any) -> Any:
        def step(carry: Any, batch: Any) -> tuple[Any, Any]:
            params, state, memory = carry
            loss, parts = reference.step(params, state, memory, (batch,))
            return (parts["step"], parts["state"], parts["memory"]), loss

        size = train.schedule.batch_size
        return scan_batches(step, carry, arrays, order, size, train.transform)[0]

    trained = side.compiled(jax.vmap(epoch, in_axes=(0, None, 0)))
    scored = side.compiled(jax.vmap(reference.scores, in_axes=(0, None, None)))
    start = {name: np.stack([p[name] for p in initial]) for name in initial[0]}
    carry = (start, *({n: np.stack([a] * len(seeds)) for n, a in tree.items()}
                      for tree in (side.state(), side.memory())))  # fmt: skip
    with progress_bar(epochs, "epoch", f"jax, {len(seeds)} seeds") as bar:
        for e in range(epochs):
            orders = np.stack([s.epoch(e) for s in schedules])
            carry = jax.block_until_ready(trained(carry, train.arrays, orders))
            bar.update()
    found = [scored(carry[0], np.asarray(X), np.asarray(y)) for X, y in val]
    losses, hits = (
        np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)
        for parts in zip(*found, strict=True)
    )
    return losses, hits
