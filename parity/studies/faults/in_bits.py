"""Faults of reproducible arithmetic: right in every other way, so that the same bits alone show it.

They are planted in the operations of that arithmetic; native training stays as it is.
"""

from collections.abc import Callable
from typing import Any

from parity.studies.faults.fault import Fault
from parity.studies.faults.port import Plant, Port

Operations = Any  # a torch_mlp.reproducible.Arithmetic


def operations(change: Callable[[Operations, Operations], Operations]) -> Plant:
    """change(reproducible, native) in the place of the reproducible operations."""

    def plant(port: Port) -> None:
        honest: Any = type(port.model)

        def ops(self: Any) -> Operations:
            own = honest.ops.fget(self)
            return own if own is self.native else change(own, self.native)

        port.model.__class__ = type(honest.__name__, (honest,), {"ops": property(ops)})

    return plant


FAULTS = (
    Fault("bits: float32 product", "precision", "same bits",
          "A layer is summed by the library, in the order of its own choice.",
          operations(lambda own, native: own._replace(linear=native.linear)), "bits"),
    Fault("bits: library exp", "precision", "same bits",
          "The loss is the library's, with the exp and log of its version.",
          operations(lambda own, native: own._replace(
              softmax_cross_entropy=native.softmax_cross_entropy)), "bits"),
    Fault("bits: no half at a tie", "gradient", "same bits",
          "The reproducible ReLU has gradient 0 at 0, where the model's own has 1/2.",
          operations(lambda own, native: own._replace(relu=own.relu.func)), "bits"),
)  # fmt: skip
