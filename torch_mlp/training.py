"""Trainer: epochs over a data module, step by step, to the bits of d2l 1.0.3 (d2l 3.2, 3.4)."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_map

from mlp_core import forked
from mlp_core.arithmetic import NotReproducible, checked, in_force
from mlp_core.attributes import Counter, Noted, Untraceable, check_unchanged, noted
from mlp_core.checkpoint import Checkpoints
from mlp_core.history import Epoch, History, about, ends
from mlp_core.limits import check_trainer
from mlp_core.processes import check as check_processes
from mlp_core.resuming import checkpoints, keeping
from mlp_core.shell import HyperParameters, progress_bar
from torch_mlp import graphs
from torch_mlp.reproducible import Arithmetic
from torch_mlp.resident import Resident, put_there
from torch_mlp.resuming import State
from torch_mlp.sharding import Shares, Step, examples, gpu_name, gpus
from torch_mlp.unread import Unread

Tape = dict[tuple[str, bool], torch.Tensor]  # (key, train) -> what was plotted
OF_EVERY_MODULE = {*vars(torch.nn.Module())} - {"training"}


class Graph(NamedTuple):
    """A step compiled: (*parameters, *batch) -> (loss, *what is plotted by keys, *gradients).

    trained: the parameters that the gradients are of. used: which of them the loss depends on.
    """

    call: Callable[..., Any]
    keys: list[tuple[str, bool]]
    trained: list[str]
    used: list[bool]


class Trainer(HyperParameters):
    """Fits a Module to a DataModule.

    >>> import torch_mlp as d2l
    >>> class Rows(d2l.DataModule):
    ...     batch_size = 4
    ...     def get_dataloader(self, train):
    ...         rows = torch.arange(24.0).reshape(6, 4), torch.arange(6) % 3
    ...         return self.get_tensorloader(rows, train)
    >>> history = d2l.Trainer(max_epochs=2).fit(d2l.MLPScratch(4, 3, 2, lr=0.1), Rows())
    >>> len(history.train_loss), [sorted(epoch.val) for epoch in history.epochs]
    (4, [['acc', 'loss'], ['acc', 'loss']])
    """

    tape: Tape | None = None  # what a step plots, while it is traced
    unread: Unread | None = None  # what a GPU computes, while fit doesn't wait for it
    epoch, train_batch_idx, val_batch_idx = Counter(), Counter(), Counter()

    def __init__(
        self,
        max_epochs: int,
        num_gpus: int = 0,
        gradient_clip_val: float | int = 0,
        arithmetic: str | Arithmetic | None = None,
        compile: bool = False,
        processes: int | None = None,
        checkpoint: str | os.PathLike | Checkpoints | None = None,
        at_nan: str = "warn",
    ) -> None:
        """num_gpus: 0, or 1 to train on CUDA; several take a process each, see torch_mlp.processes.
        Data in memory are put on the GPU once a fit, see torch_mlp.resident.
        gradient_clip_val: largest global norm of the gradient; 0 clips nothing.
        arithmetic: "native" or "reproducible"; None leaves it to the model.
        compile: loss and gradient of a step in one graph of torch.compile, which rounds in other
        places than the book's cells and needs a C++ compiler: faster, but not to the same bits. On
        a GPU it is a CUDA graph where a few steps of each show that to be faster.
        processes: how many train together, see torch_mlp.processes; None: all that were launched.
        checkpoint: the folder to save to at the end of each epoch; Checkpoints(folder, every=N),
        also every N steps. at_nan: what a loss that isn't finite does: "warn" warns with its step
        and goes on, "stop" warns and ends the training after that epoch, "ignore" goes on.
        Raises DevicesError for GPUs that are not there, and for several; TypeError, ValueError for
        what is no such number.
        """
        self.save_hyperparameters(ignore=["checkpoint"])
        self.checkpoint = checkpoints(checkpoint)
        checked(arithmetic)
        check_trainer(type(self).__name__, max_epochs, num_gpus, gradient_clip_val, at_nan)
        self.gpus = gpus(num_gpus)

    def prepare_data(self, data: Any) -> None:
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = len(self.val_dataloader) if self.val_dataloader is not None else 0

    def prepare_model(self, model: Any) -> None:
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        if self.gpus:
            model.to(self.gpus[0])
        if frozen := [
            name for name, p in model.named_parameters() if not is_lazy(p) and p.is_inference()
        ]:
            raise ValueError(
                f"{type(model).__name__}: {', '.join(frozen)} were made under "
                "torch.inference_mode, and have no gradients; make the model outside of it"
            )
        kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
        # A model of several types, or of half precision, takes its batches as they are: JAX would
        # promote its weights, and not narrow what it is given.
        self._float = kinds.pop() if kinds in ({torch.float32}, {torch.float64}) else None
        self.model = model

    def prepare_batch(self, batch: Any) -> Any:
        """The batch as the model gets it: on its device, floats in the type of its parameters."""
        moved = [tensor.to(self.gpus[0]) for tensor in batch] if self.gpus else batch
        return tree_map(self._as_parameters, moved)

    def _as_parameters(self, part: Any) -> Any:
        """JAX promotes float16 and narrows float64; Torch's products take one type alone."""
        if self._float is None or not isinstance(part, torch.Tensor):
            return part
        return part.to(self._float) if part.is_floating_point() else part

    def fit(self, model: Any, data: Any, resume: bool | str | os.PathLike = False) -> History:
        """Train `model` on `data` for max_epochs, from the weights that it has.

        Again, it is a new training: optimiser and counters start anew, and so does the shuffle,
        with the same orders where its seed was given. Warns with NotFinite, see at_nan. Gradients
        are on while it lasts, whatever is set globally.
        resume: go on from the newest checkpoint, if there is one, or from the one that is named;
        the bits are those of a run that was never interrupted.
        Ctrl-C stops between two steps; then `trainer.history` holds what was measured until
        then, and the model the weights of its last step. With checkpoints, it saves one, and so
        does SIGTERM.
        Raises CheckpointError for a checkpoint of another run or none that is whole, Forked in a
        process that was forked from one that computed, ValueError for a model that was made under
        inference_mode, NotReproducible for one that computes by other means than the arithmetic
        asked for; with compile, Untraceable for a step that changes attributes of the model;
        ProcessesError where processes that were launched together are not connected, or one has
        gone.
        """
        forked.refuse(type(self).__name__)
        self.shares = self.make_shares(model)
        self.prepare_data(data)
        self.prepare_model(model)
        self.shares.prepare(model, self.compile)
        self.optim = model.configure_optimizers()
        if in_force(model, self) != "native" and (why := model.not_reproducible(self.optim)):
            raise NotReproducible(model, why)
        self._graphs: dict[Any, Graph] = {}  # by the kind of batch, and what trains
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        device = gpu_name(self.gpus[0]) if self.gpus else "cpu"
        self.history = History(about=about("torch", model, data, self, device, ["torch"]))
        steps = self.max_epochs * self.num_train_batches
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            progress_bar(steps, "step", "torch") as self.bar,
            keeping(self, State(self), resume) as self.keeper,
        ):
            try:
                self._resident = self._put_on_the_gpu() if self.gpus else []
                self.unread = Unread() if self.gpus else None
                for epoch in range(self.keeper.epoch, self.max_epochs):
                    self.epoch = epoch
                    self.keeper.epoch_begins()
                    self.fit_epoch()
                    if ends(self.history, self.at_nan):
                        break
                    self.keeper.epoch_done()
            except KeyboardInterrupt:
                self.history.interrupted = True
                raise
            finally:
                self.read_figures()
                self.unread, self._resident = None, []
        return self.history

    def _put_on_the_gpu(self) -> list[Resident]:
        """The loaders whose data lie there while a fit lasts."""
        loaders = {"train data": self.train_dataloader, "val data": self.val_dataloader}
        own = type(self).prepare_batch is not Trainer.prepare_batch
        why_not = "prepare_batch is overridden, and gets the host's batches" if own else ""
        found, said = put_there(loaders, self.gpus[0], why_not)
        self.history.about |= said
        return found

    def _batches(self, loader: Any) -> Iterator[tuple[Any, int]]:
        there = [resident for resident in self._resident if resident.loader is loader]
        return self.shares.batches(there[0] if there else loader)

    def later(self, value: torch.Tensor | float | int, take: Callable[[float], Any]) -> None:
        """Hand the value to `take` as a number: now, or, for what a GPU computes, before the epoch
        ends; in the order of the calls."""
        if self.unread is None:
            take(float(torch.as_tensor(value).detach()))
        else:
            self.unread.put(value, take)

    def read_figures(self) -> None:
        """Wait for all figures that were given to `later`."""
        if self.unread is not None:
            self.unread.read()

    def make_shares(self, model: Any) -> Shares:
        """How batches are cut over processes. Raises ProcessesError for copies not connected."""
        shares = Shares(native=in_force(model, self) == "native")
        check_processes(self.processes, shares.count)
        return shares

    def fit_epoch(self) -> None:
        """All training batches, then all validation batches."""
        self.model.train()
        if not self.keeper.within:
            self.history.epochs.append(Epoch(steps=0, samples=0, seconds=0.0))
        self.epoch_record = self.history.epochs[-1]
        start, before = time.perf_counter() - self.epoch_record.seconds, self._aside()
        for batch, size in self.keeper.rest(self._batches(self.train_dataloader)):
            loss = self._backward(self.prepare_batch(batch))
            with torch.no_grad():
                if self.gradient_clip_val > 0:
                    self.clip_gradients(self.gradient_clip_val, self.model)
                self.optim.step()
            self.train_batch_idx += 1
            self.later(loss, self.history.train_loss.append)
            if self.unread is not None:
                self.unread.read_now_and_then()
            self.epoch_record.steps += 1
            self.epoch_record.samples += size
            self.epoch_record.seconds = time.perf_counter() - start - (self._aside() - before)
            self.bar.update()
            if self.epoch_record.steps < self.num_train_batches:
                self.keeper.step_done()
        if not self.epoch_record.steps:
            raise ValueError(
                f"Trainer: the train loader gave no batches, expected {self.num_train_batches}; "
                "can it be iterated over only once?"
            )
        if self.unread is not None:  # the time of what was given to the GPU, too
            self.read_figures()
            self.epoch_record.seconds = time.perf_counter() - start - (self._aside() - before)
        if not self.num_val_batches:
            return
        self.model.eval()
        self._validation: dict[str, tuple[float, int]] = {}
        for batch, size in self._batches(self.val_dataloader):
            self.later(self.shares.counted(size), self._of_examples)  # of the figures after it
            with torch.no_grad(), self.shares.summing(self.prepare_batch(batch)) as own:
                self.model.validation_step(own)
            self.val_batch_idx += 1
        self.read_figures()
        self._validation = self.shares.joined(self._validation)
        # Set at once, so that an interrupted validation leaves no mean over part of the set.
        self.epoch_record.val = {key: total / n for key, (total, n) in self._validation.items()}
        self.bar.set_postfix(self.epoch_record.val)

    def _aside(self) -> float:
        """Seconds that are no training: those of compiling and of saving."""
        return self.history.compile_seconds + self.keeper.seconds

    def _backward(self, batch: Any) -> torch.Tensor:
        """The loss of a batch; its gradient into each parameter's `grad`."""
        if self.compile:
            return self._compiled_backward(batch)
        return self.shares.backward(self.model, batch, self.optim.zero_grad)

    def _compiled_backward(self, batch: Any) -> torch.Tensor:
        if any(is_lazy(p) for p in self.model.parameters()):
            with torch.no_grad():
                self.model(*batch[:-1])  # lazy layers take their shapes and draw their weights
        params = dict(self.model.named_parameters())
        flat = [*(p.detach() for p in params.values()), *batch]
        frozen = tuple(name for name, p in params.items() if not p.requires_grad)
        kind = frozen, *((part.shape, part.stride(), part.dtype) for part in batch)
        if kind not in self._graphs:
            start = time.perf_counter()
            # A run that goes on from a checkpoint compiles anew, and must draw what this one does.
            with torch.random.fork_rng([gpu.index for gpu in self.gpus]):
                self._graphs[kind] = self._compile(params, batch)
            self.history.compile_seconds += time.perf_counter() - start
        graph, keys, trained, used = self._graphs[kind]
        with torch.no_grad():  # the gradient is part of the graph
            loss, *values = graph(*flat)
        for (key, train), value in zip(keys, values, strict=False):
            self.model.plot(key, value, train)
        self.optim.zero_grad()
        with torch.no_grad():
            for name, gradient, is_used in zip(trained, values[len(keys) :], used, strict=True):
                if is_used:
                    _accumulate(params[name], gradient)
        return loss

    def _compile(self, params: dict[str, torch.Tensor], batch: Any) -> "Graph":
        """training_step and its gradient, traced once as jax.jit would, compiled and warmed up."""
        import torch._inductor  # half a second, and needed only here

        step = Step(self.model)
        names, flat = [*params], [*(p.detach() for p in params.values()), *batch]
        keys: list[tuple[str, bool]] = []
        trained = [name for name, p in params.items() if p.requires_grad]
        before = _not_kept(self.model)

        def loss_of(
            trained: dict[str, torch.Tensor], rest: dict[str, torch.Tensor], batch: Any
        ) -> Any:
            with self._recording() as tape:
                named = {f"model.{name}": p for name, p in (trained | rest).items()}
                loss = torch.func.functional_call(step, named, (batch,))
            keys[:] = tape
            return loss, [*tape.values()]

        def gradient(*flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
            rest, batch = dict(zip(names, flat, strict=False)), flat[len(names) :]
            own = {name: rest.pop(name) for name in trained}
            of = torch.func.grad_and_value(loss_of, has_aux=True)
            grads, (loss, plotted) = of(own, rest, batch)
            return loss, *plotted, *grads.values()

        if hooked := [n or "the model" for n, m in self.model.named_modules() if _is_hooked(m)]:
            raise Untraceable(
                f"Trainer: backward hooks of modules ({', '.join(hooked)}) are not run in a "
                "compiled step; put hooks on parameters, or leave compile=False"
            )
        try:
            traced = make_fx(gradient)(*flat)
        except RuntimeError as error:
            raise RuntimeError(
                f"Trainer: the training_step of {type(self.model).__name__} can't be traced as a "
                "function of parameters and batch; if it changes other tensors, as batch "
                f"normalisation does, leave compile=False: {error}"
            ) from error
        remedy = "leave compile=False"
        what = f"{type(self.model).__name__}.training_step"
        check_unchanged(what, before, _not_kept(self.model), remedy)
        own = {name: p.detach().requires_grad_(name in trained) for name, p in params.items()}
        loss, _ = loss_of(own, {}, batch)
        grads = torch.autograd.grad(loss, [own[name] for name in trained], allow_unused=True)
        # A gradient of zeros isn't the same as none: with none an optimiser leaves a parameter
        # alone, without decay or momentum.
        used = [g is not None for g in grads]
        try:
            # Without Dynamo, whose look for changes costs a twentieth of a step.
            with torch.no_grad():
                graph = torch._inductor.compile(traced, flat)
                graph(*flat)
                if self.gpus:
                    graph, said = graphs.faster(graph, flat[: len(names)], flat[len(names) :])
                    size = f"step of {examples(batch)} examples"
                    self.history.about[size] = said
        except torch._inductor.exc.InductorError as error:
            raise RuntimeError(
                "Trainer: torch.compile failed, which needs a C++ compiler (g++) on the CPU; "
                f"install one or leave compile=False: {error}"
            ) from error
        return Graph(graph, keys, trained, used)

    @contextlib.contextmanager
    def _recording(self) -> Iterator[Tape]:
        """While it lasts, Module.plot puts its values on the tape that this gives."""
        tape: Tape = {}
        self.tape = tape
        try:
            yield tape
        finally:
            self.tape = None

    def record_validation(self, key: str, value: float) -> None:
        """Add one batch's mean to the epoch's example-weighted mean. Called by Module.plot."""
        total, examples = self._validation.get(key, (0.0, 0))
        n = self._batch_examples
        self._validation[key] = (total + n * value, examples + n)

    def _of_examples(self, count: float) -> None:
        self._batch_examples = int(count)

    def clip_gradients(self, grad_clip_val: float | int, model: Any) -> None:
        """Scale all gradients so that their global norm is at most grad_clip_val.

        g <- g * min(1, c / norm(g)). Source: d2l 9.5.
        """
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        for name, g in model.ops.clipped(grads, grad_clip_val).items():
            grads[name].copy_(g)


def _accumulate(p: torch.Tensor, gradient: torch.Tensor) -> None:
    """What `backward` does with the gradient of a parameter: hooks, `grad`, hooks after that."""
    for hook in (p._backward_hooks or {}).values():
        changed = hook(gradient)
        gradient = gradient if changed is None else changed
    p.grad = gradient if p.grad is None else p.grad + gradient
    for hook in (p._post_accumulate_grad_hooks or {}).values():
        hook(p)


def _is_hooked(module: torch.nn.Module) -> bool:
    return bool(module._backward_hooks or module._backward_pre_hooks)


def _not_kept(model: torch.nn.Module) -> Noted:
    """{"net.0.k": value}: what a traced step may not change. Of a tensor, its version too."""
    found = []
    for path, module in model.named_modules():
        own = {name: v for name, v in vars(module).items() if name not in OF_EVERY_MODULE}
        for name, value in (own | module._parameters | module._buffers).items():
            version = value._version if isinstance(value, torch.Tensor) else 0
            found.append((f"{path}.{name}".lstrip("."), (value, version)))
    return noted(found)
