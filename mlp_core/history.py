"""What a run measured, step by step; JSON, CSV and a picture."""

import contextlib
import csv
import io
import json
import math
import os
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlp_core.arithmetic import in_force
from mlp_core.files import drawn, plain, write_atomically, write_json


class NotFinite(RuntimeWarning):
    """A loss that is NaN or infinite: nothing comes back from there."""


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

        >>> epoch = Epoch(steps=2, samples=12, seconds=0.5, val={"acc": 0.75})
        >>> history = History(train_loss=[2.3, 1.1], epochs=[epoch])
        >>> history.val("acc"), history.samples_per_second
        ([0.75], 24.0)
    """

    train_loss: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    compile_seconds: float = 0.0
    interrupted: bool = False
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def not_finite(self) -> int | None:
        """The first step, counted from 1, at or after which a loss is NaN or infinite: of the step,
        or of the validation that follows it. None if all are finite."""
        return self._not_finite(0)

    def _not_finite(self, epoch: int) -> int | None:
        step = sum(e.steps for e in self.epochs[:epoch])
        for e in self.epochs[epoch:]:
            for loss in self.train_loss[step : step + e.steps]:
                step += 1
                if not math.isfinite(loss):
                    return step
            if not all(map(math.isfinite, e.val.values())):
                return step
        return None

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
            + (f", not finite from step {step:,} on" if (step := self.not_finite) else "")
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
            return cls(**_history_of(json.loads(Path(path).read_text("utf-8"))))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
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


def _history_of(raw: Any) -> dict[str, Any]:
    """The fields of a History, each of its type. Raises ValueError, TypeError, KeyError."""
    raw = dict(_of(dict, raw, "the whole"))
    raw["train_loss"] = [*map(_number, _of(list, raw["train_loss"], "train_loss"))]
    raw["epochs"] = [_epoch_of(e) for e in _of(list, raw["epochs"], "epochs")]
    if (steps := sum(e.steps for e in raw["epochs"])) != (found := len(raw["train_loss"])):
        raise ValueError(f"epochs of {steps} steps, but train_loss has {found}")
    for name, kind in (("interrupted", bool), ("about", dict)):
        if name in raw:
            _of(kind, raw[name], name)
    if "compile_seconds" in raw:
        raw["compile_seconds"] = _number(raw["compile_seconds"])
    return raw


def _epoch_of(raw: Any) -> Epoch:
    raw = dict(_of(dict, raw, "an epoch"))
    for name in ("steps", "samples"):
        if not 0 <= _of(int, raw[name], name) < 2**53:  # a count that a float can hold
            raise ValueError(f"{name} is {raw[name]}")
    raw["seconds"] = _number(raw["seconds"])
    raw["val"] = {key: _number(v) for key, v in _of(dict, raw["val"], "val").items()}
    return Epoch(**raw)


def _of(kind: type, value: Any, name: str) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{name} is a {type(value).__name__}, expected a {kind.__name__}")
    return value


def _number(value: Any) -> float:
    if type(value) in (int, float) or value in ("nan", "inf", "-inf"):
        with contextlib.suppress(OverflowError):  # an integer beyond all floats
            return float(value)
    raise ValueError(f"{str(value):.40} is no number")


def ends(history: History, at_nan: str) -> bool:
    """Whether a training ends with its last epoch, the first whose loss isn't finite; warns of it.

    at_nan: "warn", "stop", which ends it, or "ignore". Warns with NotFinite.

    >>> history = History([2.3, math.nan], [Epoch(steps=2, samples=12, seconds=0.5)])
    >>> ends(history, "ignore"), ends(History([2.3], [Epoch(1, 6, 0.5)]), "stop")
    (False, False)
    """
    last = len(history.epochs) - 1
    if at_nan == "ignore" or history._not_finite(last) is None:
        return False
    step = history.not_finite or 0
    if step <= sum(e.steps for e in history.epochs[:-1]):
        return False  # was told before
    goes_on = "the training ends here" if at_nan == "stop" else "the training goes on"
    warnings.warn(
        f"the loss is not finite from step {step:,} on (epoch {last + 1}), {goes_on}: is the "
        "learning rate too large?",
        NotFinite,
        stacklevel=3,
    )
    return at_nan == "stop"


def about(
    side: str, model: Any, data: Any, trainer: Any, device: str, packages: list[str]
) -> dict[str, Any]:
    """What was run, as JSON: hyperparameters of the three objects, device, versions.

    >>> about("jax", object(), object(), object(), "cpu", [])["model"]
    'object'
    """
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
