"""The stream of random keys behind get_key: what torch.manual_seed governs on the other side."""

import jax

from jax_mlp import programs

_seed = _drawn = 0


def manual_seed(seed: int) -> None:
    """Restart the stream: the same seed gives the same initial weights and shuffles after it.

    A process that never calls this starts from seed 0, so it is reproducible as well.
    Raises ValueError outside 0 <= seed < 2^32: JAX would use the last 32 bits alone.

        >>> manual_seed(3)
        >>> first = get_key()
        >>> manual_seed(3)
        >>> bool((jax.random.key_data(first) == jax.random.key_data(get_key())).all())
        True
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"manual_seed: seed = {seed}, expected 0 <= seed < 2**32")
    restore(seed, 0)


def held() -> tuple[int, int]:
    """(seed, how many keys were drawn): what the rest of the stream hangs on."""
    return _seed, _drawn


def restore(seed: int, drawn: int) -> None:
    """Go on where `held` was asked."""
    global _seed, _drawn
    _seed, _drawn = seed, drawn


@programs.kept()
def get_key() -> jax.Array:
    """The next key of the stream, for jax.random. Not inside jit: there it would be a constant.

    >>> jax.random.normal(get_key(), (2, 3)).shape
    (2, 3)
    """
    global _drawn
    _drawn += 1
    return jax.random.fold_in(jax.random.key(_seed), _drawn - 1)


@programs.kept()
def next_seed() -> int:
    """The next number of the stream, in [0, 2**32), for a NumPy generator."""
    return int(jax.random.bits(get_key()))
