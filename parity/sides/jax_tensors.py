"""Every tensor that JAX's training step makes, as data, by the interpreter that bounds rounding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax.extend import core

from parity.rounding.arithmetic import Approx, dense
from parity.rounding.bound import walked
from parity.rounding.jaxpr import _OWN as _BOUND
from parity.rounding.jaxpr import _of_user
from parity.rounding.walk import CONTROL, Walk
from parity.sides.jax_side import JaxSide
from parity.sides.side import Batch, Evaluation
from parity.sides.tensors import ROOM, Graph
from parity.trees import leaves

_LAYOUT = {"reshape", "transpose", "squeeze", "expand_dims", "copy", "stop_gradient", "name",
           "optimization_barrier", "convert_element_type"}  # fmt: skip


def jax_tensors(
    side: JaxSide, batch: Batch, infer: bool = False
) -> tuple[Graph, Evaluation, Evaluation]:
    """(graph of one training step, its values, their bounds), in float64.

    Raises UnsupportedPrimitive for an operation without a rounding rule.
    """
    inputs, targets = batch
    if infer:
        given: tuple[Any, ...] = (*side.held(), side.typed(inputs))
        function: Any = side.outputs
    else:
        given = (*side.held(), side.memory(), side.repeated(inputs, targets))
        function = side.taken
    graph = Graph("jax")
    names = ("params", "state", "memory", "batch") if not infer else ("params", "state", "batch")
    recorder: list[Recording] = []

    def make(*args: Any) -> Recording:
        recorder.append(Recording(*args, graph=graph))
        return recorder[0]

    paths = jax.tree_util.tree_flatten_with_path(dict(enumerate(given)))[0]
    labels = [
        (names[p[0].key], jax.tree_util.keystr(p[1:], simple=True, separator=".")) for p, _ in paths
    ]
    outputs, shapes = walked(function, given, side_roundoff(side), make, labels)
    walk = recorder[0]
    numbers = [walk.number(x) for x in outputs]
    if infer:
        value, bound, found = ({"outputs": shapes.unflatten(part)} for part in (
            [np.asarray(x.value) for x in outputs],
            [np.asarray(dense(x.bound, x.value)) for x in outputs],
            numbers,
        ))  # fmt: skip
        rest: dict[str, Any] = {"loss": np.zeros(()), "gradients": {}, "step": {}}
        found = found | {"loss": None, "gradients": {}, "step": {}}
    else:
        value, bound, found = (
            shapes.unflatten(part)
            for part in (
                [np.asarray(x.value) for x in outputs],
                [np.asarray(dense(x.bound, x.value)) for x in outputs],
                numbers,
            )
        )
        rest = {}
    value, bound = Evaluation(**value, **rest), Evaluation(**bound, **rest)
    graph.results = {
        "logits": found["outputs"],
        "loss": {} if infer else leaves(found["loss"], "loss"),
        "gradients": found["gradients"],
        "step": found["step"],
        "state": found.get("state", {}),
    }
    graph.results["loss"] = {} if infer else {"loss": found["loss"]}
    graph.results["step"] = found["step"] | {
        f"optimizer.{n}": i for n, i in found.get("memory", {}).items()
    }
    return graph, value, bound


def side_roundoff(side: JaxSide) -> float:
    return 2.0**-53 if side.dtype == "float64" else 2.0**-24


@dataclass
class Recording(Walk):
    """The walk that bounds every value, which notes them in a graph."""

    graph: Graph = field(default_factory=lambda: Graph("jax"))
    numbers: WeakKeyDictionary[Approx, int] = field(default_factory=WeakKeyDictionary)

    def give(self, x: Approx, kind: str, name: str) -> None:
        """An input of the step."""
        phase = "optimiser" if kind == "memory" else "forward"
        self.numbers[x] = self.graph.add(
            "given", (), x.value, given=name or "input", depends=True, phase=phase
        )

    def number(self, x: Approx, op: str = "constant") -> int:
        """Of a value; a new one where no equation made it."""
        if x not in self.numbers:
            depends = op != "constant"
            self.numbers[x] = self.graph.add(op, (), _real(x.value), depends=depends)
        return self.numbers[x]

    def note(self, eqn: core.JaxprEqn, operands: list[Approx], found: Approx) -> None:
        """Decisions are another's business."""

    def equation(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        name = eqn.primitive.name
        inputs = [self.number(x) for x in operands]
        results = super().equation(eqn, operands)
        for x in results:
            self.record(x, name, inputs)
        return results

    def record(self, x: Approx, name: str, inputs: list[int], moves: bool = False) -> None:
        if x in self.numbers or not _is_real(x.value):
            return
        tensors = self.graph.tensors
        stack = any("transpose(" in str(e.source_info.name_stack) for e in self.around)
        phases = {tensors[i].phase for i in inputs}
        phase = "backward" if stack else "forward"
        if not stack and phases & {"backward", "optimiser"}:
            phase = "optimiser"
        line = _line(self.around)
        literals = [t for t in map(tensors.__getitem__, inputs) if t.op == "constant"]
        self.numbers[x] = self.graph.add(
            name,
            inputs,
            x.value,
            ROOM * dense(x.bound, x.value),
            module=_module(self.around),
            line=line,
            phase=phase,
            moves=name in _LAYOUT or moves,
            scalars=[float(t.fingerprint.low[0]) for t in literals if t.shape == ()],
        )

    def scan(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        p = eqn.params
        first, last = p["num_consts"], p["num_consts"] + p["num_carry"]
        carry, stacked = operands[first:last], operands[last:]
        times = range(p["length"])
        found: list[list[Approx]] = []
        for i in reversed(times) if p["reverse"] else times:
            xs = []
            for x in stacked:
                y = Approx(x.value[i], _at(x.bound, i), _at(x.likely, i))
                self.record(y, "slice", [self.number(x)])
                xs.append(y)
            walk = self.within()
            walk.around = self.around
            out = walk.closed(p["jaxpr"], [*operands[:first], *carry, *xs])
            carry = []
            for x in out[: p["num_carry"]]:
                full = x.dense()
                self.numbers[full] = self.number(x)
                carry.append(full)
            found.append(out[p["num_carry"] :])
        found = found[::-1] if p["reverse"] else found
        made = []
        for ys in zip(*found, strict=True):
            y = Approx(*(np.stack(part) for part in zip(*(_parts(y) for y in ys), strict=True)))
            self.record(y, "stack", [self.number(x) for x in ys])
            made.append(y)
        return [*carry, *made]


def _parts(x: Approx) -> tuple[Any, Any, Any]:
    full = x.dense()
    return full.value, full.bound, full.likely


def _at(bound: Any, i: int) -> Any:
    return bound[i] if hasattr(bound, "__getitem__") else bound


def _is_real(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "fiub" if not hasattr(value, "_impl") else False


def _real(value: Any) -> Any:
    return value if _is_real(value) else np.zeros(())


def _line(around: tuple[core.JaxprEqn, ...]) -> str:
    """file:line (function) of the innermost frame that is the user's; where there is none, of the
    innermost of the libraries' layers and optimisers, or of our losses."""
    fallback = ""
    for eqn in reversed(around):
        traceback: Any = eqn.source_info.traceback
        for frame in traceback.frames if traceback else ():
            file = frame.file_name
            if file == _BOUND:
                break
            kind = _kind(file)
            if kind == "user":
                return f"{file}:{frame.line_num} ({frame.function_name.split('.')[-1]})"
            if kind and not fallback:
                fallback = f"{file}:{frame.line_num} ({frame.function_name.split('.')[-1]})"
    return fallback


@lru_cache(maxsize=4096)
def _kind(file: str) -> str:
    if any(part in file for part in ("/optax/", "/flax/", "jax_losses", "/jax/_src/nn/")):
        return "layer"
    own = file.endswith("jax_mlp/step.py")  # the trainer's
    return "user" if _of_user(file) and not own else ""


def _module(around: tuple[core.JaxprEqn, ...]) -> str:
    """The path of the user's module: the name stack without what transformations wrote there."""
    words = [
        word
        for eqn in around
        for word in str(eqn.source_info.name_stack).split("/")
        if word and "(" not in word and ")" not in word
    ]
    return ".".join(dict.fromkeys(words))


assert CONTROL  # scans are unrolled; loops and branches are noted by what they give
