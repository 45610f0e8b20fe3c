"""Proof that a JAX model and a Torch model are the same model.

The examples here compare these two:

    >>> import numpy as np, torch
    >>> from flax import nnx
    >>> from parity import LEVELS, align, assert_parity, bound, check, compare, prove, save_page
    >>> X = np.random.default_rng(0).normal(size=(12, 5)).astype("float32")
    >>> y = (X[:, 0] > 0).astype("int32")
    >>> theirs, ours = torch.nn.Linear(5, 2), nnx.Linear(5, 2, rngs=nnx.Rngs(0))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.checking import align, assert_parity, check
    from parity.comparison import Comparison, compare
    from parity.identity.prove import Proof
    from parity.levels.ladder import LEVELS
    from parity.levels.level import Level
    from parity.levels.verdict import Verdict
    from parity.problem import Problem
    from parity.proving import prove
    from parity.report.page import save_page
    from parity.rounding.bound import bound

__all__ = [
    "LEVELS",
    "Comparison",
    "Level",
    "Problem",
    "Proof",
    "Verdict",
    "align",
    "assert_parity",
    "bound",
    "check",
    "compare",
    "prove",
    "save_page",
]

_HOME = {
    "compare": "comparison",
    "Comparison": "comparison",
    "LEVELS": "levels.ladder",
    "Level": "levels.level",
    "Problem": "problem",
    "Proof": "identity.prove",
    "prove": "proving",
    "save_page": "report.page",
    "Verdict": "levels.verdict",
    "bound": "rounding.bound",
}


def __getattr__(name: str) -> Any:
    """Load on first use: `parity.cli --help` should not wait for two frameworks."""
    if name not in __all__:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    import importlib

    from mlp_core.extras import advice

    try:
        return getattr(importlib.import_module(f"parity.{_HOME.get(name, 'checking')}"), name)
    except ModuleNotFoundError as error:
        if (line := advice(error.name, f"parity.{name}")) is None:
            raise
        raise ModuleNotFoundError(line, name=error.name) from None
    except AttributeError as error:  # a library's, which `from parity import ...` would swallow
        raise ImportError(f"parity.{name}: {error}") from error
