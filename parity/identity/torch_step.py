"""A Torch side's training steps over finite fields, under the names that both sides share."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from parity.identity import degree
from parity.identity.field import Algebra
from parity.identity.lines import Lines
from parity.identity.number import Field
from parity.identity.torch_cells import Place
from parity.identity.torch_graph import Key, Stale, Tape, TorchGraph, attention_taken_apart
from parity.sides.memory import SLOTS
from parity.sides.torch_side import TorchSide, _plain
from parity.trees import Tree, arguments, leaves

Fields = dict[str, Any]  # by name; integers stay arrays


@dataclass(frozen=True)
class Given:
    """Where a step starts: drawn, under the shared names. memory: of later steps."""

    params: Fields
    state: Fields
    memory: Fields
    inputs: Fields
    targets: Fields


class TorchSteps:
    """Steps of one training, each from what it is given; the optimiser's counts go on. tapes: of
    the same steps, to be played in place of Torch; where there are none, they are recorded."""

    def __init__(
        self,
        side: TorchSide,
        of: Algebra,
        inputs: Tree,
        targets: Tree,
        lines: Lines | None = None,
        tapes: Sequence[Tape] = (),
    ) -> None:
        self.side, self.of = side, of
        self.inputs, self.targets = inputs, targets
        self.graph = TorchGraph(of, lines)
        self.own = [n for n, _ in side._inner.named_parameters()]
        self.tapes, self._to_play = [*tapes], iter(tapes) if tapes else None

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While it lasts, steps can be taken."""
        if self._to_play:
            yield
            return
        model = self.side.model
        with self.side.borrowed(), self.side._optimising(), attention_taken_apart():
            model.plot = lambda *args, **kwargs: None  # it would read numbers
            try:
                yield
            finally:
                del model.plot

    def outputs(self, given: Given) -> Fields:
        """Of the model alone."""
        if self._to_play:
            return _of(self._played(given), "outputs")
        side, graph = self.side, self.graph
        with side.borrowed(), attention_taken_apart():
            batch = side._typed(self.inputs)
            self._begin(given, batch, ())
            args, named = arguments(batch)
            side.model.train()
            with graph:
                out = side.model(*args, **named)
            _read(graph, out)
            return _of(graph.found, "outputs")

    def step(self, given: Given) -> dict[str, Fields]:
        """The parts of an Evaluation."""
        return self._parts(self._played(given) if self._to_play else self._recorded(given))

    def _played(self, given: Given) -> dict[Key, Any]:
        assert self._to_play
        tape = next(self._to_play, None)
        if tape is None:
            raise Stale("a further step")
        for key, value, drawn in self._values(tape.given, given):
            self.graph.cells.hold(tape.given[key], value, drawn)
        with torch.no_grad():
            return tape.played(self.graph.cells)

    def _recorded(self, given: Given) -> dict[Key, Any]:
        side, graph = self.side, self.graph
        inputs, targets = side._typed(self.inputs), side._typed(self.targets)
        self._begin(given, inputs, targets)
        arrived: dict[str, torch.Tensor] = {}
        seen: list[Any] = []
        tap = side.model.register_forward_hook(lambda model, args, out: seen.append(out))
        hooks = [
            p.register_hook(partial(arrived.__setitem__, name))
            for name, p in side._inner.named_parameters()
            if p.requires_grad and getattr(p, "_post_accumulate_grad_hooks", None)
        ]
        side.model.train()
        try:
            with graph:
                for i in range(getattr(side._optimizer, "count", 1)):
                    loss = side.model.training_step(side._data.joined(inputs, targets))
                    side._optimizer.zero_grad()
                    if loss.requires_grad:
                        loss.backward()
                    if i == 0:
                        graph.read(("loss", "loss"), loss.detach())
                        if seen:
                            _read(graph, seen[0])
                        self._read_gradients(arrived)
                    side._optimizer.step()
        finally:
            for hook in (tap, *hooks):
                hook.remove()
        for name, p in side._inner.named_parameters():
            graph.read(("step", name), p.data)
        buffers = dict(side._inner.named_buffers())
        for own, shared in side._state_names.items():
            graph.read(("state", shared), buffers[own])
        for slot, tensors in side._slots().items():
            for name, tensor in tensors.items():
                graph.read(("memory", slot, name), tensor)
        return graph.found

    def _read_gradients(self, arrived: Mapping[str, torch.Tensor]) -> None:
        for name, p in self.side._inner.named_parameters():
            grad = arrived.get(name) if p.grad is None else p.grad
            if grad is not None:
                self.graph.read(("gradients", name), grad.to_dense() if grad.is_sparse else grad)

    # --- what it is given ------------------------------------------------------------------------

    def _begin(self, given: Given, inputs: Tree, targets: Tree) -> None:
        side = self.side
        buffers = dict(side._inner.named_buffers())
        tensors: dict[Key, torch.Tensor] = {
            **{("params", n): p.data for n, p in side._inner.named_parameters()},
            **{("state", n): buffers[n] for n in side._state_names},
            **{("memory", slot, n): x
               for slot, each in side._slots().items() for n, x in each.items()},
            **{("inputs", n): x for n, x in leaves(inputs).items()},
            **{("targets", n): x for n, x in leaves(targets).items()},
        }  # fmt: skip
        tape = self.graph.begin(tensors)
        if self._to_play is None:
            self.tapes.append(tape)
        for key, value, drawn in self._values(tape.given, given):
            self.graph.hold(key, value, drawn)

    def _values(self, places: Mapping[Key, Place], given: Given) -> Iterator[tuple[Key, Any, bool]]:
        """(where, what it stands for, whether that was drawn) of all that is given."""
        side = self.side
        for name, field in self._back(given.params).items():
            yield ("params", name), field, True
        for name, shared in side._state_names.items():
            if shared in given.state:
                shape = places["state", name].shape
                value = self.of.moved(lambda v, s=shape: v.reshape(s), given.state[shared])
                yield ("state", name), value, True
        for slot in {key[1]: None for key in places if key[0] == "memory"}:
            shared_ = {n.partition(".")[2]: f for n, f in given.memory.items()
                       if n.partition(".")[0] == SLOTS.get(slot, slot)}  # fmt: skip
            if shared_:
                own = self._back({n: shared_.get(n, given.params[n]) for n in given.params})
                for key in places:
                    if key[:2] == ("memory", slot):
                        yield key, own[key[2]], True
        for part, tree in (("inputs", self.inputs), ("targets", self.targets)):
            fields = getattr(given, part)
            for name, leaf in leaves(tree).items():
                if (part, name) not in places or not math.prod(places[part, name].shape):
                    continue
                if isinstance(fields.get(name), Field):
                    yield (part, name), fields[name], True
                elif not places[part, name].floating:
                    integers = torch.tensor(np.asarray(leaf)).to(places[part, name].dtype)
                    yield (part, name), integers.numpy(), False

    # --- what it gives ---------------------------------------------------------------------------

    def _parts(self, found: Mapping[Key, Any]) -> dict[str, Fields]:
        side = self.side
        memory: Fields = {}
        for slot in {key[1]: None for key in found if key[0] == "memory"}:
            tensors = {key[2]: f for key, f in found.items() if key[:2] == ("memory", slot)}
            lacking = {n for n, origin in side.origins.items() if not tensors.keys() >= {*origin}}
            gone = {side._names[n] for n in lacking}
            whole = self._there(self._filled(tensors))
            memory |= {f"{SLOTS.get(slot, slot)}.{n}": f for n, f in whole.items() if n not in gone}
        return {
            "loss": _of(found, "loss"),
            "outputs": _of(found, "outputs"),
            "gradients": self._there(self._filled(_of(found, "gradients"))),
            "step": self._there(_of(found, "step")),
            "state": _of(found, "state"),
            "memory": memory,
        }

    def _filled(self, own: Fields) -> Fields:
        """With zeros for parameters without a tensor."""
        return {n: own[n] if n in own else self.of.lift(np.zeros(tuple(p.shape)))
                for n, p in self.side._inner.named_parameters()}  # fmt: skip

    # --- there and back --------------------------------------------------------------------------

    def _there(self, own: Fields) -> Fields:
        """From Torch's parameters to those that the side shows."""
        layout, names = self.side._layout, self.side._names
        ks = set.intersection(*(set(f.parts) for f in own.values()))
        shown = {k: layout.there({n: own[n].parts[k] for n in self.own}) for k in ks}
        rough = self._rough_there(own)
        made = {}
        for name, shared in names.items():
            came = [own[o] for o in self.side.origins[name]]
            doubt = frozenset[tuple[int, str]]().union(*(f.doubt for f in came))
            parts = {k: np.asarray(shown[k][name]) for k in sorted(ks)}
            of = degree.added(*(f.degree for f in came))
            made[shared] = Field(parts, rough=rough.get(name, {}), doubt=doubt, degree=of)
        return made

    def _rough_there(self, own: Fields) -> dict[str, dict[int, Any]]:
        found: dict[str, dict[int, Any]] = {}
        for k in {k for f in own.values() for k in f.rough}:
            each = {n: own[n].rough.get(k, np.zeros(own[n].shape, bool)) for n in self.own}
            for name, rough in self.side._layout.there(each).items():
                found.setdefault(name, {})[k] = np.asarray(rough)
        return found

    def _back(self, shared: Fields) -> Fields:
        ks = set.intersection(*(set(f.parts) for f in shared.values()))
        own = {k: self.side._unnamed({n: f.parts[k] for n, f in shared.items()}) for k in ks}
        of = degree.added(*(f.degree for f in shared.values()))
        return {n: Field({k: np.asarray(own[k][n]) for k in sorted(ks)}, degree=of)
                for n in self.own}  # fmt: skip


def _read(graph: TorchGraph, out: Any) -> None:
    found = leaves(out if isinstance(out, torch.Tensor) else _plain(out), "logits")
    for name, leaf in found.items():
        graph.read(("outputs", name), leaf.detach())


def _of(found: Mapping[Key, Any], part: str) -> Fields:
    """{name: value} of a part of what was read."""
    return {key[1]: value for key, value in found.items() if key[0] == part}
