"""Batches cut over simulated devices: one all-reduce a step, one hash, the mean of any batch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from launching import together
from small_trainings import ROUNDING

import jax_mlp as d2l
from mlp_core.processes import DevicesError, ProcessesError

ROOT = Path(__file__).parents[2]

BLOBS = """
class Blobs(d2l.DataModule):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.batch_size, self.y = 8, rng.integers(0, 3, 90).astype(np.int32)
        self.X = rng.standard_normal((90, 6), np.float32)

    def get_dataloader(self, train):
        rows = slice(0, 70) if train else slice(70, None)
        return self.get_tensorloader([self.X, self.y], train, rows) if train or VALIDATED else None
"""

# A process of its own, for JAX can't be given more devices once it has started. Batches of 8 out
# of 70 examples, the last one of 6: neither is a multiple of 3, and 6 is less than 8 devices.
PROGRAM = """
import json, re, sys
from jax_mlp.sharding import simulate
simulate(8)
import jax_mlp as d2l
import numpy as np

BLOBS
class Trainer(d2l.Trainer):
    texts = ()

    def compile(self, function, *args):
        compiled = super().compile(function, *args)
        self.texts += (compiled.as_text(),)
        return compiled

def in_the_loop(text):
    "{collective: how many} of the body of the while loop."
    body = re.search(r"while\\(.*body=%([^,\\s]+)", text)[1]
    start = text.index(f"%{body} (")
    lines = text[start : text.index("\\n}", start)].splitlines()
    kinds = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    return {k: n for k in kinds if (n := sum(f" {k}(" in line for line in lines))}

found = {}
VALIDATED = json.loads(sys.argv[2])
for arithmetic, devices in json.loads(sys.argv[1]):
    d2l.manual_seed(0)
    trainer = Trainer(1, devices=devices, arithmetic=arithmetic)
    model = d2l.MLPScratch(6, 3, [4], lr=0.1, sigma=1)
    history = trainer.fit(model, Blobs())
    found[f"{arithmetic} {devices}"] = {
        "loop": in_the_loop(trainer.texts[0]),
        "losses": history.train_loss,
        "val": history.epochs[0].val,
        "weights": [np.asarray(w).tolist() for w in model.params.values()],
        "devices": len(model.W1.devices()),
        "parts": [list(w.addressable_shards[0].data.shape) for w in model.params.values()],
    }
print(json.dumps(found))
""".replace("BLOBS", BLOBS)

PROCESS = """
import json, os, signal, sys
import jax
import jax_mlp as d2l
import numpy as np
from jax_mlp.processes import connected
from mlp_core.processes import ProcessesError

