"""A family before the ladder: the call of `check` that its data stand for."""

from typing import Any

from port import Port

from parity import check
from parity.levels.ladder import LEVELS
from parity.levels.verdict import Verdict

ORDER = [level.name for level in LEVELS]
# Of a perceptron alone, or of the book's own classes; identity has tests of its own.
LEFT_OUT = {"identity", "initial weights", "probes", "precision", "masks", "accuracy", "same bits"}
LEFT_OUT |= {"products", "determinism", "devices"}  # of an accelerator


def climbed(port: Port, until: str = ORDER[-1], **options: Any) -> Verdict:
    """The verdict on a family, on the levels up to `until`."""
    levels = [name for name in ORDER[: ORDER.index(until) + 1] if name not in LEFT_OUT]
    asked = {"epochs": 2, "batch_size": 8, **port.options, "levels": levels, **options}
    return check(port.torch(), port.jax(), port.data(), weights=port.weights, **asked)
