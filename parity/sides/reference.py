"""What one step should give: its float64 value, and how far rounding may move it.

The reference is nobody's contestant. It interprets the jaxpr of the JAX model's training step in
float64, whole or cut where the ladder's levels meet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from parity.kept import Keeper
from parity.rounding.bound import Bounds, bound
from parity.sides.jax_side import JaxSide
from parity.sides.memory import marked
from parity.sides.side import Batch, Evaluation
from parity.trees import Leaves, Tree

ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True)
class Expected:
    """What an evaluation should give, and how far rounding may move it.

    bound: always. likely, in float32: unless rounding errors conspire (Higham & Mary 2019). kinks:
    how many decisions rounding may turn, such as signs in a ReLU, by source line; the bounds allow
    for them. unexercised: decisions that went one way for all the data.
    """

    value: Evaluation
    bound: Evaluation
    likely: Evaluation
    kinks: dict[str, int]
    unexercised: tuple[str, ...] = ()


class Reference(Keeper):
    """(parameters, state, memory, batch) -> logits -> loss -> gradients -> step, with bounds.

    The composition of the parts is the model's own training step where that is loss(model(inputs),
    targets); `step` is always the model's own.
    """

    def __init__(self, side: JaxSide) -> None:
        super().__init__()
        self.side = side
        self.roundoff = ROUNDOFF[side.dtype]

    def evaluate(self, inputs: Tree, targets: Tree, step: bool = True) -> Expected:
        """What `side.evaluate` should give. Raises UnsupportedPrimitive."""
        side = self.side
        batches, narrow = side.repeated(inputs, targets), side.dtype != "float64"
        if step:
            b = self._bound(side.taken, *side.held(), side.memory(), batches, likely=narrow)
        else:
            b = self._bound(side.differentiated, *side.held(), batches, likely=narrow)
        # A ReLU is a max, a comparison and a select on one line: the largest of them counts.
        kinks: dict[str, int] = {}
        for kink in b.kinks:
            kinks[kink.source] = max(kinks.get(kink.source, 0), kink.count)
        parts = (b.value, b.bound, b.likely)
        value, worst, likely = (Evaluation(**{"step": {}} | part) for part in parts)
        never = tuple(map(str, getattr(b, "unexercised", ())))
        return Expected(value, worst, likely, kinks, never)

    def loss(self, outputs: Leaves, targets: Tree) -> Bounds:
        """Of the loss, for these outputs."""
        return self._bound(self._loss_of, outputs, self.side.typed(targets))

    def gradients(
        self, params: Leaves, state: Leaves, inputs: Tree, targets: Tree, outputs: Leaves
    ) -> Bounds:
        """Of the gradient of the loss at these outputs, pulled back through the model."""
        batch = self.side.typed(inputs), self.side.typed(targets)
        return self._bound(self._gradients_of, params, state, *batch, outputs)

    def update(self, params: Leaves, gradients: Leaves, memory: Leaves) -> Bounds:
        """Of (parameters, memory) after one step of the model's optimiser."""
        return self._bound(self.side.updated, params, gradients, memory, likely=False)

    def step(
        self, params: Leaves, state: Leaves, memory: Leaves, batches: Sequence[Batch]
    ) -> tuple[Any, dict[str, Leaves]]:
        """(loss before the step, {"step", "state", "memory"} after it); traceable."""
        return _after(self.side.taken(params, state, memory, batches))

    def evaluated_step(
        self, params: Leaves, state: Leaves, memory: Leaves, batches: Sequence[Batch]
    ) -> tuple[Any, dict[str, Leaves]]:
        """`step`, by the program that evaluates a batch."""
        return _after(self.side.step(params, state, memory, batches))

    def after(
        self, params: Leaves, state: Leaves, memory: Leaves, batches: Sequence[Batch]
    ) -> Bounds:
        """Of every leaf after one step: the loss, parameters, "state." and "optimizer."."""
        typed = tuple((self.side.typed(x), self.side.typed(y)) for x, y in batches)
        return self._bound(self._leaves_after, params, state, memory, typed, likely=False)

    def _leaves_after(self, *given: Any) -> Leaves:
        return flat(*self.step(*given))

    def forward(self, inputs: Tree, training: bool = True) -> Expected:
        """What `side.forward` should give."""
        side = self.side
        outputs = side.outputs if training else side.outputs_in_validation
        b = self._bound(outputs, *side.held(), side.typed(inputs))
        value, worst, likely = (
            Evaluation(part, np.zeros(()), {}, {}) for part in (b.value, b.bound, b.likely)
        )
        return Expected(value, worst, likely, {})

    def scores(self, params: Leaves, inputs: Tree, labels: Any) -> tuple[Any, Any]:
        """(loss in nats, 1.0 for a hit and 0.0 for a miss) of each example; traceable."""
        model = self.side.assembled(params, self.side.state())
        logits = model(inputs)
        return model.loss(logits, labels, averaged=False), model.accuracy(
            logits, labels, averaged=False
        )

    def _loss_of(self, outputs: Leaves, targets: Tree) -> Any:
        return self.side.model.loss(_joined(outputs), targets)

    def _gradients_of(
        self, params: Leaves, state: Leaves, inputs: Tree, targets: Tree, outputs: Leaves
    ) -> Any:
        cotangent = jax.grad(self._loss_of)(outputs, targets)
        _, back = jax.vjp(lambda params: self.side.outputs(params, state, inputs), params)
        return back(cotangent)[0]

    def _bound(self, function: Callable[..., Any], *args: Any, likely: bool = True) -> Bounds:
        with self.side._settings():
            return bound(function, *args, roundoff=self.roundoff, likely=likely)


def _after(taken: dict[str, Any]) -> tuple[Any, dict[str, Leaves]]:
    return taken["loss"], {part: taken[part] for part in ("step", "state", "memory")}


def flat(loss: Any, parts: dict[str, Leaves]) -> Leaves:
    """{leaf: after the step} of a step's parts: the loss, parameters, statistics, memory."""
    leaves = {"loss": loss, **parts["step"]}
    leaves |= {f"state.{name}": leaf for name, leaf in parts["state"].items()}
    return leaves | marked(parts["memory"])


def _joined(outputs: Leaves) -> Any:
    """What the loss takes: the output itself, or a dict of all."""
    return outputs["logits"] if set(outputs) == {"logits"} else outputs


def room(bound: Any) -> Any:
    """The reference is itself rounded in float64, by 2^-29 of a float32 bound and less."""
    return (1 + 2.0**-28) * bound
