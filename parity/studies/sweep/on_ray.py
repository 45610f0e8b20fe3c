"""The runs of an exercise as tasks of Ray's: on its machines, each begun again where it was lost.

Ray (docs.ray.io, "Tasks" and "Fault tolerance") places the tasks and repeats one whose worker died;
what such a run had saved it goes on from, to the bits of one that was never lost.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlp_core.checkpoint import Checkpoints
from mlp_core.extras import needs
from mlp_core.fetch import say
from mlp_core.history import History
from mlp_core.resuming import newest
from parity.config import SweepConfig
from parity.config.exercises import Setting
from parity.studies.placing import on
from parity.studies.sweep.model import build

RETRIES = 5  # of a task whose worker dies; each goes on from the last epoch


def trained(setting: Setting, seed: int, config: SweepConfig, place: Path) -> History:
    """One run, in a worker. place: its checkpoints, on a disk that all workers see."""
    import jax_mlp

    with on(config.device, "jax"):
        data = jax_mlp.FashionMNIST(config.batch_size, data=config.data, seed=seed)
        model = build(setting, config.model, seed)
        trainer = jax_mlp.Trainer(config.epochs, checkpoint=place, at_nan="ignore", processes=1)
        history = trainer.fit(model, data, resume=True)
    history.about["hyperparameters"]["seed"] = seed
    return history


def histories(
    settings: dict[str, Setting], seeds: Sequence[int], config: SweepConfig, name: str
) -> tuple[list[History], bool]:
    """(the History of each run, value by value and seed by seed; whether Ctrl-C ended them).

    Connects to the cluster that $RAY_ADDRESS names, or starts Ray on this machine. Of a run that
    wasn't over at Ctrl-C the History is empty; its checkpoints stay. Raises ModuleNotFoundError
    without Ray, CheckpointError for checkpoints that aren't to be gone on from, and what a run
    raises.
    """
    needs("--engine ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    import ray

    with ExitStack() as stack:
        if config.checkpoint is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=config.out)))
        else:
            folder = config.checkpoint
        runs = [
            (setting, seed, (folder / name / f"{value}-seed-{seed}").absolute())
            for value, setting in settings.items()
            for seed in seeds
        ]
        for _, _, place in runs:
            newest(Checkpoints(place), config.resume)  # refuses, before anything is begun
        if not ray.is_initialized():
            ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
            stack.callback(ray.shutdown)
        gpus = int(config.device == "cuda")
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(trained)
        config = replace(config, data=config.data and _absolute(config.data))
        waiting = [task.remote(setting, seed, config, place) for setting, seed, place in runs]
        say(f"ray: {len(runs)} runs")
        try:
            return ray.get(waiting), False
        except KeyboardInterrupt:
            done, left = ray.wait(waiting, num_returns=len(waiting), timeout=0)
            for one in left:
                ray.cancel(one)
            return [ray.get(one) if one in done else History() for one in waiting], True
        except ray.exceptions.RayTaskError as error:  # what the run itself raised
            raise error.cause from error


def _absolute(data: str) -> Any:
    return data if data == "sample" else os.path.abspath(data)
