"""parity.programs: compiled programs outlive the process, and no setting stays behind."""

from pathlib import Path

import jax
import pytest

from parity import check, programs

DIR, SECONDS = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


@pytest.fixture
def no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path))
    before = {name: getattr(jax.config, name) for name in (DIR, SECONDS)}
    for name, value in ((DIR, None), (SECONDS, 1.0)):
        jax.config.update(name, value)
    yield Path(programs.folder())
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


def test_a_check_that_is_refused_leaves_no_setting_behind(no_folder):
    with pytest.raises(TypeError, match="expected one torch.nn.Module"):
        check(None, None)
    assert getattr(jax.config, DIR) is None
