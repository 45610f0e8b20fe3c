"""The free run against its one-ulp envelope: how far rounding alone drives a training.

    D_k(t) = rms over all weights of ( w_k(t) - mean over the other copies of w(t) )

K copies of JAX's float32 run start from weights each moved by one ulp up or down, in one vmap;
Torch's free float32 run, from the unmoved weights, must not stray further from their mean than
copies do from each other. One ulp at the start is more than Torch's own rounding brings in, on
purpose: what drives copies apart are ReLU signs that flip, a few in hundreds of steps, and each
such flip outweighs all rounding before it. Jitter at every step at the rate at which Torch's
weights really differ (one in a hundred, by an ulp) was measured: in a hundred steps no copy flips,
then a few do, and a spread of copies that moved together says nothing about Torch.

Test: Torch is outside if at some checkpoint log D exceeds a prediction bound for the (K+1)th draw
(Student's t with K-1 degrees of freedom, spread pooled over the C checkpoints, Bonferroni over
them) and if, over all checkpoints, no copy strays as far. False-alarm probability: below
`false_alarm` if log-distances are normal; whatever they are, below 1/(K+1) if Torch is but another
copy, as when it alone flips a sign. Source: Hahn & Meeker, Statistical Intervals (1991), 4.8.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlp_core.checkpoint import told
from mlp_core.files import plain
from mlp_core.shell import progress_bar
from mlp_core.stopping import Stop
from mlp_core.work import Work
from parity.interrupted import Interrupted
from parity.levels.saved_steps import trees_held, trees_of
from parity.sides.pairs import JaxSide, TorchSide
from parity.sides.reference import Reference
from parity.trees import Leaves

FALSE_ALARM = 1e-4


@dataclass(frozen=True)
class Envelope:
    """What `free_run` found. checkpoints: steps taken, [C].

    copies: D_k [K, C]. torch: its distance from the copies' mean [C]. way: rms distance of the
    copies' mean from the initial weights [C].
    """

    checkpoints: np.ndarray
    copies: Float[np.ndarray, "copies checkpoints"]
    torch: Float[np.ndarray, "checkpoints"]
    way: Float[np.ndarray, "checkpoints"]
    seconds: float
    false_alarm: float = FALSE_ALARM
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def limit(self) -> np.ndarray:
        """The largest distance at each checkpoint that Torch may have."""
        from scipy import stats

        K, C = self.copies.shape
        logs = np.log(self.copies)
        # Copies come in clusters, those that share a flip, so that at a single checkpoint the
        # spread may be small by chance: it's pooled over all of them.
        spread = np.sqrt(logs.var(axis=0, ddof=1).mean())
        t = stats.t.ppf(1 - self.false_alarm / C, K - 1)
        return np.exp(logs.mean(axis=0) + t * spread * np.sqrt(1 + 1 / K))

    @property
    def share(self) -> np.ndarray:
        """Torch's distance over the limit, at each checkpoint."""
        return self.torch / self.limit

    @property
    def ok(self) -> bool:
        if not (np.isfinite(self.copies).all() and np.isfinite(self.torch).all()):
            return False
        return bool((self.share <= 1).all() or self.rank > 1 / (1 + len(self.copies)))

    @property
    def rank(self) -> float:
        """P(one of K + 1 copies strays at least as far as Torch): exact for any distribution."""
        strayed = (self.copies / self.limit).max(axis=1)
        torch = self.share.max()
        return float((1 + (strayed >= torch).sum()) / (1 + len(strayed)))

    @property
    def saturated(self) -> int | None:
        """The step from which the median distance grows no faster than a random walk; None if none.

        From there on the slope of log D over log t is at most 1/2: differences add up, but training
        no longer amplifies them. At least the last third of the checkpoints must show it.
        """
        logs, steps = np.log(np.median(self.copies, axis=0)), np.log(self.checkpoints)
        least = max(3, len(steps) // 3)
        for i in range(len(steps) - least + 1):
            if np.polyfit(steps[i:], logs[i:], 1)[0] <= 0.5:
                return int(self.checkpoints[i])
        return None

    def __str__(self) -> str:
        K, C = self.copies.shape
        worst = int(np.argmax(self.share))
        end = float(np.median(self.copies[:, -1]) / self.way[-1])
        flat = "amplified to the end"
        if self.saturated is not None:
            flat = f"not amplified from step {self.saturated:,}"
        return (
            f"{'inside' if self.ok else 'OUTSIDE'} the envelope of {K} copies at {C} checkpoints: "
            f"at most {self.share.max():.2g} of its limit (step {self.checkpoints[worst]:,}), "
            f"a copy strays as far with probability {self.rank:.2g}\n"
            f"  false alarm: {self.false_alarm:g} if normal, at most {1 / (K + 1):.2g}; at the end "
            f"the copies differ by {end:.2g} of the way that training went, {flat}; "
            f"{self.seconds:.1f} s"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "checkpoints": self.checkpoints.tolist(),
            "copies": plain(self.copies),
            "torch": plain(self.torch),
            "limit": plain(self.limit),
            "way": plain(self.way),
            "rank": self.rank,
            "false_alarm": self.false_alarm,
            "saturated": self.saturated,
            "seconds": round(self.seconds, 2),
            "about": self.about,
        }


def free_run(
    jax_side: JaxSide,
    torch_side: TorchSide,
    epochs: int,
    *,
    copies: int = 32,
    per_epoch: int = 10,
    seed: int = 0,
    false_alarm: float = FALSE_ALARM,
    work: Work | None = None,
) -> Envelope:
    """Train K jittered copies in JAX and one run in Torch, all from JAX's loaded parameters.

    per_epoch: checkpoints in an epoch. seed: of the signs of the jitter. Each side brings its own
    batches. What the sides hold stays. work: saved at the end of each epoch, and gone on from.
    Raises ValueError for fewer than 3 copies; at Ctrl-C Interrupted, with the Envelope of the
    checkpoints until then.
    """
    if copies < 3:
        raise ValueError(f"free_run: {copies} copies, expected at least 3 for a spread")
    start = time.perf_counter()
    initial = jax_side.params()
    step_of = Reference(jax_side).step

    def each(params: Any, state: Any, memory: Any, batch: Any) -> Any:
        _, parts = step_of(params, state, memory, (batch,))
        return parts["step"], parts["state"], parts["memory"]

    many = jax_side.compiled(jax.vmap(each, in_axes=(0, 0, 0, None)))
    measure = jax.jit(_distances)
    rng = np.random.default_rng(seed)
    P: Leaves = {name: _jittered(array, copies, rng) for name, array in initial.items()}
    held = jax_side.state(), jax_side.memory()
    rest = [{n: np.stack([a] * copies) for n, a in tree.items()} for tree in held]
    steps = len(jax_side.loader())
    total = epochs * steps
    every = max(1, steps // per_epoch)
    checkpoints: list[int] = []
    found: list[Any] = []
    interrupted = False
    work = work or Work(None, {}, Stop(), None)
    done = work.step
    theirs_now: Any = (initial, held[0], {})
    if work.found is not None:
        arrays, facts = work.found.arrays, work.found.facts
        with told(work.found.path):
            theirs_now = trees_of(_of("torch", arrays))
            P, *rest = trees_of(_of("copies", arrays))
            checkpoints = [int(step) for step in facts["checkpoints"]]
            figures = (arrays["own"], arrays["distance"], arrays["way"])
            found = [*zip(*figures, strict=True)]
            start -= float(facts["seconds"])

    def kept(taken: Any) -> Any:
        own = {f"copies/{n}": a for n, a in trees_held((P, *rest)).items()}
        trees = trees_held((taken.params, taken.state, taken.memory))
        arrays = own | {f"torch/{n}": a for n, a in trees.items()}
        for name, part in zip(("own", "distance", "way"), zip(*found, strict=True), strict=True):
            arrays[name] = np.array(part)
        seconds = time.perf_counter() - start
        return arrays, {"checkpoints": checkpoints, "seconds": seconds}

    try:
        with torch_side.training(), progress_bar(total, "step", f"{copies} copies") as bar:
            params, state, memory = theirs_now
            torch_side.restart(params, state, memory, first=not done)
            streams = zip(jax_side.stream(epochs), torch_side.stream(epochs), strict=True)
            bar.update(done)
            for step, ((X, y), theirs) in enumerate(islice(streams, done, None), done + 1):
                P, *rest = many(P, *rest, (X, y))
                taken = torch_side.step(theirs)
                torch = taken.params
                bar.update()
                if step % every == 0 or step == total:
                    found.append(jax.device_get(measure(P, torch, initial)))
                    checkpoints.append(step)
                if checkpoints and (step % steps == 0 or work.due(step)):
                    work.save(step, partial(kept, taken))
    except KeyboardInterrupt:
        if not checkpoints:
            raise
        interrupted = True
    found = found[: len(checkpoints)]
    own, torch_distance, way = (np.array(part, np.float64) for part in zip(*found, strict=True))
    about = {"copies": copies, "epochs": epochs, "seed": seed}
    seconds = time.perf_counter() - start
    e = Envelope(np.array(checkpoints), own.T, torch_distance, way, seconds, false_alarm, about)
    if interrupted:
        raise Interrupted(e)
    return e


def _jittered(array: np.ndarray, copies: int, rng: np.random.Generator) -> np.ndarray:
    """[copies, ...]: each weight moved to the next float up or down."""
    to = rng.choice(np.array([-np.inf, np.inf], array.dtype), (copies, *array.shape))
    return np.nextafter(array, to)


def _of(prefix: str, arrays: Leaves) -> Leaves:
    start = f"{prefix}/"
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}


def _distances(P: Leaves, torch: Leaves, initial: Leaves) -> tuple[Any, Any, Any]:
    """(rms distance of each copy from the mean of the others, Torch's from the mean, the way)."""
    squares: list[tuple[Any, Any, Any]] = []
    for name, w in P.items():
        K = len(w)
        # Relative to the initial weights, so that float32 differences lose nothing.
        moved, start = w - initial[name], initial[name]
        mean = moved.mean(axis=0)
        axes = tuple(range(1, w.ndim))
        squares.append(
            (
                jnp.sum(((moved - mean) * (K / (K - 1))) ** 2, axis=axes),
                jnp.sum((torch[name] - start - mean) ** 2),
                jnp.sum(mean**2),
            )
        )
    n = sum(np.size(w) for w in initial.values())
    own, torch_square, way = (jnp.sqrt(sum(part) / n) for part in zip(*squares, strict=True))
    return own, torch_square, way
