"""Programs over devices and processes as contestants: the wrong scale of a gradient is found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launching import together

ROOT = Path(__file__).parents[2]

PAIR = """
import json, sys
import jax, optax, torch
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
import parity

rng = np.random.default_rng(0)
X, y = rng.standard_normal((32, 4), np.float32), rng.integers(0, 3, 32)
torch.manual_seed(0)
theirs = torch.nn.Linear(4, 3)
params = {"weight": jnp.zeros((4, 3)), "bias": jnp.zeros(3)}

def f(p, x):
    return x @ p["weight"] + p["bias"]

def check(torch_model, jax_model, *levels, **options):
    verdict = parity.check(torch_model, jax_model, (X, y), batch_size=16, epochs=1,
                           loss="cross_entropy", levels=levels, **options)
    found = [r.level.name + " skipped" * bool(r.skipped) for r in verdict.results
             if r.skipped or not r.ok]
    return list(dict.fromkeys(found))
"""
DEVICES = """
mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))

def step(mean_inside, checked):
    def local(p, x, y):
        def loss(p):
            one = optax.softmax_cross_entropy_with_integer_labels(f(p, x), y).mean()
            return lax.pmean(one, "batch") if mean_inside else one
        value, gradients = jax.value_and_grad(loss)(p)
        return lax.pmean(value, "batch"), lax.pmean(gradients, "batch")
    specs = P(), P("batch"), P("batch")
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checked)

cut = jax.NamedSharding(mesh, P("batch"))
sharded = {"weight": jax.device_put(params["weight"], cut), "bias": params["bias"]}
forward = jax.shard_map(f, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P("batch"))
seen = "identity", "gradients", "every step"
print(json.dumps({
    "sharded": check(theirs, (f, sharded), "logits", "gradients"),
    "forward": check(theirs, (forward, params), *seen),
    "mean of the loss": check(theirs, (f, params), *seen, gradient=step(True, True)),
    "mean of the gradient, unchecked": check(theirs, (f, params), *seen, gradient=step(False, False)),
    # Under check_vma the gradient is the sum over devices already.
    "mean of the gradient": check(theirs, (f, params), *seen, gradient=step(False, True)),
}))
"""  # noqa: E501
PROCESSES = """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch_mlp.processes import connected

def summed(state, bucket):
    done = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return done.then(lambda done: done.value()[0])

found = {}
with connected(2):
    for name, hook in (("averaged", None), ("summed", summed)):
        model = DistributedDataParallel(theirs)
        if hook:
            model.register_comm_hook(None, hook)
        found[name] = check(model, (f, params), "identity", "gradients", "curve")
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_gradient_of_a_step_over_devices_is_compared_and_its_wrong_scale_is_found():
    done = subprocess.run(
        [sys.executable, "-P", "-c", PAIR + DEVICES],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found.pop("mean of the gradient")) == {"identity", "gradients", "every step"}
    assert found == {name: [] for name in found} and len(found) == 4


@pytest.mark.slow
def test_a_model_over_processes_is_compared_and_the_wrong_scale_of_its_gradient_is_found():
    for code, out, err, _ in together(PAIR + PROCESSES, 2):
        assert code == 0, err
        found = json.loads(out)
        # What the processes add is no part of one's graph.
        assert found["averaged"] == ["identity skipped"]
        assert found["summed"] == ["identity skipped", "gradients", "curve"]
