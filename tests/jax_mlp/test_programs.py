"""jax_mlp.programs: compiled programs outlive the process, and no setting stays behind."""

import jax
import pytest

import jax_mlp as d2l
from jax_mlp import programs
from mlp_core import cache

DIR, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in (DIR, SECONDS)}
    for name, value in ((DIR, None), (SECONDS, 1.0)):
        jax.config.update(name, value)
    yield cache.programs()
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_though_jax_has_compiled_before(no_folder):
    jax.jit(lambda x: x + 1)(1.0)
    assert not no_folder.exists()
    with programs.kept():
        jax.jit(lambda x: x + 2)(1.0)
    kept = len(list(no_folder.iterdir()))
    assert kept and getattr(jax.config, DIR) is None and getattr(jax.config, SECONDS) == 1.0
    jax.jit(lambda x: x + 3)(1.0)
    assert len(list(no_folder.iterdir())) == kept


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
