"""A Torch side's training steps over finite fields, under the names that both sides share."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from parity.identity import degree
from parity.identity.field import Algebra
from parity.identity.lines import Lines
from parity.identity.number import Field
from parity.identity.torch_graph import TorchGraph, attention_taken_apart
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
    """Steps of one training, each from what it is given; the optimiser's counts go on."""

    def __init__(
        self,
        side: TorchSide,
        of: Algebra,
        inputs: Tree,
        targets: Tree,
        lines: Lines | None = None,
    ) -> None:
        self.side, self.of = side, of
        self.inputs, self.targets = inputs, targets
        self.graph = TorchGraph(of, lines)
        self.own = [n for n, _ in side._inner.named_parameters()]

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While it lasts, steps can be taken."""
        model = self.side.model
        with self.side.borrowed(), self.side._optimising(), attention_taken_apart():
            model.plot = lambda *args, **kwargs: None  # it would read numbers
            try:
                yield
            finally:
                del model.plot

    def outputs(self, given: Given) -> Fields:
        """Of the model alone."""
        side, graph = self.side, self.graph
        with side.borrowed(), attention_taken_apart():
            self._hold(graph, given)
            batch = side._typed(self.inputs)
            self._hold_tree(graph, batch, given.inputs)
            args, named = arguments(batch)
            side.model.train()
            with graph:
                out = side.model(*args, **named)
            return _read(graph, out)

    def step(self, given: Given) -> dict[str, Fields]:
        """The parts of an Evaluation."""
        side, graph = self.side, self.graph
        self._hold(graph, given)
        for slot, tensors in side._slots().items():
            shared = {n.partition(".")[2]: f for n, f in given.memory.items()
                      if n.partition(".")[0] == SLOTS.get(slot, slot)}  # fmt: skip
            if shared:
                own = self._back({n: shared.get(n, given.params[n]) for n in given.params})
                for name, kept in tensors.items():
                    graph.hold(kept, own[name])
        inputs, targets = side._typed(self.inputs), side._typed(self.targets)
        self._hold_tree(graph, inputs, given.inputs)
        self._hold_tree(graph, targets, given.targets)
        found: dict[str, Fields] = {}
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
                        found["loss"] = {"loss": graph.get(loss.detach())}
                        found["outputs"] = _read(graph, seen[0]) if seen else {}
                        found["gradients"] = self._gradients(graph, arrived)
                    side._optimizer.step()
        finally:
            for hook in (tap, *hooks):
                hook.remove()
        now = {n: graph.get(p.data) for n, p in side._inner.named_parameters()}
        found["step"] = self._there(now)
        buffers = dict(side._inner.named_buffers())
        found["state"] = {
            shared: graph.get(buffers[own]) for own, shared in side._state_names.items()
        }
        found["memory"] = self._memory(graph)
        return found

    def _gradients(self, graph: TorchGraph, arrived: Mapping[str, torch.Tensor]) -> Fields:
        found = {}
        for name, p in self.side._inner.named_parameters():
            grad = arrived.get(name) if p.grad is None else p.grad
            if grad is None:
                found[name] = self.of.lift(np.zeros(tuple(p.shape)))
            else:
                found[name] = graph.get(grad.to_dense() if grad.is_sparse else grad)
        return self._there(found)

    def _memory(self, graph: TorchGraph) -> Fields:
        side = self.side
        found: Fields = {}
        for slot, tensors in side._slots().items():
            lacking = {n for n, origin in side.origins.items() if not tensors.keys() >= {*origin}}
            zeros = {n: self.of.lift(np.zeros(tuple(p.shape)))
                     for n, p in side._inner.named_parameters()}  # fmt: skip
            whole = self._there(zeros | {n: graph.get(t) for n, t in tensors.items()})
            gone = {side._names[n] for n in lacking}
            found |= {f"{SLOTS.get(slot, slot)}.{n}": f for n, f in whole.items() if n not in gone}
        return found

    def _hold(self, graph: TorchGraph, given: Given) -> None:
        side = self.side
        own = self._back(given.params)
        for name, p in side._inner.named_parameters():
            graph.hold(p.data, own[name])
        buffers = dict(side._inner.named_buffers())
        for name, shared in side._state_names.items():
            if shared in given.state:
                shape = tuple(buffers[name].shape)
                value = self.of.moved(lambda v, s=shape: v.reshape(s), given.state[shared])
                graph.hold(buffers[name], value)

    def _hold_tree(self, graph: TorchGraph, tensors: Tree, fields: Fields) -> None:
        for name, leaf in leaves(tensors).items():
            if name in fields and isinstance(fields[name], Field):
                graph.hold(leaf, fields[name])

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


def _read(graph: TorchGraph, out: Any) -> Fields:
    found = leaves(out if isinstance(out, torch.Tensor) else _plain(out), "logits")
    return {name: graph.get(leaf.detach()) for name, leaf in found.items()}
