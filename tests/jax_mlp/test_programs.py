"""jax_mlp.programs: compiled programs outlive the process, and no setting stays behind."""

import gc
import sys
import threading
import weakref
from types import SimpleNamespace

import jax
import pytest

import jax_mlp as d2l
from jax_mlp import programs

DIR, SECONDS = programs.FOLDER, programs.SECONDS


def test_programs_are_kept_though_jax_has_compiled_before(no_folder):
    jax.jit(lambda x: x + 1)(1.0)
    assert not no_folder.exists()
    with programs.kept():
        jax.jit(lambda x: x + 2)(1.0)
    kept = len(list(no_folder.iterdir()))
    assert kept and getattr(jax.config, DIR) is None and getattr(jax.config, SECONDS) == 1.0
    jax.jit(lambda x: x + 3)(1.0)
    assert len(list(no_folder.iterdir())) == kept


def test_threads_share_the_setting_and_the_last_one_takes_it_back(no_folder):
    both_in, one_out = threading.Barrier(2), threading.Event()
    seen = []

    def first():
        with programs.kept():
            both_in.wait()
        one_out.set()

    def second():
        with programs.kept():
            both_in.wait()
            one_out.wait()
            seen.append(getattr(jax.config, DIR))

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [str(no_folder)]
    assert getattr(jax.config, DIR) is None and getattr(jax.config, SECONDS) == 1.0


def test_a_folder_of_the_users_own_is_used_instead(no_folder, tmp_path):
    jax.config.update(DIR, str(tmp_path / "own"))
    with programs.kept():
        assert getattr(jax.config, DIR) == str(tmp_path / "own")
        assert getattr(jax.config, SECONDS) == 1.0
    assert not no_folder.exists()


def test_a_training_keeps_its_programs_and_leaves_no_setting_behind(no_folder, blobs):
    d2l.Trainer(1).fit(d2l.MLPScratch(6, 3, 5, lr=0.1), blobs)
    names = [path.name for path in no_folder.iterdir()]
    assert sum("epoch" in name for name in names) == 2  # of training and of validation
    assert getattr(jax.config, DIR) is None and getattr(jax.config, SECONDS) == 1.0
    with pytest.raises(ValueError, match="no batches"):
        d2l.Trainer(1).fit(d2l.MLPScratch(6, 3, 5, lr=0.1), Empty())
    assert getattr(jax.config, DIR) is None


class Empty(d2l.DataModule):
    def get_dataloader(self, train):
        return []


def test_a_cache_that_cannot_be_written_is_done_without(no_folder, tmp_path, monkeypatch, recwarn):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path / "file"))
    with programs.kept():
        assert getattr(jax.config, DIR) is None
        jax.jit(lambda x: x + 4)(1.0)
    assert not recwarn.list


def test_what_nobody_uses_is_collected_when_memory_maps_run_short():
    class Circle:
        pass

    circle = Circle()
    circle.own, gone = circle, weakref.ref(circle)
    gc.disable()
    try:
        del circle
        assert not programs.spare_maps(most=10**9) and gone() is not None
        if sys.platform == "linux":
            assert programs.spare_maps(most=1) and gone() is None
    finally:
        gc.enable()


def device(platform, version):
    return SimpleNamespace(
        platform=platform, client=SimpleNamespace(platform_version=f"PJRT C API\n{version}")
    )


def test_an_epoch_is_one_graph_of_a_gpu_unless_xla_flags_choose(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    h100 = device("gpu", "cuda 13000")
    assert "WHILE" in programs.of_a_loop(h100)[programs.COMMAND_BUFFER]
    for other in (device("gpu", "cuda 12080"), device("gpu", "rocm 7"), jax.devices("cpu")[0]):
        assert programs.of_a_loop(other) is None
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=FUSION")
    assert programs.of_a_loop(h100) is None


def test_this_xla_knows_the_options_that_a_gpu_needs():
    doubled = jax.jit(lambda x: x * 2).lower(1.0).compile(programs.GRAPH)
    assert doubled(1.0) == 2


def test_several_devices_get_no_graph_and_both_kernels_get_one():
    for kernel in ("scan", "fused"):
        trainer = d2l.Trainer(1, kernel=kernel)
        trainer.target = SimpleNamespace(platform="cuda")
        assert trainer.compiler_options() == programs.GRAPH
        trainer.shares.mesh = SimpleNamespace(size=2)
        assert trainer.compiler_options() is None
