"""Whatever a user has set globally, the verdict is the same, and the settings are as they were."""

import contextlib
import threading

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import parity
from parity.levels.ladder import LEVELS as LADDER

LEVELS = ["logits", "loss", "gradients", "step"]
SLOW = pytest.mark.slow


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(3, 2)

    def forward(self, X):
        return self.out(X) + torch.zeros(2)  # of the default type, on the default device


class Ours(nnx.Module):
    def __init__(self):
        self.out = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, X):
        return self.out(X) + jnp.zeros(2)


class Wrong(Ours):
    def __call__(self, X):
        return self.out(X) * 1.001


WEIGHTS = {"out.kernel": "out.weight", "out.bias": "out.bias"}
RNG = np.random.default_rng(0)
DATA = RNG.standard_normal((8, 3), np.float32), RNG.integers(0, 2, 8)


@contextlib.contextmanager
def torch_has(get, set, value):
    before = get()
    set(value)
    try:
        yield
    finally:
        set(before)


@contextlib.contextmanager
def jax_has(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, before)


def default_type(kind):
    return torch_has(torch.get_default_dtype, torch.set_default_dtype, kind)


SETTINGS = {
    "torch: float64 by default": lambda: default_type(torch.float64),
    "torch: no gradients": torch.no_grad,
    "torch: inference mode": torch.inference_mode,
    "torch: autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "torch: another device by default": lambda: torch.device("meta"),
    "jax: no jit": jax.disable_jit,
    "jax: x64": lambda: jax_has("jax_enable_x64", True),
    "jax: strict promotion": lambda: jax_has("jax_numpy_dtype_promotion", "strict"),
    "jax: no transfers": lambda: jax.transfer_guard("disallow"),
    "jax: NaNs": lambda: jax_has("jax_debug_nans", True),
}
MORE = {
    "torch: bfloat16 by default": lambda: default_type(torch.bfloat16),
    "torch: deterministic": lambda: torch_has(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "torch: medium products": lambda: torch_has(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "torch: one thread": lambda: torch_has(torch.get_num_threads, torch.set_num_threads, 1),
    "torch: three threads": lambda: torch_has(torch.get_num_threads, torch.set_num_threads, 3),
    "torch: saved on the CPU": torch.autograd.graph.save_on_cpu,
    "torch: subnormals flushed": lambda: torch_has(lambda: False, torch.set_flush_denormal, True),
    "jax: bfloat16 products": lambda: jax_has("jax_default_matmul_precision", "bfloat16"),
    "jax: infinities": lambda: jax_has("jax_debug_infs", True),
    "jax: ranks": lambda: jax_has("jax_numpy_rank_promotion", "raise"),
    "jax: leaks": lambda: jax_has("jax_check_tracer_leaks", True),
    "jax: other keys": lambda: jax_has("jax_default_prng_impl", "rbg"),
    "jax: keys of old": lambda: jax_has("jax_threefry_partitionable", False),
    "jax: key reuse": lambda: jax_has("jax_debug_key_reuse", True),
    "jax: a default device": lambda: jax.default_device(jax.devices("cpu")[0]),
    "numpy: raises": lambda: np.errstate(all="raise"),
    "numpy: prints short": lambda: np.printoptions(precision=1),
}


def in_force():
    """All that anybody can have set."""
    found = {
        name: getattr(jax.config, name) for name in jax.config.values if hasattr(jax.config, name)
    }
    found |= {
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "products": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomalies": torch.is_anomaly_enabled(),
        "default device": torch.get_default_device(),
        "random numbers": torch.random.default_generator.get_state().tolist()[:32],
        "numpy": np.geterr(),
        "numpy's random numbers": np.random.get_state()[1].tolist()[:32],
    }
    return {name: str(value) for name, value in found.items()}


def verdict(ours, theirs, levels=LEVELS):
    found = parity.check(ours, theirs, DATA, weights=WEIGHTS, levels=levels, epochs=1, batch_size=8)
    return [(r.level.name, r.precision, r.verdict) for r in found.results]


@pytest.mark.parametrize(
    "name",
    [*SETTINGS, *(pytest.param(name, marks=SLOW) for name in MORE)],
)
def test_a_verdict_depends_on_no_global_setting_and_changes_none(name):
    models = Ours(), Theirs()
    with (SETTINGS | MORE)[name]():
        before = in_force()
        found = verdict(*models)
        assert in_force() == before
    assert len(found) == 8 and {word for *_, word in found} == {"ok"}


@SLOW
@pytest.mark.parametrize(
    "name",
    [n for n in SETTINGS if n not in ("torch: another device by default", "jax: no transfers")],
)
def test_models_made_under_a_setting_are_told_apart_all_the_same(name):
    with SETTINGS[name]():
        found = [verdict(ours, Theirs(), ["logits"]) for ours in (Ours(), Wrong())]
    assert [words[0][2] for words in found] == ["ok", "FAILED"]


@SLOW
@pytest.mark.parametrize("name", [*SETTINGS][::2])
def test_the_whole_ladder_is_climbed_under_every_setting(name):
    models = Ours(), Theirs()
    with SETTINGS[name]():
        before = in_force()
        found = verdict(*models, [level.name for level in LADDER])
        assert in_force() == before
    assert {word for *_, word in found} <= {"ok", "skipped"}


def test_a_check_that_fails_leaves_the_settings_too():
    models = Ours(), Theirs()
    with torch.no_grad(), default_type(torch.float64), jax.disable_jit():
        before = in_force()
        with pytest.raises(ValueError):
            parity.check(*models, (DATA[0][:, :2], DATA[1]), weights=WEIGHTS)
        assert in_force() == before


def test_a_check_in_another_thread_is_no_different():
    found, models = [], (Ours(), Theirs())
    with default_type(torch.float64):
        thread = threading.Thread(target=lambda: found.extend(verdict(*models, ["logits"])))
        thread.start()
        thread.join()
    assert [word for *_, word in found] == ["ok", "ok"]
