import jax
import numpy as np
import pytest

from parity.sides.pairs import Examples


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs that come again are compiled once: most tests judge the same JAX model."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def digits():
    """Small images in four classes that can be learnt: (X, y, X_val, y_val)."""
    rng = np.random.default_rng(0)
    means = rng.random((4, 1, 3, 4), np.float32)

    def draw(n):
        y = rng.integers(0, 4, n).astype(np.int32)
        noise = rng.random((n, 1, 3, 4), np.float32)
        return (means[y] + noise * np.float32(0.5)).astype(np.float32), y

    return *draw(70), *draw(30)


@pytest.fixture(scope="session")
def examples(digits):
    return Examples(digits, batch_size=32, seed=5)
