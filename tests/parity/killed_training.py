"""Trainings that are killed at random moments, and inside the write of a checkpoint.

    python killed_training.py SIDE FOLDER KILLS SEED

Each is a process of its own, forked before anything is computed, so that no framework is imported
again. Prints JSON: kills, at which step each left the training, whether the last has the bits of
one that was never killed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mlp_core.checkpoint import Checkpoints
from mlp_core.weights import initial


def fit(side, folder, epochs, result, arithmetic):
    """Train to the end, going on from where the folder says, and write losses and weights."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((90, 6), np.float32), rng.integers(0, 3, 90)
    if side == "torch":
        import torch

        import torch_mlp as d2l

        torch.set_num_threads(1)
        X, y = torch.from_numpy(X), torch.from_numpy(y)
    else:
        import jax_mlp as d2l

        y = y.astype(np.int32)

    class Data(d2l.DataModule):
        batch_size = 8

        def get_dataloader(self, train):
            return self.get_tensorloader([X, y], train)

    d2l.manual_seed(1)
    model = d2l.MLPScratch(6, 3, 5, 0.1, arithmetic=arithmetic)
    room = __import__(f"{side}_mlp.checkpoint").checkpoint
    room.set_weights(model, initial((6, 5, 3), 1))
    trainer = d2l.Trainer(epochs, checkpoint=Checkpoints(folder, every=2))
    history = trainer.fit(model, Data(), resume=True)
    arrays = {name: a.tobytes().hex() for name, a in room.get_weights(model).items()}
    result.write_text(json.dumps([history.train_loss, [e.val for e in history.epochs], arrays]))


def die(point):
    """Let this process be killed when it gets to a point of writing a checkpoint the third time."""
    function, left = getattr(os, point), [3]

    def last(*args, **named):
        left[0] -= point != "replace" or "step-" in str(args[0])
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)

    setattr(os, point, last)


def half_written(path, content, write=Path.write_bytes):
    if "step-" in path.name and random.random() < 0.5:
        write(path, content[: random.randrange(len(content))])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)


def forked(work):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sys.stderr = open(os.devnull, "w")
        work()
        code = 0
    finally:
        os._exit(code)


def main(side, folder, kills, seed):
    __import__(f"{side}_mlp")
    folder, draw = Path(folder), random.Random(int(seed))
    arithmetic = draw.choice(["native", "reproducible"])
    longest = {"torch": (0.1, 0.6), "jax": (1.0, 4.0)}[side]
    epochs = 20

    def train(place, result):
        return lambda: fit(side, folder / place, epochs, folder / result, arithmetic)

    whole = forked(train("whole", "whole.json"))
    points = ["half written", "replace", "fsync", "unlink"]
    steps, ended = [], 0
    for i in range(int(kills)):
        point = points[i // 2 % len(points)] if i % 2 else ""

        def work(point=point):
            random.seed(draw.random())
            if point == "half written":
                Path.write_bytes = half_written
            elif point:
                die(point)
            train("killed", "killed.json")()

        pid = forked(work)
        if not point:
            time.sleep(draw.uniform(*longest))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        ended += not os.WIFSIGNALED(status)
        found = Checkpoints(folder / "killed").newest()
        steps.append(found.step if found else 0)
    codes = [os.waitpid(pid, 0)[1] for pid in (whole, forked(train("killed", "killed.json")))]
    results = [(folder / name).read_text() for name in ("whole.json", "killed.json")]
    print(json.dumps({
        "side": side, "arithmetic": arithmetic, "kills": int(kills), "ended before": ended,
        "steps": steps, "codes": codes, "same bits": results[0] == results[1],
    }))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
