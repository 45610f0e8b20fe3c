"""Where the sides compute: as the user says, or a line that says what is there."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from flax import nnx

from parity import check
from parity.cli import main
from parity.device import DeviceMissing
from parity.sides.jax_device import jax_device
from parity.sides.torch_device import torch_device

HERE = {device.platform for device in jax.devices()}


@pytest.mark.skipif("tpu" in HERE, reason="there is a TPU")
@pytest.mark.parametrize(
    "command",
    ["check", "bits", "trajectory", "train", "train --side torch", "sweep width"],
)
def test_a_device_that_is_not_there_is_one_line_and_exit_code_2(command, tmp_path, capsys):
    torch_side = "torch" in command
    if torch_side and torch.cuda.is_available():
        pytest.skip("Torch finds a GPU")
    name = "cuda" if torch_side else "tpu"
    assert (
        main([*command.split(), "--device", name, "--data", "sample", "--out", str(tmp_path)]) == 2
    )
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"device: '{name}', but {'Torch' if torch_side else 'JAX'} " in last and "here" in last


@pytest.mark.parametrize("command", ["train", "bits"])
def test_torch_alone_has_no_tpu_and_does_not_train_on_the_cpu_instead(command, tmp_path, capsys):
    options = ["--side", "torch", "--device", "tpu", "--data", "sample", "--out", str(tmp_path)]
    assert main([command, *options]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("mlp-parity: device: 'tpu', but Torch has none")


def test_a_name_that_is_none_is_refused():
    data = np.zeros((4, 3), "float32"), np.zeros(4, "int32")
    pair = torch.nn.Linear(3, 2), nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="device: 'gpu0', expected one of cpu, cuda, tpu"):
        check(*pair, data, weights="guess", device="gpu0")


def test_float64_leaves_a_device_that_lacks_it(monkeypatch):
    cpu, found = jax.devices("cpu")[0], {}
    tpu = SimpleNamespace(platform="tpu")
    monkeypatch.setattr(jax, "devices", lambda name=None: found[name])
    found |= {"tpu": [tpu], "cpu": [cpu]}
    assert jax_device("tpu", "float64") is cpu
    assert jax_device("tpu") is tpu


def test_torch_computes_where_its_model_lies_and_beside_a_tpu_on_the_cpu():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    assert torch_device(None, model).type == torch_device("tpu", model).type == "cpu"
    model[1].to("meta")
    with pytest.raises(ValueError, match="'0.weight' on cpu, '1.weight' on meta"):
        torch_device(None, model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="Torch finds a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(DeviceMissing, match="'cuda', but Torch"):
        torch_device("cuda")


PLACED = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from flax import nnx
from parity.problem import Examples
from parity.sides import jax_side

second = jax.devices()[1]
jax_side.jax_device = lambda name, dtype: second
class Ours(nnx.Module):
    def __init__(self):
        self.out = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    def __call__(self, X):
        return self.out(X)
rng = np.random.default_rng(0)
data = rng.normal(size=(8, 3)).astype("f"), rng.integers(0, 2, 8)
side = jax_side.JaxSide(Ours(), Examples(data, 4))
assert side.model.net.out.kernel[...].devices() == {second}
with side._settings():
    inputs, targets = next(side.batches())
    found = side._evaluate(*side.held(), side.memory(), side.repeated(inputs, targets))
    assert {d for leaf in jax.tree.leaves(found) for d in leaf.devices()} == {second}
assert jax.devices()[0] not in side.model.net.out.bias[...].devices()
assert jax.numpy.zeros(1).devices() == {jax.devices()[0]}
"""


def test_jax_computes_on_the_device_asked_for_and_leaves_the_default_as_it_is():
    subprocess.run([sys.executable, "-W", "ignore", "-c", PLACED], check=True)
