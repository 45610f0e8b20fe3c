"""What a run measured, step by step; JSON, CSV and a picture."""

import csv
import io
import json
import math
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlp_core.arithmetic import in_force
from mlp_core.files import drawn, plain, write_atomically, write_json


@dataclass
class Epoch:
    """One epoch. val: example-weighted means over the validation set, e.g. loss (nats), acc."""

    steps: int
    samples: int
    seconds: float
    val: dict[str, float] = field(default_factory=dict)

    @property
    def samples_per_second(self) -> float:
        """Training examples a second; validation and compilation are not in the time."""
        return self.samples / self.seconds if self.seconds else math.nan


@dataclass
class History:
    """The record of one `fit`.

    train_loss: mean loss of each step's batch before its update, in nats, all epochs in a row.
    epochs: one entry an epoch; an interrupted run's last epoch may be short and without `val`.
    compile_seconds: time spent compiling, kept out of the epochs' seconds.
    about: what was run: side, model, hyperparameters, versions, device.
    """

    train_loss: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    compile_seconds: float = 0.0
    interrupted: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds of training: all epochs, without validation and compilation."""
        return math.fsum(e.seconds for e in self.epochs)

    @property
    def samples_per_second(self) -> float:
        return sum(e.samples for e in self.epochs) / self.seconds if self.seconds else math.nan

    def val(self, key: str) -> list[float]:
        """One validation figure, epoch by epoch: `history.val("acc")`."""
        return [e.val[key] for e in self.epochs if key in e.val]

    def __str__(self) -> str:
        last = self.epochs[-1].val if self.epochs else {}
        figures = "".join(f", {key} {value:.4f}" for key, value in last.items())
        return (
            f"{len(self.epochs)} epochs, {len(self.train_loss):,} steps{figures}, "
            f"{self.seconds:.2f} s ({self.samples_per_second:,.0f} samples/s) "
            f"+ {self.compile_seconds:.2f} s compiling"
            + (", interrupted" if self.interrupted else "")
        )

    def save(self, path: str | os.PathLike) -> Path:
        """Write `.json` (everything, read back by `load`) or `.csv` (one row a step)."""
        path = Path(path)
        if path.suffix == ".json":
            return write_json(path, asdict(self))
        if path.suffix == ".csv":
            return write_atomically(path, self._csv().encode())
        raise ValueError(f"{path}: expected a name that ends in .json or .csv")

    def track(self, target: str, name: str = "") -> None:
        """Hand the run to "tensorboard:FOLDER", "wandb:PROJECT" or "mlflow:EXPERIMENT".

        name: what it is called there. Raises TrackerError where the library isn't installed.
        """
        from mlp_core import trackers

        trackers.send(self, target, name)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "History":
        """Read what `save` wrote as JSON. Raises ValueError for anything else."""
        try:
            raw = json.loads(Path(path).read_text())
            epochs = [
                Epoch(**(e | {"val": {key: float(v) for key, v in e["val"].items()}}))
                for e in raw.pop("epochs")
            ]
            losses = [float(v) for v in raw.pop("train_loss")]
            return cls(train_loss=losses, epochs=epochs, **raw)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected a history that History.save wrote: {error}"
            ) from None

    def plot(self, path: str | os.PathLike | None = None) -> Any:
        """Loss of each step and validation figures over epochs; saved to `path` if given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel="epoch", ylabel="loss (nats), accuracy")
        axes.plot(self._epoch_of_steps(), self.train_loss, lw=0.6, alpha=0.7, label="train_loss")
        for key in dict.fromkeys(key for e in self.epochs for key in e.val):
            points = [(i + 1, e.val[key]) for i, e in enumerate(self.epochs) if key in e.val]
            axes.plot(*zip(*points, strict=True), marker=".", label=f"val_{key}")
        if axes.lines:
            axes.legend()
        axes.grid(alpha=0.3)
        if path is not None:
            path = Path(path)
            write_atomically(path, drawn(figure, path.suffix.lstrip(".") or "png"))
        return figure

    def _epoch_of_steps(self) -> list[float]:
        return [i + (s + 1) / e.steps for i, e in enumerate(self.epochs) for s in range(e.steps)]

    def _csv(self) -> str:
        keys = list(dict.fromkeys(key for e in self.epochs for key in e.val))
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["step", "epoch", "train_loss", *(f"val_{key}" for key in keys), "seconds"])
        step = 0
        for number, epoch in enumerate(self.epochs, 1):
            for i in range(epoch.steps):
                last = i == epoch.steps - 1
                end = [*(epoch.val.get(key, "") for key in keys), epoch.seconds] if last else []
                end = end or [""] * (len(keys) + 1)
                rows.writerow([step + 1, number, self.train_loss[step], *end])
                step += 1
        return table.getvalue()


def about(
    side: str, model: Any, data: Any, trainer: Any, device: str, packages: list[str]
) -> dict[str, Any]:
    """What was run, as JSON: hyperparameters of the three objects, device, versions."""
    chosen = {"arithmetic": in_force(model, trainer)}  # trainer and model have an argument each
    return {
        "side": side,
        "model": type(model).__name__,
        "hyperparameters": {
            key: plain(value, other=lambda value: type(value).__name__)
            for part in (*(getattr(p, "hparams", {}) for p in (trainer, data, model)), chosen)
            for key, value in part.items()
        },
        "device": device,
        "versions": {name: version(name) for name in ("numpy", *packages)},
    }
