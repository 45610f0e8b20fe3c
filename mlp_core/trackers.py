"""A run's record for an experiment tracker: TensorBoard, Weights & Biases, MLflow.

A target is "kind:where": "tensorboard:FOLDER", "wandb:PROJECT", "mlflow:EXPERIMENT". Each hook is
handed the whole record at once, after the run; nothing of a tracker's is needed to train. Where its
figures go beyond that (offline, which server) the tracker's own environment variables say.
"""

import importlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

from mlp_core.files import plain

LIBRARIES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
WHERE = {"tensorboard": "FOLDER", "wandb": "PROJECT", "mlflow": "EXPERIMENT"}
BATCH, LONGEST = 1000, 500  # what MLflow takes: metrics in a call, letters of a parameter


@runtime_checkable
class Record(Protocol):
    """A History, as far as a tracker asks it."""

    about: dict[str, Any]
    train_loss: list[float]
    epochs: list[Any]
    compile_seconds: float
    interrupted: bool

    @property
    def seconds(self) -> float: ...


class TrackerError(ValueError):
    """A target that can't be meant, or whose library isn't there."""


class Point(NamedTuple):
    """What was measured at a step, counted from 1. seconds: of training, up to it."""

    step: int
    seconds: float
    figures: dict[str, float]


def check(target: str) -> tuple[str, str]:
    """(kind, where) of a target. Raises TrackerError, with what to install."""
    kind, _, where = target.partition(":")
    if kind not in LIBRARIES or not where:
        known = ", ".join(f"{name}:{what}" for name, what in WHERE.items())
        raise TrackerError(f"track: '{target}', expected one of {known}")
    if importlib.util.find_spec(LIBRARIES[kind]) is None:
        raise TrackerError(
            f"track: '{target}' needs {LIBRARIES[kind]}, which isn't installed; "
            f"pip install 'mlp-parity[{kind}]'"
        )
    return kind, where


def send(history: Record, target: str, name: str = "") -> None:
    """Hand a run to a tracker. name: what it is called there; "" for its side and model.

    train_loss at every step; val_... (example-weighted), seconds and samples_per_second at the last
    step of each epoch. Raises TrackerError, and whatever the tracker raises.
    """
    kind, where = check(target)
    library = importlib.import_module(LIBRARIES[kind])
    about = history.about
    name = name or " ".join(str(about[key]) for key in ("side", "model") if key in about) or "run"
    HOOKS[kind](library, history, where, name)


def points(history: Record) -> Iterator[Point]:
    """What was measured, step by step."""
    step, before = 0, 0.0
    for number, epoch in enumerate(history.epochs, 1):
        for i in range(epoch.steps):
            step += 1
            figures = {"train_loss": history.train_loss[step - 1]}
            if i == epoch.steps - 1:
                figures |= {f"val_{key}": value for key, value in epoch.val.items()}
                figures |= {"epoch": float(number), "seconds": epoch.seconds}
                figures["samples_per_second"] = epoch.samples_per_second
            yield Point(step, before + epoch.seconds * (i + 1) / epoch.steps, figures)
        before += epoch.seconds


def settings(history: Record) -> dict[str, Any]:
    """What was run, on one level: hyperparameters, side, device, versions, times."""
    found = {"compile_seconds": history.compile_seconds, "interrupted": history.interrupted}
    for key, value in plain(history.about, other=repr).items():
        found |= value if key == "hyperparameters" else {key: value}
    return found


def _tensorboard(library: Any, history: Record, where: str, name: str) -> None:
    began = time.time() - history.seconds  # so that its relative time is that of training
    with library.SummaryWriter(logdir=where) as writer:
        writer.add_text("about", f"    {json.dumps({'name': name} | settings(history))}", 0, began)
        for step, seconds, figures in points(history):
            for key, value in figures.items():
                writer.add_scalar(key, value, step, began + seconds)


def _wandb(library: Any, history: Record, where: str, name: str) -> None:
    with library.init(project=where, name=name, config=settings(history)) as run:
        for step, _, figures in points(history):
            run.log(figures, step=step)


def _mlflow(library: Any, history: Record, where: str, name: str) -> None:
    began, entities = time.time() - history.seconds, library.entities
    metrics = [
        entities.Metric(key, value, math.floor(1000 * (began + seconds)), step)
        for step, seconds, figures in points(history)
        for key, value in figures.items()
    ]
    library.set_experiment(where)
    with library.start_run(run_name=name) as run:
        client = library.MlflowClient()
        library.log_params({k: str(v)[:LONGEST] for k, v in settings(history).items()})
        for i in range(0, len(metrics), BATCH):
            client.log_batch(run.info.run_id, metrics=metrics[i : i + BATCH])


HOOKS: dict[str, Callable[[Any, Record, str, str], None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
