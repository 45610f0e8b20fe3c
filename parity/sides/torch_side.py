"""A Torch module as a Side."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

import torch_mlp
from mlp_core.resuming import fingerprint
from parity.kept import Keeper
from parity.problem import PLAIN, Examples, Training
from parity.sides.bilinear import Products
from parity.sides.memory import SLOTS
from parity.sides.side import (
    Batch,
    Evaluation,
    Narrowest,
    Pullback,
    Run,
    Taken,
    no_outputs,
    told,
)
from parity.sides.torch_bilinear import Recorded
from parity.sides.torch_data import TorchData, numpy, tensor, view
from parity.sides.torch_device import about_device, torch_device
from parity.sides.torch_layers import layer_kinds
from parity.sides.torch_parallel import of_type, plain_name, plainly_named, processes
from parity.sides.torch_port import TorchPort
from parity.sides.torch_products import Between
from parity.sides.torch_trainer import TorchTrainer
from parity.sides.torch_types import Touched, Types
from parity.sides.torch_wide import Wide
from parity.sides.weights import Rearrangement, Turned
from parity.trees import NOTHING, Arrays, Tree, arguments, leaves, mapped, shapes


class TorchSide(Keeper):
    """A Torch module. A weight of nn.Linear is [out, in] in Torch; outside it is [in, out].

    The user's own model computes, with values of the side's: a copy would lose what hangs on its
    tensors (hooks, an optimiser inside the backward pass). In between it holds what it held.
    """

    name = "torch"

    def __init__(
        self,
        model: torch.nn.Module,
        examples: Examples,
        dtype: str = "float32",
        training: Training = PLAIN,
        weights: Callable[[Arrays], Any] | None = None,
        device: str | None = None,
    ) -> None:
        """weights: from Torch's arrays, named and shaped as there, to those that the side shows.
        device: see torch_device. Raises ValueError if weights do more than move elements."""
        self.dtype, self.examples = dtype, examples
        super().__init__()
        self.device = torch_device(device, model)
        asked = training.loss is not None or training.optimizer is not None or training.mode
        own = isinstance(model, torch_mlp.Module) and not asked and training.accumulate == 1
        self._data = TorchData(examples, flat=own)
        if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
            model = _shaped(model, next(self.batches())[0])
        if any(t.is_inference() for t in (*model.parameters(), *model.buffers())):
            model = copy.deepcopy(model)  # made under inference_mode: only a copy has gradients
        model = of_type(model, self._torch_dtype)
        self._inner = model
        self.model: Any = model if own else TorchPort(model, training)
        self.turned = {
            f"{name}.weight" if name else "weight"
            for name, layer in model.named_modules()
            if isinstance(layer, torch.nn.Linear)
        }
        self._params = {n: self._cast(p) for n, p in model.named_parameters()}
        self._buffers = {n: self._cast(b) for n, b in model.named_buffers()}
        arrays = {n: numpy(p.float()) for n, p in self._params.items()}
        if weights:
            self._layout: Any = Rearrangement(plainly_named(model, weights), arrays)
        else:
            self._layout = Turned(self.turned, arrays)
        self._names = {name: plain_name(model, name) for name in self._layout.there(arrays)}
        floats = (n for n, b in self._buffers.items() if b.is_floating_point())
        self._state_names = {name: plain_name(model, name) for name in floats}
        self._arrived: dict[str, torch.Tensor] = {}
        self._optimizer: Any = None  # of the training that goes on

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether this is a model for a TorchSide."""
        return isinstance(model, torch.nn.Module)

    # --- names -----------------------------------------------------------------------------------

    def call(self, params: Mapping[str, str], state: Mapping[str, str] = NOTHING) -> None:
        """Name parameters and state as the ladder does. params, state: {name until now: shared}."""
        self._names = {own: params[now] for own, now in self._names.items()}
        self._state_names = {
            own: state[now] for own, now in self._state_names.items() if now in state
        }

    def params(self) -> Arrays:
        return self._named(self._params)

    def state(self) -> Arrays:
        return {shared: numpy(self._buffers[own]) for own, shared in self._state_names.items()}

    def all_state(self) -> list[str]:
        """Own names of all statistics, those without a partner too; paired ones as shared."""
        own = [name for name, b in self._buffers.items() if b.is_floating_point()]
        return [self._state_names.get(name, name) for name in own]

    def untouched(self, inputs: Tree) -> set[str]:
        """Own names of the statistics that the model neither reads nor writes."""
        args, named = arguments(self._typed(inputs))
        with self.borrowed(), torch.no_grad():
            self.model.train()
            buffers = dict(self._inner.named_buffers())
            with Touched(buffers) as touched:
                self.model(*args, **named)
        return buffers.keys() - touched.names

    def of_another(self, model: torch.nn.Module) -> Arrays:
        """The parameters of another model of this kind, under the shared names."""
        if any(map(is_lazy, model.parameters())):
            model = _shaped(model, next(self.batches())[0])
        return self._named(dict(model.named_parameters()))

    @cached_property
    def _widens(self) -> bool:
        """Whether the model turns float64 numbers into float32: then float32 asked for is float64.

        Not of one that computes in less: there float32 is more than it was given.
        """
        if self.dtype != "float64":
            return False
        self.__dict__["_widens"] = False  # while it's asked
        try:
            found = self.narrowest(next(self.batches())[0])
        except Exception:  # the model's own, told where it is called
            return False
        return found.kind == "float32" and not found.constant

    def narrowest(self, inputs: Tree) -> Narrowest:
        """The narrowest float that the forward pass computes; numbers go before constants."""
        key = "narrowest", shapes(inputs), self._widens
        return self.kept(key, lambda: self._narrowest(inputs))

    def _narrowest(self, inputs: Tree) -> Narrowest:
        typed = self._typed(inputs)
        args, named = arguments(typed)
        with self.borrowed(), torch.no_grad():
            self.model.train()
            held = [*self._inner.parameters(), *self._inner.buffers(), *leaves(typed).values()]
            with Types(held) as seen:
                self.model(*args, **named)
        bits = {
            kind: torch.finfo(getattr(torch, kind)).bits for kind in {n.kind for n in seen.found}
        }
        whole = bool(seen.products) and "float64" not in seen.products
        return replace(min(seen.found, key=lambda n: (n.constant, bits[n.kind])), whole=whole)

    def load(
        self, params: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray] = NOTHING
    ) -> None:
        new = self._unnamed(params)
        for name, mine in self._params.items():
            self._params[name] = tensor(np.array(new[name])).to(mine)
        back = {shared: own for own, shared in self._state_names.items()}
        for name, array in state.items():
            mine = self._buffers[back[name]]
            self._buffers[back[name]] = tensor(np.array(array)).reshape(mine.shape).to(mine)

    @property
    def origins(self) -> Mapping[str, Any]:
        """{name that the side shows: Torch's own names that it came from}."""
        return self._layout.origins

    def own_names(self, shared: str) -> list[str]:
        """Torch's own names of what a parameter that the side shows came from."""
        there = {name: own for own, name in self._names.items()}
        origin = self.origins.get(there.get(shared, ""), ())
        return [origin] if isinstance(origin, str) else list(origin)

    @property
    def kinds(self) -> dict[str, str]:
        """{own name of a weight: its layer's kind}, see layer_kinds."""
        return layer_kinds(self._inner)

    @property
    def own_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the parameters, by their own names, as a state_dict has them."""
        return {name: tuple(p.shape) for name, p in self._params.items()}

    @property
    def processes(self) -> int:
        """How many processes the model is spread over, which join its gradients."""
        return processes(self._inner)

    @property
    def frozen(self) -> set[str]:
        """Parameters that don't train; a function of arrays may have joined them with others."""
        still = {
            n: np.full(p.shape, not p.requires_grad) for n, p in self._inner.named_parameters()
        }
        there = self._layout.there(still)
        return {self._names[name] for name, mask in there.items() if mask.all()}

    # --- data ------------------------------------------------------------------------------------

    def batches(self, train: bool = True) -> Iterator[Batch]:
        data = TorchData(self.examples, self._data.flat)
        for batch in data.get_dataloader(train) or ():
            yield self._data.cut(batch)

    def stream(self, epochs: int) -> Iterator[Batch]:
        loader = TorchData(self.examples, self._data.flat).get_dataloader(True)
        for _ in range(epochs):
            for batch in loader:
                yield self._data.cut(batch)

    # --- what the ladder asks --------------------------------------------------------------------

    @told("when it is called")
    def forward(self, inputs: Tree, training: bool = True) -> Arrays:
        with self.borrowed(), torch.no_grad():
            self.model.train(training)
            args, named = arguments(self._typed(inputs))
            return _outputs(self.model(*args, **named))

    def is_random(self, inputs: Tree) -> bool:
        """Whether the outputs depend on Torch's random numbers, in the mode of training."""
        found = []
        for seed in (0, 1):
            with torch.random.fork_rng(devices=self._gpus):
                torch.manual_seed(seed)
                found.append(self.forward(inputs))
        return _unequal(*found)

    @told("in a training step")
    def evaluate(self, inputs: Tree, targets: Tree, step: bool = True) -> Evaluation:
        with self.borrowed(), self._optimising():
            for i in range(getattr(self._optimizer, "count", 1) if step else 1):
                found = self._backward(inputs, targets)
                if i == 0:  # copied now: the optimiser may change them
                    (outputs, loss), gradients = found, self._gradients()
                if step:
                    self._optimizer.step()
            now = self._now(loss) if step else Taken(numpy(loss), {}, {}, {})
        if not outputs:  # its training_step doesn't call what is compared
            outputs = self.forward(inputs)
        return Evaluation(outputs, now.loss, gradients, now.params, now.state, now.memory)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While it lasts, `step` goes on with one optimiser, from what `restart` gives it."""
        with self.borrowed(), self._optimising():
            yield

    def restart(self, params: Arrays, state: Arrays, memory: Arrays, first: bool = False) -> None:
        """In a training: the next step starts from these; what isn't given goes on.

        first: of this training; an optimiser makes its memory then, by its own rules.
        """
        new = self._unnamed(params)
        with torch.no_grad():
            for name, p in self._inner.named_parameters():
                p.data.copy_(tensor(np.array(new[name])))
            back = {shared: own for own, shared in self._state_names.items()}
            buffers = dict(self._inner.named_buffers())
            for name, array in state.items():
                if name in back:
                    buffers[back[name]].copy_(tensor(np.array(array)))
            if not first:
                self._remember(memory)

    @told("in a training step")
    def step(self, *batches: Batch) -> Taken:
        """The next step of a training: the loss of its first batch, and what it left behind."""
        losses = []
        for inputs, targets in batches:
            losses.append(self._backward(inputs, targets)[1])
            self._optimizer.step()
        return self._now(losses[0])

    def hidden(self, X: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """(pre-activations, activations) between each matrix product and the next.

        Read off the operations that run, so that it doesn't matter how the model is written.
        """
        with self.borrowed(), torch.no_grad(), Between() as seen:
            self.model.train()
            self.model(self._typed(X))
        return seen.between

    def products(self, inputs: Tree, targets: Tree, infer: bool = False) -> Products:
        """The products of a training step, or of the forward pass alone."""
        with Recorded(self._settings) as seen:
            self.forward(inputs) if infer else self.evaluate(inputs, targets)
        return seen.products()

    @told("in its backward pass")
    def pullback(
        self, params: Mapping[str, np.ndarray], X: np.ndarray, cotangent: np.ndarray
    ) -> Pullback:
        kept = self._params
        self._params = dict(kept)
        try:
            self.load(params)
            with self.borrowed():
                self.model.train()
                names, own = zip(*self._inner.named_parameters(), strict=True)
                inputs = self._typed(np.array(X, self.dtype)).requires_grad_()
                logits = self.model(inputs)
                weights = self._typed(np.array(cotangent, self.dtype)).to(logits.dtype)
                wanted = [p for p in own if p.requires_grad]
                *found, by_X = torch.autograd.grad(
                    logits, [*wanted, inputs], weights, materialize_grads=True
                )
                got = iter(found)
                by_params = [next(got) if p.requires_grad else torch.zeros_like(p) for p in own]
                gradients = self._named(dict(zip(names, by_params, strict=True)))
                return Pullback(numpy(logits), gradients, numpy(by_X))
        finally:
            self._params = kept

    @told("in training or validation")
    def train(self, epochs: int, update_scale: float = 1.0) -> Run:
        if update_scale != 1.0:
            raise NotImplementedError("torch: the yardstick is run on the JAX side")
        with self.borrowed():
            data = TorchData(self.examples, self._data.flat)
            history = self.make_trainer(epochs).fit(self.model, data)
            now = self._now(torch.zeros(()))
            return Run(history, now.params, now.state)

    def make_trainer(self, epochs: int) -> torch_mlp.Trainer:
        return TorchTrainer(epochs, self.dtype, self._gpus)

    def accuracy(self, logits: np.ndarray, labels: np.ndarray) -> list[np.ndarray] | None:
        if not isinstance(self.model, torch_mlp.Classifier):
            return None
        given = self._typed(logits), self._typed(labels)
        with self._settings():
            found = (self.model.accuracy(*given, averaged=a) for a in (False, True))
            return [numpy(torch.as_tensor(figure)) for figure in found]

    def not_reproducible(self) -> list[str]:
        if isinstance(self.model, TorchPort):
            return ["it computes by operations of its own, not by those of self.ops"]
        with self.borrowed():
            self.model.trainer = torch_mlp.Trainer(1, arithmetic="reproducible")
            return self.model.not_reproducible()

    def reproducible_epoch(self) -> Run:
        trainer = torch_mlp.Trainer(1, arithmetic="reproducible", at_nan="ignore")
        trainer.gpus = self._gpus
        with self.borrowed():
            data = TorchData(self.examples.reproducible, self._data.flat)
            history = trainer.fit(self.model, data)
            return Run(history, self._now(torch.zeros(())).params)

    def program(self, alone: bool = False) -> str:
        """Its layers and the plain values among their attributes; unless alone, its optimiser's."""
        kept = (bool, int, float, str, tuple, type(None))
        values = [
            (path, name, value)
            for path, layer in self._inner.named_modules()
            for name, value in vars(layer).items()
            if isinstance(value, kept) and name != "training"
        ]
        with self.borrowed(), contextlib.nullcontext() if alone else self._optimising():
            text = f"{self._inner!r} {values} {self._optimizer!r}"
        buffers = (view(self._buffers[name]) for name in sorted(self._buffers))
        return f"{text} {fingerprint(buffers)}"

    def about(self) -> dict[str, Any]:
        return {
            "model": f"{type(self._inner).__module__}.{type(self._inner).__name__}",
            "versions": {"torch": str(torch.__version__)},
            "threads": torch.get_num_threads(),
            "matmul precision": "highest",
            **about_device(self.device),
        }

    # --- the user's model, with the side's values ------------------------------------------------

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """While it lasts, the model holds copies of the side's values, at its precision."""
        model, inner = self.model, self._inner
        params = [(p, p.data, p.grad) for p in inner.parameters()]
        buffers = [
            (module, key, buffer, buffer.data)
            for module in inner.modules()
            for key, buffer in module._buffers.items()
            if buffer is not None
        ]
        modes = [(module, module.training) for module in inner.modules()]
        shown = {key: vars(model)[key] for key in ("trainer", "board") if key in vars(model)}
        optimizer, self._optimizer = self._optimizer, None
        try:
            widened = Wide() if self._widens else contextlib.nullcontext()
            with self._settings(), torch.random.fork_rng(devices=self._gpus), widened:
                for name, p in inner.named_parameters():
                    p.grad = None
                    p.data = self._params[name].clone()
                for name, buffer in inner.named_buffers():
                    buffer.data = self._buffers[name].clone()
                model.board = torch_mlp.ProgressBoard(display=False)
                model.trainer = torch_mlp.Trainer(max_epochs=1, arithmetic="native")
                model.trainer.train_batch_idx, model.trainer.num_train_batches = 0, 1
                yield
        finally:
            for p, data, grad in params:
                p.grad = None
                p.data = data
                p.grad = grad
            for module, key, buffer, data in buffers:
                module._buffers[key] = buffer
                buffer.data = data
            for module, training in modes:
                module.training = training
            for key in ("trainer", "board"):
                vars(model).pop(key, None)
            vars(model).update(shown)
            self._optimizer = optimizer

    @contextlib.contextmanager
    def _optimising(self) -> Iterator[None]:
        self._optimizer = self.model.configure_optimizers()
        try:
            yield
        finally:
            self._optimizer = None

    def _backward(self, inputs: Tree, targets: Tree) -> tuple[Arrays, torch.Tensor]:
        """(outputs, loss); the gradients are where the optimiser looks."""
        self.model.train()
        batch = self._data.joined(self._typed(inputs), self._typed(targets))
        seen: list[Any] = []
        tap = self.model.register_forward_hook(lambda model, args, out: seen.append(out))
        try:
            loss = self.model.training_step(batch)
        finally:
            tap.remove()
        self._optimizer.zero_grad()
        self._arrived = {}
        # A hook behind the accumulation may step, and leave no gradient: kept when it arrives.
        hooks = [
            p.register_hook(partial(self._arrived.__setitem__, name))
            for name, p in self._inner.named_parameters()
            if p.requires_grad and getattr(p, "_post_accumulate_grad_hooks", None)
        ]
        try:
            if loss.requires_grad:  # not where all parameters are frozen
                loss.backward()
        finally:
            for hook in hooks:
                hook.remove()
        return _outputs(seen[0]) if seen else {}, loss

    def _gradients(self) -> Arrays:
        own = {n: p for n, p in self._inner.named_parameters()}
        nothing = {n: self._arrived.get(n, torch.zeros_like(p)) for n, p in own.items()}
        grads = {n: nothing[n] if p.grad is None else p.grad for n, p in own.items()}
        return self._named(grads)

    def _now(self, loss: torch.Tensor) -> Taken:
        """What the model and the optimiser hold."""
        params = self._named({n: p for n, p in self._inner.named_parameters()})
        buffers = dict(self._inner.named_buffers())
        state = {shared: numpy(buffers[own]) for own, shared in self._state_names.items()}
        memory = self._memory() if self._optimizer is not None else {}
        return Taken(numpy(loss), params, state, memory)

    def _memory(self) -> Arrays:
        found: Arrays = {}
        for slot, tensors in self._slots().items():
            own = dict(self._inner.named_parameters())
            whole = {n: tensors.get(n, torch.zeros_like(p)) for n, p in own.items()}
            lacking = {n for n, origin in self.origins.items() if not tensors.keys() >= {*origin}}
            there = self._layout.there({name: view(t) for name, t in whole.items()})
            found |= {
                f"{SLOTS.get(slot, slot)}.{self._names[name]}": array
                for name, array in there.items()
                if name not in lacking
            }
        return found

    def _remember(self, memory: Mapping[str, np.ndarray]) -> None:
        for slot, tensors in self._slots().items():
            prefix = f"{SLOTS.get(slot, slot)}."
            now = self._memory()
            given = {n: memory.get(prefix + n, now.get(prefix + n)) for n in self._names.values()}
            like = self.params()
            whole = {n: np.zeros_like(like[n]) if a is None else a for n, a in given.items()}
            new = self._unnamed(whole)
            for name, kept in tensors.items():
                kept.copy_(tensor(np.array(new[name])))

    def _slots(self) -> dict[str, dict[str, torch.Tensor]]:
        """{slot: {parameter: tensor of its shape}}; an optimiser makes them at the first step."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        state = getattr(self._optimizer, "state", {})
        for name, p in self._inner.named_parameters():
            for slot, kept in (state[p] if p in state else {}).items():
                if isinstance(kept, torch.Tensor) and kept.shape == p.shape and slot != "step":
                    found.setdefault(slot, {})[name] = kept
        return found

    @property
    def _gpus(self) -> list[torch.device]:
        return [self.device] * (self.device.type == "cuda")

    @property
    def _torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        """A copy at the side's precision; narrower ones than float32 stay, unless it is float64."""
        value = value.detach().to(self.device)
        bits = torch.finfo(value.dtype).bits if value.is_floating_point() else 0
        if bits and (self.dtype == "float64" or bits > 32):
            return value.to(self._torch_dtype, copy=True)
        return value.clone()

    def _typed(self, tree: Tree) -> Tree:
        return mapped(lambda leaf: tensor(leaf, self._torch_dtype).to(self.device), tree)

    def _named(self, tensors: Mapping[str, torch.Tensor]) -> Arrays:
        there = self._layout.there({name: view(t) for name, t in tensors.items()})  # copies
        return {self._names[name]: array for name, array in there.items()}

    def _unnamed(self, params: Mapping[str, np.ndarray]) -> Arrays:
        own = {name: params[shared] for name, shared in self._names.items() if shared in params}
        if len(own) != len(params):
            raise ValueError(
                f"torch: parameters {sorted(params)}, expected {sorted(self._names.values())}"
            )
        return self._layout.back(own)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _shaped(model: torch.nn.Module, inputs: Tree) -> torch.nn.Module:
    """A copy of a model with lazy layers, which have taken their shapes and drawn their weights."""
    # A trainer holds the data: the copy does without.
    memo: dict[int, Any] = {}
    if (trainer := getattr(model, "trainer", None)) is not None:
        memo[id(trainer)] = None
    made = copy.deepcopy(model, memo)
    modes = {module: module.training for module in made.modules()}
    args, named = arguments(mapped(tensor, inputs))
    with torch.no_grad():
        made.eval()(*args, **named)
    for module, training in modes.items():
        module.training = training
    return made


def _unequal(one: Arrays, other: Arrays) -> bool:
    return not all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)


def _outputs(outputs: Any) -> Arrays:
    found = leaves(outputs if isinstance(outputs, torch.Tensor) else _plain(outputs), "logits")
    for leaf in found.values():
        if not isinstance(leaf, torch.Tensor):
            raise no_outputs("torch", leaf)
    return {name: numpy(leaf) for name, leaf in found.items()}


def _plain(outputs: Any) -> Any:
    """Registered trees, as dataclasses of Transformers are, as dicts."""
    if isinstance(outputs, (dict, tuple, list)):
        return outputs
    paths, _ = torch.utils._pytree.tree_flatten_with_path(outputs)
    return {torch.utils._pytree.keystr(path).strip("."): leaf for path, leaf in paths}
