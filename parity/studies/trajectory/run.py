"""A whole training of one pair, judged: every step certified, the free run, the seeds; a report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlp_core import fashion_mnist, work
from mlp_core.checkpoint import Checkpoints
from mlp_core.files import write_json, write_pictures
from parity.device import Device
from parity.interrupted import Interrupted
from parity.levels.every_step import Trajectory, certify
from parity.problem import Examples, Problem
from parity.sides.pairs import JaxSide, TorchSide, book_models, book_pair, sides_of
from parity.studies.trajectory.envelope import Envelope, free_run
from parity.studies.trajectory.seeds import Seeds, compare_seeds


@dataclass(frozen=True)
class Journey:
    """What `travel` found of one pair. None: was not asked for, or not reached before Ctrl-C."""

    pair: str
    certified: tuple[Trajectory, ...] = ()
    envelope: Envelope | None = None
    seeds: Seeds | None = None
    about: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def parts(self) -> list[Trajectory | Envelope | Seeds]:
        found = [*self.certified, self.envelope, self.seeds]
        return [part for part in found if part is not None]

    @property
    def undecided(self) -> bool:
        """Whether all that is missing is power: too few seeds."""
        rest = all(part.ok for part in self.parts if part is not self.seeds)
        figures = self.seeds.figures if self.seeds else ()
        return rest and not self.ok and all(f.verdict != "different" for f in figures)

    @property
    def ok(self) -> bool:
        return bool(self.parts) and not self.interrupted and all(part.ok for part in self.parts)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.interrupted:
            steps = sum(t.steps for t in self.certified)
            return f"INTERRUPTED: {self.pair}, {steps:,} steps judged before; no verdict."
        if self.ok:
            steps = sum(t.steps for t in self.certified)
            return f"AGREE: {self.pair}, {steps:,} steps certified."
        if self.undecided:
            return f"UNDECIDED: {self.pair}, too few seeds to tell."
        first = next((t.divergence for t in self.certified if t.divergence), None)
        if first:
            return f"DIFFER: {self.pair}, first at {first}."
        return f"DIFFER: {self.pair}, {next(str(p) for p in self.parts if not p.ok)}"

    def __str__(self) -> str:
        return "\n".join([*map(str, self.parts), self.verdict])

    def to_json(self) -> dict[str, Any]:
        return {
            "pair": self.pair,
            "ok": self.ok,
            "verdict": self.verdict,
            "interrupted": self.interrupted,
            "about": self.about,
            "certified": [t.to_json() for t in self.certified],
            "envelope": self.envelope.to_json() if self.envelope else None,
            "seeds": self.seeds.to_json() if self.seeds else None,
        }

    def pictures(self) -> dict[str, bytes]:
        """{file name: PNG}."""
        from parity.report import steps_picture
        from parity.studies.trajectory import pictures

        drawn = {
            f"margins-{self.pair}-{t.precision}.png": steps_picture.margins(t, self.pair)
            for t in self.certified
            if t.steps
        }
        if self.envelope is not None:
            png = pictures.envelope(self.envelope, self.pair)
            drawn[f"envelope-{self.pair}.png"] = png
        if self.seeds:
            drawn[f"seeds-{self.pair}.png"] = pictures.seeds(self.seeds, self.pair)
        return drawn

    def write(self, folder: Path) -> None:
        """trajectory-PAIR.json and the pictures."""
        write_json(folder / f"trajectory-{self.pair}.json", self.to_json())
        write_pictures(folder, lambda: self.pictures().items())


def travel(
    kind: str,
    *,
    epochs: int,
    precisions: Sequence[str],
    hiddens: Sequence[int],
    lr: float,
    batch_size: int,
    seed: int,
    data: str | None,
    device: Device | None = None,
    activation: str = "relu",
    sigma: float | None = None,
    copies: int = 0,
    copy_epochs: int = 1,
    seeds: int = 0,
    seed_epochs: int = 1,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    on_start: Callable[[str], None] = lambda what: None,
) -> Journey:
    """Follow the book's pair "scratch" or "mlp", from Torch's weights of this seed.

    copies, seeds: 0 leaves out the envelope, or the seeds. checkpoint: a folder that each part is
    saved to after each of its epochs, and every so many steps; resume: from there. on_start:
    called as each part begins. Ctrl-C ends the journey, which keeps what was found until then.
    """
    dataset = fashion_mnist.load(data)
    examples = Examples("sample" if dataset.is_sample else data, batch_size, seed)
    options: dict[str, Any] = {"activation": activation, "sigma": sigma}
    ours, theirs = book_pair(kind, hiddens, lr, seed, **options)

    about = {
        "data": f"Fashion-MNIST, {dataset.source}",
        "hiddens": list(hiddens),
        **options,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
    }

    def working(part: str, **length: int) -> Any:
        place: Checkpoints | None = None
        if checkpoint is not None:
            place = Checkpoints(checkpoint / kind / part, checkpoint_every)
        return work.working(place, about | {"pair": kind} | length, resume, "this step")

    def sides(dtype: str) -> tuple[JaxSide, TorchSide]:
        return sides_of(Problem(theirs, ours, examples, device=device), dtype)

    certified: list[Trajectory] = []
    envelope, found, interrupted = None, None, False
    try:
        for dtype in precisions:
            on_start(f"{kind}: every step of {epochs} epochs, {dtype}")
            with working(f"certified-{dtype}", epochs=epochs) as saved:
                certified.append(certify(*sides(dtype), epochs, work=saved))
        if copies:
            pair = sides("float32")
            if any(weights.any() for weights in pair[0].params().values()):
                on_start(f"{kind}: {copies} copies, {copy_epochs} epochs")
                with working("envelope", copies=copies, epochs=copy_epochs) as saved:
                    envelope = free_run(*pair, copy_epochs, copies=copies, seed=seed, work=saved)
            else:
                on_start(f"{kind}: no envelope: all weights start at 0, which no ulp moves")
        if seeds:
            on_start(f"{kind}: {seeds} seeds a side, {seed_epochs} epochs")
            models = book_models(kind, hiddens, lr, **options)
            which = range(seed, seed + seeds)
            with working("seeds", seeds=seeds, epochs=seed_epochs) as saved:
                found = compare_seeds(
                    *models, examples, seed_epochs, seeds=which, lr=lr, device=device, work=saved
                )
    except KeyboardInterrupt as stop:
        interrupted = True
        part = stop.found if isinstance(stop, Interrupted) else None
        if isinstance(part, Trajectory):
            certified.append(part)
        elif isinstance(part, Envelope):
            envelope = part
    return Journey(kind, tuple(certified), envelope, found, about, interrupted)
