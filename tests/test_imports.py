"""What importing the packages brings along and leaves alone, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlp_core

HOUSE = Path(mlp_core.__file__).parents[1]
FRAMEWORKS = {
    "jax_mlp": ["jax", "jaxlib", "flax", "optax"],
    "torch_mlp": ["torch", "torchvision"],
    "mlp_core": [],
}
# None of these may come along with a package, and each must do without them.
FOREIGN = {
    "jax_mlp": [*FRAMEWORKS["torch_mlp"], "torch_mlp", "parity", "matplotlib"],
    "torch_mlp": [*FRAMEWORKS["jax_mlp"], "jax_mlp", "parity", "matplotlib"],
    "mlp_core": [*sum(FRAMEWORKS.values(), []), "jax_mlp", "torch_mlp", "parity", "matplotlib"],
}

IMPORT_ALL = """
import importlib, pkgutil
def import_all(name):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
"""

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
"""

# Every setting of each framework, and of what both stand on, as text that can be compared.
SNAPSHOT = """
import os, random, sys, warnings
import numpy as np
def snapshot():
    if "jax" in sys.modules:
        from flax import config
    seen = {
        "numpy": repr(np.random.get_state()), "numpy errors": np.geterr(),
        "numpy print": repr(np.get_printoptions()), "random": hash(random.getstate()),
        "warnings": repr(warnings.filters), "environment": dict(os.environ),
    }
    if torch := sys.modules.get("torch"):
        names = ("get_default_dtype", "get_num_threads", "get_num_interop_threads", "initial_seed",
                 "get_float32_matmul_precision", "is_grad_enabled", "get_default_device",
                 "are_deterministic_algorithms_enabled", "is_anomaly_enabled")
        seen |= {name: str(getattr(torch, name)()) for name in names}
        seen["torch stream"] = torch.get_rng_state().tolist()
        seen["tf32"] = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        seen["mkldnn"] = torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark
        seen["print"] = repr(torch._tensor_str.PRINT_OPTS)
    if jax := sys.modules.get("jax"):
        seen |= {name: repr(value) for name, value in jax.config.values.items()}
        seen["flax"] = repr(vars(config))
    return seen
def started():
    devices = []
    if jax := sys.modules.get("jax"):
        from jax._src import xla_bridge
        devices += list(xla_bridge._backends) + ["jax"] * xla_bridge.backends_are_initialized()
    if torch := sys.modules.get("torch"):
        devices += ["cuda"] * torch.cuda.is_initialized()
    return devices
"""


def process(code, **environment):
    """What the code prints as JSON, in a fresh interpreter, where warnings are errors."""
    environment = os.environ | {"PYTHONPATH": str(HOUSE)} | environment
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_importing_a_package_changes_no_setting_starts_no_device_and_brings_no_other(package):
    code = f"""
{IMPORT_ALL}{SNAPSHOT}
import json
for name in {FRAMEWORKS[package]}: importlib.import_module(name)
before = snapshot()
import_all({package!r})
after = snapshot()
changed = {{key: [str(before.get(key)), str(after.get(key))]
           for key in before | after if before.get(key) != after.get(key)}}
foreign = [name for name in {FOREIGN[package]} if name in sys.modules]
print(json.dumps([changed, started(), foreign, len(before)]))
"""
    changed, devices, foreign, settings = process(code)
    assert changed == {} and devices == [] and foreign == []
    assert settings > (50 if package == "jax_mlp" else 5)


def test_a_changed_setting_or_a_started_device_would_show():
    code = f"""
{SNAPSHOT}
import jax, json, torch
before = snapshot()
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_default_matmul_precision", "highest")
torch.set_default_dtype(torch.float64)
torch.rand(1)
np.random.rand()
warnings.simplefilter("ignore")
after = snapshot()
calm = started()
jax.numpy.ones(1)
print(json.dumps([[key for key in before if before[key] != after[key]], calm, started()]))
"""
    changed, calm, devices = process(code)
    assert set(changed) == {
        "jax_enable_x64",
        "jax_default_matmul_precision",
        "get_default_dtype",
        "torch stream",
        "numpy",
        "warnings",
    }
    assert calm == [] and "jax" in devices


TRAIN = """
d2l.manual_seed(0)
data = d2l.FashionMNIST(batch_size=256, data="sample")
history = d2l.Trainer(max_epochs=1).fit(d2l.{model}, data)
"""


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_a_package_works_where_the_other_framework_is_not_installed(package):
    code = f"blocked = {FOREIGN[package]}\n{BLOCK}{IMPORT_ALL}\nimport json\n"
    if package == "mlp_core":
        code += """
import_all("mlp_core")
from mlp_core import fashion_mnist
print(json.dumps(fashion_mnist.load("sample").train.images.shape))
"""
        assert process(code) == [6000, 28, 28]
        return
    code += f"import_all({package!r})\nimport {package} as d2l\nsteps = []\n"
    for model in ("MLPScratch(784, 10, 16, lr=0.1)", "MLP(10, [8, 8], lr=0.1)"):
        code += TRAIN.format(model=model) + "steps.append(len(history.train_loss))\n"
    other = {"jax_mlp": "torch", "torch_mlp": "jax"}[package]
    code += f"""
try:
    import {other}
except ModuleNotFoundError:
    print(json.dumps(steps))
"""
    assert process(code) == [24, 24]


def test_parity_says_in_one_line_what_is_missing_and_compares_arrays_without_any_framework():
    code = (
        f"blocked = {sum(FRAMEWORKS.values(), [])}\n{BLOCK}"
        + """
import contextlib, io, json, warnings
import numpy as np
import parity
from parity.cli import main
said, codes = [], []
for name in ("check", "bound"):
    try:
        getattr(parity, name)
    except ModuleNotFoundError as error:
        said.append(str(error))
for command in (["check"], ["train", "--side", "torch", "--out", "/tmp"], ["sweep"]):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        codes.append(main(command))
    said.append(told.getvalue())
same = parity.compare(np.ones(2), np.ones(2), name="ones").ok
print(json.dumps([said, codes, bool(same)]))
"""
    )
    said, codes, same = process(code)
    install = "which is not installed: pip install 'mlp-parity["
    assert all(install in line and line.strip().count("\n") == 0 for line in said), said
    assert codes == [2, 2, 2] and same
