"""Every tensor that JAX's training step makes, as data, by the interpreter that bounds rounding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from parity.rounding.arithmetic import Approx, dense
from parity.rounding.bound import walked
from parity.rounding.jaxpr import _OWN as _BOUND
from parity.rounding.jaxpr import _of_user, scan_counts
from parity.rounding.walk import Walk
from parity.sides.jax_side import JaxSide
from parity.sides.memory import marked
from parity.sides.side import Batch, Evaluation
from parity.sides.tensors import ROOM, Graph, telling, window

_LAYOUT = {"reshape", "transpose", "squeeze", "expand_dims", "copy", "stop_gradient", "name",
           "optimization_barrier", "convert_element_type"}  # fmt: skip


def jax_tensors(
    side: JaxSide, batch: Batch, start: Any = None, infer: bool = False
) -> tuple[Graph, Evaluation, Evaluation]:
    """(graph of one training step, its values, their bounds), in float64.

    start: (parameters, state, optimiser state), by default those that the side holds before its
    first step. infer: the forward pass alone.
    Raises UnsupportedPrimitive for an operation without a rounding rule.
    """
    inputs, targets = batch
    held = start or (*side.held(), side.memory())
    if infer:
        given: tuple[Any, ...] = (*held[:2], side.typed(inputs))
        function: Any = side.outputs
    else:
        given, function = (*held, side.repeated(inputs, targets)), side.taken
    kinds = ("params", "state", "batch" if infer else "memory", "batch")
    labels = [
        (kinds[path[0].idx], jax.tree_util.keystr(path[1:], simple=True, separator="."))
        for path, _ in jax.tree_util.tree_flatten_with_path(given)[0]
    ]
    graph = Graph("jax")
    walks: list[Recording] = []

    def make(worst: Any, chance: Any, base: float, eager: bool) -> Recording:
        walks.append(Recording(worst, chance, base, eager, graph=graph))
        return walks[0]

    with _sown_by_name():
        outputs, shapes = walked(function, given, ROUNDOFF[side.dtype], make, labels)
    found = shapes.unflatten(map(walks[0].number, outputs))
    value = shapes.unflatten([np.asarray(x.value) for x in outputs])
    bound = shapes.unflatten([np.asarray(dense(x.bound, x.value)) for x in outputs])
    if infer:
        graph.results = {"logits": found}
        nothing: dict[str, Any] = {"loss": np.zeros(()), "gradients": {}, "step": {}}
        return graph, Evaluation(value, **nothing), Evaluation(bound, **nothing)
    memory = marked(found["memory"])
    graph.results = {
        "logits": found["outputs"],
        "loss": {"loss": found["loss"]},
        "gradients": found["gradients"],
        "step": found["step"] | memory,
        "state": found["state"],
    }
    return graph, Evaluation(**value), Evaluation(**bound)


@contextlib.contextmanager
def _sown_by_name() -> Iterator[None]:
    """While it lasts, what an NNX module sows has that name in the jaxpr."""
    plain: Any = nnx.Module.sow

    def sow(self: Any, kind: Any, name: str, value: Any, *rest: Any, **how: Any) -> Any:
        named = jax.tree.map(lambda x: checkpoint_name(x, name), value)
        return plain(self, kind, name, named, *rest, **how)

    setattr(nnx.Module, "sow", sow)  # noqa: B010
    try:
        yield
    finally:
        setattr(nnx.Module, "sow", plain)  # noqa: B010


ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclass
class Recording(Walk):
    """The walk that bounds every value, which notes them in a graph.

    Calls are inlined and scans unrolled; a loop and a branch are what goes on inside them.
    """

    graph: Graph = field(default_factory=lambda: Graph("jax"))
    numbers: WeakKeyDictionary[Approx, int] = field(default_factory=WeakKeyDictionary)

    def give(self, x: Approx, kind: str, name: str) -> None:
        """An input of the step."""
        phase = "optimiser" if kind == "memory" else "forward"
        named = f"input {name}" if kind == "batch" else name
        self.numbers[x] = self.graph.add(
            "given", (), x.value, given=named, depends=True, phase=phase
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
        self.graph.narrow |= any(map(_is_narrow, eqn.outvars))
        settings = _window(eqn.params) if name == "conv_general_dilated" else ()
        for x in results:
            self.record(x, name, inputs, settings, eqn.params["name"] if name == "name" else "")
        return results

    def record(
        self,
        x: Approx,
        name: str,
        inputs: list[int],
        settings: tuple[Any, ...] = (),
        module: str = "",
    ) -> None:
        if x in self.numbers or not _is_real(x.value):
            return
        tensors = self.graph.tensors
        stack = any("transpose(" in str(e.source_info.name_stack) for e in self.around)
        phases = {tensors[i].phase for i in inputs}
        phase = "backward" if stack else "forward"
        if not stack and phases & {"backward", "optimiser"}:
            phase = "optimiser"
        line = _line(self.around)
        bound = ROOM * dense(x.bound, x.value)
        if phase == "forward" and not self.graph.narrow:
            went_in = [tensors[i].fingerprint.largest for i in inputs]
            bound = telling(x.value, bound, max(went_in, default=0.0))
        literals = [t for t in map(tensors.__getitem__, inputs) if t.op == "constant"]
        self.numbers[x] = self.graph.add(
            name,
            inputs,
            x.value,
            bound,
            module=module or _module(self.around),
            line=line,
            phase=phase,
            moves=name in _LAYOUT,
            scalars=[t.fingerprint.number for t in literals if t.shape == ()],
            settings=settings,
        )

    def scan(self, eqn: core.JaxprEqn, operands: list[Approx]) -> list[Approx]:
        p = eqn.params
        first, n = scan_counts(p)
        last = first + n
        carry, stacked = operands[first:last], operands[last:]
        times = range(p["length"])
        found: list[list[Approx]] = []
        for i in reversed(times) if p["reverse"] else times:
            xs = []
            for x in stacked:
                y = Approx(x.value[i], _at(x.bound, i), _at(x.likely, i))
                self.record(y, "step of scan", [self.number(x)])
                xs.append(y)
            walk = self.within()
            walk.around = self.around
            out = walk.closed(p["jaxpr"], [*operands[:first], *carry, *xs])
            carry = []
            for x in out[:n]:
                full = x.dense()
                self.numbers[full] = self.number(x)
                carry.append(full)
            found.append(out[n:])
        found = found[::-1] if p["reverse"] else found
        made = []
        for ys in zip(*found, strict=True):
            value, bound, likely = map(np.stack, zip(*map(_parts, ys), strict=True))
            y = Approx(value, bound, likely)
            self.record(y, "steps of scan", [self.number(x) for x in ys])
            made.append(y)
        return [*carry, *made]


def _is_narrow(x: Any) -> bool:
    return jax.numpy.issubdtype(x.aval.dtype, jax.numpy.floating) and x.aval.dtype.itemsize < 4


def _window(p: dict[str, Any]) -> tuple[Any, ...]:
    strides, spread = p["window_strides"], p["lhs_dilation"]
    return window(strides, p["padding"], p["rhs_dilation"], spread, p["feature_group_count"])


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
    # The trainer's, what checks the types of a user's arguments, and what NumPy calls back.
    checks = "/jaxtyping/" in file or "/beartype/" in file or "/site-packages/numpy/" in file
    own = file.endswith("jax_mlp/step.py") or checks
    return "user" if _of_user(file) and not own else ""


def _module(around: tuple[core.JaxprEqn, ...]) -> str:
    """The path of the user's module: the name stack without what transformations wrote there."""
    names = [
        scope.name
        for eqn in around
        for scope in eqn.source_info.name_stack.stack
        if type(scope).__name__ == "Scope" and "(" not in scope.name
    ]
    return ".".join(dict.fromkeys(names))