VALIDATED = True
rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
jax.config.update("jax_num_cpu_devices", 3 - count // 2)
BLOBS
class Rows(np.ndarray):
    "Keeps which rows are read."
    def __getitem__(self, index):
        if isinstance(index, np.ndarray):
            read.extend(np.asarray(index).ravel().tolist())
        return super().__getitem__(index)

class Dying(d2l.Trainer):
    def fit_epoch(self):
        if self.epoch == 1 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super().fit_epoch()

def trained(kind, epochs):
    d2l.manual_seed(0)
    model, data = d2l.MLPScratch(6, 3, [4], lr=0.1, sigma=1), Blobs()
    data.X = data.X.view(Rows)
    history = kind(epochs, arithmetic="reproducible").fit(model, data)
    weights = [np.asarray(w).tolist() for w in model.params.values()]
    return {"losses": history.train_loss, "val": history.epochs[0].val, "weights": weights}

read, found = [], {}
try:
    with connected(count):
        found = trained(d2l.Trainer, 1)
        told = json.dumps(found | {"read": len(read), "devices": jax.device_count()})
        print("\\n" + told, flush=True)
        trained(Dying, 2)
except ProcessesError as error:
    print("\\n" + json.dumps(str(error)), flush=True)
    os._exit(0)
""".replace("BLOBS", BLOBS)


def run_alone(runs, validated=False):
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, json.dumps(runs), json.dumps(validated)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_step_on_several_devices_has_one_all_reduce_and_the_mean_of_the_whole_batch():
    found = run_alone([("native", 1), ("native", 2), ("native", 3)])
    one, two, three = found.values()
    assert (one["devices"], two["devices"], three["devices"]) == (1, 2, 3)
    assert one["loop"] == {} and two["loop"] == {"all-reduce": 1}
    # Uneven parts: XLA also brings the labels together to look up their logits.
    assert three["loop"].pop("all-reduce") == 1 and set(three["loop"]) <= {"all-gather"}
    for other in (two, three):
        assert other["losses"] == pytest.approx(one["losses"], rel=ROUNDING)


@pytest.mark.slow
def test_hidden_units_are_cut_over_devices_and_every_bit_stays():
    runs = [(arithmetic, k) for arithmetic in ("native", "reproducible") for k in (1, [2, 2])]
    one, cut, *exact = run_alone(runs, validated=True).values()
    # Of W1 and b1 each device has its columns, of W2 its rows; b2 is one of the outputs.
    assert cut["parts"] == exact[1]["parts"] == [[6, 2], [2], [2, 3], [3]]
    # One sum of the logits over the units, and one of gradients and loss over the batch.
    assert cut["loop"] == {"all-reduce": 2}
    assert cut["losses"] == pytest.approx(one["losses"], rel=ROUNDING)
    for key in ("losses", "val", "weights"):
        assert exact[0][key] == exact[1][key]


def test_hidden_units_that_cannot_be_cut_are_refused(blobs, monkeypatch):
    devices = [jax.devices()[0]] * 5
    monkeypatch.setattr(jax, "devices", lambda platform=None: devices)
    wrong = {
        (1, 5): "widths that 5 divides",
        (1, 2, 3): "expected a number, or two",
        (0, 1): "expected a number",
        (2, 3): "devices = 6, expected 1 to 5",
    }
    for asked, said in wrong.items():
        with pytest.raises(DevicesError, match=said):
            d2l.Trainer(1, devices=asked).fit(d2l.MLPScratch(6, 2, 4, lr=0.1), blobs)


def test_copies_that_are_not_connected_are_refused(blobs, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ProcessesError, match="2 processes were launched, and this one is not"):
        d2l.Trainer(1).fit(d2l.MLPScratch(6, 3, 4, lr=0.1), blobs)
    d2l.Trainer(1, processes=1).fit(d2l.MLPScratch(6, 3, 4, lr=0.1), blobs)


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_bits_in_reproducible_arithmetic():
    found = run_alone([("reproducible", k) for k in (1, 2, 3, 8)], validated=True)
    one = found["reproducible 1"]
    for key in ("losses", "val", "weights"):
        assert [run[key] for run in found.values()] == [one[key]] * 4
    # The common units of what is summed, then the sums.
    assert [run["loop"] for run in found.values()] == [{}] + [{"all-reduce": 2}] * 3
    # Two processes of two devices, four of one: the same bits; then one of them is killed.
    for count in (2, 4):
        ended = together(PROCESS, count)
        for rank, (code, out, err, seconds) in enumerate(ended):
            # Gloo's threads write there too, into each other's lines.
            own, *last = (json.loads(line) for line in out.splitlines() if line[:1] in ("{", '"'))
            assert {key: own[key] for key in ("losses", "val", "weights")} == {
                key: one[key] for key in ("losses", "val", "weights")
            }
            # Its rows of nine batches of 8 and 6, of validation's 8, 8 and 4; a row is repeated
            # where four devices can't share them evenly.
            assert own["devices"] == 4 and own["read"] == (8 * 8 + 8 + 2 * 8 + 4) // count
            # Where one of two local devices waits for the other, JAX's heartbeat ends the process.
            if rank == 1:
                assert code == -signal.SIGKILL
            elif last:
                assert code == 0 and seconds < 30 and "has lost another one" in last[0], err
            else:
                assert code == -signal.SIGABRT and seconds < 30 and "another task died" in err, err
