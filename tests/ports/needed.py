"""What a family needs of what is installed; without it, it is skipped with the reason."""

import jax
import pytest

# Seen with jax 0.11.2 and 0.12.0.1 on a CPU: XLA sums some products of bfloat16 in bfloat16. For
# this family's gradient the ladder says so: it is 0.56 and 0.35 off, where 0.10.2 is 0.005 off.
SUMMED_IN_BFLOAT16 = ("bfloat16 parameters",)


def needed(port):
    if port.needs:
        pytest.importorskip(port.needs)
    if port.name in SUMMED_IN_BFLOAT16 and jax.__version_info__ >= (0, 11):
        pytest.skip(f"jax {jax.__version__} sums a product of bfloat16 in bfloat16 on a CPU")
