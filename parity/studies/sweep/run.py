"""The exercises run in JAX over seeds, and written as JSON, CSV and pictures."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlp_core.files import write_atomically, write_json, write_pictures
from mlp_core.history import History
from parity.config import SweepConfig
from parity.config.exercises import EXERCISES, Exercise, Setting
from parity.studies.placing import on
from parity.studies.sweep.model import build
from parity.studies.sweep.outcome import Outcome, Row


def run(config: SweepConfig) -> Iterator[Outcome]:
    """The outcome of each exercise, when it has been trained and written.

    After Ctrl-C the last outcome is `interrupted`. Raises ValueMissed, DataError for missing data,
    DevicesError for devices that there aren't.
    """
    names = [*EXERCISES] if config.exercise == "all" else [config.exercise]
    base = Setting(config.hiddens, config.lr)
    settings = {name: EXERCISES[name].settings(config.values, base) for name in names}
    if config.devices is not None:  # one without a run would only take memory
        runs = config.seeds * max(map(len, settings.values()))
        config = replace(config, devices=min(config.devices, runs))
        _offer_cpu_devices(config.devices or 1)
    outcomes: list[Outcome] = []
    for name in names:
        outcome = train(EXERCISES[name], settings[name], config)
        outcomes.append(outcome)
        write(config.out, outcomes)
        yield outcome
        if outcome.interrupted:
            return


def train(exercise: Exercise, settings: dict[str, Setting], config: SweepConfig) -> Outcome:
    """Train every setting with every seed."""
    import jax_mlp

    seeds = range(config.seed, config.seed + config.seeds)
    with on(config.device, "jax"):
        data = jax_mlp.FashionMNIST(config.batch_size, data=config.data, seed=config.seed)
        found: Sequence[History]
        if config.engine == "ray":
            from parity.studies.sweep import on_ray

            found, interrupted = on_ray.histories(settings, seeds, config, exercise.name)
        else:
            found, interrupted = _at_once(exercise, settings, seeds, config, data)
    each, n = len(seeds), len(data.val.labels)
    histories = [found[i : i + each] for i in range(0, len(found), each)]
    rows = tuple(
        Row(value, setting, tuple(runs), n)
        for (value, setting), runs in zip(settings.items(), histories, strict=True)
        if len(runs) == each and all(run.epochs for run in runs)
    )
    if not rows:
        raise KeyboardInterrupt  # before anything was measured
    about = {key: rows[0].runs[0].about[key] for key in ("model", "device", "versions")}
    about |= {"data": data.dataset.source, "epochs": config.epochs, "validation examples": n}
    return Outcome(exercise, rows, about, interrupted)


def _at_once(
    exercise: Exercise,
    settings: dict[str, Setting],
    seeds: Sequence[int],
    config: SweepConfig,
    data: Any,
) -> tuple[Sequence[History], bool]:
    """(the History of each run, whether Ctrl-C ended them), in one process."""
    import jax_mlp

    models = [build(setting, config.model, seed) for setting in settings.values() for seed in seeds]
    place = config.checkpoint and config.checkpoint / exercise.name
    sweep = jax_mlp.Sweep(config.epochs, devices=config.devices, checkpoint=place)
    try:
        sweep.fit(models, data, [*seeds] * len(settings), config.resume)
    except KeyboardInterrupt:
        return sweep.histories, True
    return sweep.histories, False


def _offer_cpu_devices(count: int) -> None:
    """Let the CPU count as so many, where JAX runs on it and hasn't started."""
    import jax

    with contextlib.suppress(RuntimeError):  # it has started: Sweep says what there is
        jax.config.update("jax_num_cpu_devices", count)


def write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """sweep.json, sweep.csv, and the last outcome's picture: the others have theirs."""
    found = {outcome.exercise.name: outcome.to_json() for outcome in outcomes}
    write_json(folder / "sweep.json", found)
    write_atomically(folder / "sweep.csv", _csv(outcomes).encode())
    write_pictures(folder, lambda: _pictures(outcomes[-1]))


def _pictures(outcome: Outcome) -> Iterator[tuple[str, bytes]]:
    from parity.studies.sweep.pictures import picture

    yield f"sweep-{outcome.exercise.name}.png", picture(outcome)


def _csv(outcomes: Sequence[Outcome]) -> str:
    """One row for each epoch of each run."""
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    keys = {"val_loss": "loss", "val_acc": "acc", "train_loss": "train"}
    lines.writerow(["exercise", "value", "seed", "epoch", *keys])
    for outcome in outcomes:
        for row in outcome.rows:
            for i, run in enumerate(row.runs):
                seed = run.about["hyperparameters"]["seed"]
                figures = [row.curves(key)[i] for key in keys.values()]
                for epoch, values in enumerate(zip(*figures, strict=True), 1):
                    lines.writerow([outcome.exercise.name, row.value, seed, epoch, *values])
    return table.getvalue()
