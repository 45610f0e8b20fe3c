"""Both sides of one problem, evaluated on the same draws: JAX's graph, traced once, and Torch's."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from parity.identity.field import Algebra
from parity.identity.jax_graph import JaxGraph
from parity.identity.lines import Lines
from parity.identity.number import BadDraw, Field, Unclean, Undecided
from parity.identity.torch_graph import Stale, Tape
from parity.identity.torch_step import Fields, Given, TorchSteps
from parity.rounding.devices import on_one_device
from parity.sides.jax_side import JaxSide
from parity.sides.side import ModelFails
from parity.sides.torch_side import TorchSide
from parity.trees import Tree, leaves, mapped, shapes

EXAMPLES = 3
TURNS = 200  # draws of what roots are taken of
FOR_DEVICES = (4, 6, 8, 16, 32)  # where 3 rows can't be cut into a part for each
Seen = list[tuple[str, dict[str, Any], dict[str, Any]]]  # (where, JAX's results, Torch's)
BothLines = tuple[Lines | None, Lines | None]


class Contest:
    """inputs, targets: a batch; its first rows give shapes and integers."""

    def __init__(
        self, ours: JaxSide, theirs: TorchSide, inputs: Tree, targets: Tree, infer: bool
    ) -> None:
        self.ours, self.theirs, self.infer = ours, theirs, infer
        self.params, self.state = ours.held()
        self.memory = {} if infer else ours.memory()
        self.jaxpr, made, size = self.traced(ours, inputs, targets, infer)
        self.structure = jax.tree.structure(made)
        self.batches = list(_rows(inputs, targets, size))
        self.inputs, self.targets = self.batches[0]
        self.starts: list[Given] = []  # of the steps of the latest evaluation
        self.rows = 0  # which of the batches
        self.tapes: dict[int | None, list[Tape]] = {}  # Torch's steps; None: for any rows
        self.bound = False  # whether they depend on the rows

    @staticmethod
    def traced(ours: JaxSide, inputs: Tree, targets: Tree, infer: bool) -> tuple[Any, Any, int]:
        """(the jaxpr of a step, or of the outputs; shapes; rows) for a few rows of a batch: as many
        as devices can share, where they must."""
        key = "a few rows", shapes(inputs), shapes(targets), infer
        return ours.kept(key, lambda: _of_few_rows(ours, inputs, targets, infer))

    def on_rows(self, number: int) -> None:
        """From now on, this few rows of the batch."""
        self.rows = number % len(self.batches)
        self.inputs, self.targets = self.batches[self.rows]

    def evaluated(
        self,
        of: Algebra,
        blank: bool = False,
        lines: BothLines = (None, None),
        partly: bool = False,
    ) -> Seen:
        """Of a first step, and of one with a memory. blank: an input and biases are 0. lines: of
        JAX's and of Torch's operations, to be filled. partly: nothing, but each side is evaluated
        until exponentials are used up."""
        first = self._first(of, blank)
        self.starts = [first]
        rows = self.rows if self.bound else None
        tapes = [] if lines[1] or partly else self.tapes.get(rows, [])
        steps = TorchSteps(self.theirs, of, self.inputs, self.targets, lines[1], tapes)
        _given(lines, first)
        if partly:
            with contextlib.suppress(Undecided):
                self._jax(of, first, None)
            with contextlib.suppress(Undecided), steps.training():
                steps.outputs(first) if self.infer else steps.step(first)
            return []
        try:
            seen, whole = self._both(of, first, steps, blank, lines)
        except Stale as why:
            self.bound = True
            self.tapes.clear()
            raise BadDraw(f"Torch's operations depend on the integers: {why}") from None
        if whole and not lines[1]:
            self.bound |= any(tape.bound for tape in steps.tapes)
            self.tapes[self.rows if self.bound else None] = steps.tapes
        return seen

    def _both(
        self, of: Algebra, first: Given, steps: TorchSteps, blank: bool, lines: BothLines
    ) -> tuple[Seen, bool]:
        """(both sides' results, whether these are all steps)."""
        if self.infer:
            found, first = self._cleanly(of, first, lines[0])
            return [("", {"outputs": found}, {"outputs": steps.outputs(first)})], True
        with steps.training():
            mine, first = self._cleanly(of, first, lines[0], blank)
            other = steps.step(first)
            seen = [("blank input: " if blank else "", mine, other)]
            lone = not (mine["memory"] or other["memory"])
            if blank or lone:
                return seen, lone
            kept = {n for n, f in mine["memory"].items() if isinstance(f, Field)}
            shared = kept if kept >= other["memory"].keys() else set()
            memory = {
                n: of.held(f.shape) if n in shared and n in other["memory"] else f
                for n, f in mine["memory"].items()
            }
            later = Given(
                {n: of.draw(np.shape(a)) for n, a in self.params.items()},
                {n: of.held(np.shape(a)) for n, a in self.state.items()},
                memory,
                _fields(of, self.inputs),
                _fields(of, self.targets),
            )
            self.starts.append(later)
            _given(lines, later)
            mine, later = self._cleanly(of, later, lines[0])
            other = steps.step(replace(later, memory=memory if shared else {}))
            return [*seen, ("second step: ", mine, other)], True

    def _first(self, of: Algebra, blank: bool = False) -> Given:
        """What a first step is given."""
        return Given(
            {n: _drawn(of, np.shape(a), blank and np.ndim(a) < 2) for n, a in self.params.items()},
            {n: of.held(np.shape(a)) for n, a in self.state.items()},
            {n: of.lift(a) if a.dtype.kind == "f" else a for n, a in self.memory.items()},
            _fields(of, self.inputs, blank),
            _fields(of, self.targets),
        )

    def _cleanly(
        self, of: Algebra, given: Given, lines: Lines | None, blank: bool = False
    ) -> tuple[Any, Given]:
        """JAX's results; where a root should be that of a square, of what was drawn until it is:
        other rows of the inputs, or everything."""
        of.rows = len(next(iter(leaves(self.inputs).values())))
        of.leaves = frozenset(f.shape for f in given.params.values())
        if again := of.kept_before:
            params, inputs = again.pop(0)
            given = replace(given, params=params, inputs=inputs)
        for turn in range(1 if blank else TURNS):
            before = of.mark()
            of.strict = bool(of.clean)
            try:
                found = self._jax(of, given, lines)
                of.kept.append((given.params, given.inputs))
                return found, given
            except Unclean as lone:
                of.back(before)
                given = self._redrawn(of, given, lone.where, everything=turn % 64 == 63)
            finally:
                of.strict = False
        raise BadDraw(f"no roots of squares in {TURNS} draws")

    @staticmethod
    def _redrawn(of: Algebra, given: Given, where: Any, everything: bool) -> Given:
        floats = {n: f for n, f in given.inputs.items() if isinstance(f, Field)}
        if where.ndim and len(where) == of.rows and floats and not everything:
            rows = where.reshape(of.rows, -1).any(1)
            new = {n: of.redraw(f, rows) for n, f in floats.items()}
            return replace(given, inputs=given.inputs | new)
        new = {n: of.draw(f.shape) for n, f in floats.items()}
        params = {n: of.draw(f.shape) for n, f in given.params.items()}
        return replace(given, inputs=given.inputs | new, params=params)

    def _jax(self, of: Algebra, given: Given, lines: Lines | None) -> Any:
        ours = self.ours
        with ours._settings():
            inputs = filled(ours.typed(self.inputs), given.inputs)
            if self.infer:
                flat = jax.tree.leaves((given.params, given.state, inputs))
            else:
                targets = filled(ours.typed(self.targets), given.targets)
                count = ours.accumulated
                batches = ((inputs, targets),) * count
                flat = jax.tree.leaves((given.params, given.state, given.memory, batches))
            out = JaxGraph(of, lines).closed(self.jaxpr, flat)
        found = jax.tree.unflatten(self.structure, out)
        if not self.infer:
            found["loss"] = {"loss": found["loss"]}
        return found


def _of_few_rows(ours: JaxSide, inputs: Tree, targets: Tree, infer: bool) -> tuple[Any, Any, int]:
    failed: ModelFails | None = None
    for size in (EXAMPLES, *FOR_DEVICES):
        try:
            closed, given = _traced(ours, *next(_rows(inputs, targets, size)), infer)
        except ModelFails as error:
            if "divi" not in str(error):
                raise
            failed = failed or error
            continue
        with ours._settings():
            return on_one_device(closed), given, size
    assert failed is not None
    raise failed


def _traced(ours: JaxSide, inputs: Tree, targets: Tree, infer: bool) -> tuple[Any, Any]:
    params, state = ours.held()
    with ours._settings():
        if infer:
            given: Any = params, state, ours.typed(inputs)
            return jax.make_jaxpr(ours.outputs, return_shape=True)(*given)
        given = params, state, ours.memory(), ours.repeated(inputs, targets)
        return jax.make_jaxpr(ours.taken, return_shape=True)(*given)


def _rows(inputs: Tree, targets: Tree, size: int) -> Iterator[tuple[Tree, Tree]]:
    """Batches of a few rows; together the first ones, and then such as bring new labels."""
    count = len(next(iter(leaves((inputs, targets)).values())))
    size = min(size, count)
    for start in range(0, min(count - size + 1, 4 * size), size):
        yield (
            mapped(lambda x: x[start : start + size], inputs),  # noqa: B023
            mapped(lambda x: x[start : start + size], targets),  # noqa: B023
        )


def _given(lines: BothLines, given: Given) -> None:
    for one in lines:
        if one is not None:
            for fields in vars(given).values():
                one.given(fields.values())


def _drawn(of: Algebra, shape: tuple[int, ...], blank: bool = False) -> Field:
    drawn = of.draw(shape)
    return of.moved(np.zeros_like, drawn) if blank else drawn


def _fields(of: Algebra, tree: Tree, blank: bool = False) -> Fields:
    """{name: a draw} of its floats. blank: the first row is 0."""
    floats = {n: x for n, x in leaves(tree).items() if np.asarray(x).dtype.kind in "fV"}
    drawn = {name: of.draw(np.shape(x)) for name, x in floats.items()}
    if not blank:
        return drawn
    return {
        n: replace(f, parts={k: _blank(v) for k, v in f.parts.items()}) for n, f in drawn.items()
    }


def _blank(part: Any) -> Any:
    part = np.array(part)
    part[:1] = 0
    return part


def filled(tree: Tree, fields: Fields) -> Tree:
    """The tree with these for its floats."""
    names = iter(leaves(tree))
    return mapped(lambda x: fields.get(next(names), np.asarray(x)), tree)
