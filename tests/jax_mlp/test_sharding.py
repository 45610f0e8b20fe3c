"""Batches cut over simulated devices: one all-reduce a step, one hash, the mean of any batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A process of its own, for JAX can't be given more devices once it has started. Batches of 8 out
# of 70 examples, the last one of 6: neither is a multiple of 3, and 6 is less than 8 devices.
PROGRAM = """
import json, re, sys
from jax_mlp.sharding import simulate
simulate(8)
import jax_mlp as d2l
import numpy as np

class Blobs(d2l.DataModule):
    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        self.batch_size, self.y = 8, rng.integers(0, 3, 90).astype(np.int32)
        self.X = rng.standard_normal((90, 6), np.float32)

    def get_dataloader(self, train):
        rows = slice(0, 70) if train else slice(70, None)
        return self.get_tensorloader([self.X, self.y], train, rows) if train or VALIDATED else None

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
    }
print(json.dumps(found))
"""


def trained(runs, validated=False):
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, json.dumps(runs), json.dumps(validated)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_step_on_several_devices_has_one_all_reduce_and_the_mean_of_the_whole_batch():
    found = trained([("native", 1), ("native", 2), ("native", 3)])
    one, two, three = found.values()
    assert (one["devices"], two["devices"], three["devices"]) == (1, 2, 3)
    assert one["loop"] == {} and two["loop"] == {"all-reduce": 1}
    # Uneven parts: XLA also brings the labels together to look up their logits.
    assert three["loop"].pop("all-reduce") == 1 and set(three["loop"]) <= {"all-gather"}
    for other in (two, three):
        assert other["losses"] == pytest.approx(one["losses"], rel=1e-5)


@pytest.mark.slow
def test_any_number_of_devices_gives_the_same_bits_in_reproducible_arithmetic():
    found = trained([("reproducible", k) for k in (1, 2, 3, 8)], validated=True)
    one = found["reproducible 1"]
    for key in ("losses", "val", "weights"):
        assert [run[key] for run in found.values()] == [one[key]] * 4
    # The common units of what is summed, then the sums.
    assert [run["loop"] for run in found.values()] == [{}] + [{"all-reduce": 2}] * 3
