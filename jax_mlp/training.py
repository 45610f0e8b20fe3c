"""Trainer: whole epochs as one compiled call each (d2l 3.2, 3.4)."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jax_mlp import programs
from jax_mlp.classifier import Classifier
from jax_mlp.data import ArrayLoader
from jax_mlp.device import default_device
from jax_mlp.reproducible import Arithmetic
from jax_mlp.step import Carry, State, Tape, pure_step, recording, split, watched
from mlp_core.arithmetic import NotReproducible, checked, in_force
from mlp_core.attributes import Counter
from mlp_core.fashion_mnist import check_labels
from mlp_core.history import Epoch, History, about
from mlp_core.shell import HyperParameters, progress_bar


class Trainer(HyperParameters):
    """Fits a Module to a DataModule.

    >>> import jax_mlp as d2l
    >>> class Rows(d2l.DataModule):
    ...     batch_size = 4
    ...     def get_dataloader(self, train):
    ...         rows = np.float32(np.arange(24).reshape(6, 4)), np.arange(6) % 3
    ...         return self.get_tensorloader(rows, train)
    >>> history = d2l.Trainer(max_epochs=2).fit(d2l.MLPScratch(4, 3, 2, lr=0.1), Rows())
    >>> len(history.train_loss), [sorted(epoch.val) for epoch in history.epochs]
    (4, [['acc', 'loss'], ['acc', 'loss']])
    """

    tape: Tape | None = None  # what a step plots, while it is traced
    epoch, train_batch_idx, val_batch_idx = Counter(), Counter(), Counter()

    def __init__(
        self,
        max_epochs: int,
        num_gpus: int = 0,
        gradient_clip_val: float | int = 0,
        arithmetic: str | Arithmetic | None = None,
    ) -> None:
        """num_gpus: accepted for the book's sake; JAX runs on its default device, which is the
        accelerator where there is one. gradient_clip_val: largest global norm of the gradient; 0
        clips nothing. arithmetic: "native" or "reproducible"; None leaves it to the model.
        """
        self.save_hyperparameters()
        checked(arithmetic)

    def prepare_data(self, data: Any) -> None:
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = len(self.val_dataloader) if self.val_dataloader is not None else 0

    def prepare_model(self, model: Any) -> None:
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        self.model = model

    def prepare_batch(self, batch: Any) -> Any:
        """The batch as the model gets it. Traced, like the step that follows it."""
        return batch

    def assemble(self, structure: Any, *state: Any) -> Any:
        """The model that a step computes with, a copy. Traced, like the step that follows it."""
        return nnx.merge(structure, *state, copy=True)

    @programs.kept()
    def fit(self, model: Any, data: Any) -> History:
        """Train `model` on `data` for max_epochs.

        Ctrl-C stops after the epoch that runs; then `trainer.history` holds what was measured
        until then, and the model the weights of its last whole epoch.
        Raises LabelError for a label that the model has no output for, NotReproducible for a model
        that computes by other means than the arithmetic asked for, Untraceable for steps that
        change plain attributes of the model.
        """
        self.prepare_data(data)
        self.prepare_model(model)
        self.optim = model.configure_optimizers()
        if in_force(model, self) != "native" and (why := model.not_reproducible(self.optim)):
            raise NotReproducible(model, why)
        self.opt_state = self.optim.init(split(model)[1])
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        device = default_device().device_kind
        self.history = History(about=about("jax", model, data, self, device, ["jax", "flax"]))
        self._compiled: dict[Any, Any] = {}
        for loader in (self.train_dataloader, self.val_dataloader):
            if isinstance(loader, ArrayLoader):
                self._check_labels(loader.batch_like(), loader.host_arrays[-1])
        with progress_bar(self.max_epochs * self.num_train_batches, "step", "jax") as self.bar:
            try:
                for epoch in range(self.max_epochs):
                    self.epoch = epoch
                    self.fit_epoch()
            except KeyboardInterrupt:
                self.history.interrupted = True
                raise
            finally:
                del self._compiled  # holds the structure of this model: not for the next
        return self.history

    def fit_epoch(self) -> None:
        """All training batches, then all validation batches."""
        self.model.train()
        structure, params, rest = split(self.model)
        carry = Carry(params, rest, self.opt_state)
        carry, (losses, tape), sizes, seconds = self._run(
            "train", self._train_step(structure), carry, self.train_dataloader
        )
        params, rest, self.opt_state = carry
        nnx.update(self.model, params, rest)
        self.history.train_loss += losses.tolist()
        record = Epoch(steps=len(losses), samples=sum(sizes), seconds=seconds)
        self.history.epochs.append(record)
        for i in range(len(losses)):
            self._replay(tape, i)
            self.train_batch_idx += 1
        self.bar.update(len(losses))
        if not self.num_val_batches:
            return
        self.model.eval()
        structure, *state = split(self.model)
        state, tape, sizes, _ = self._run(
            "val", self._validation_step(structure), tuple(state), self.val_dataloader
        )
        nnx.update(self.model, *state)
        self._validation: dict[str, tuple[float, int]] = {}
        for i, self._batch_examples in enumerate(sizes):
            self._replay(tape, i)
            self.val_batch_idx += 1
        record.val = {key: total / n for key, (total, n) in self._validation.items()}
        self.bar.set_postfix(record.val)

    def record_validation(self, key: str, value: float) -> None:
        """Add one batch's mean to the epoch's example-weighted mean. Called by Module.plot."""
        total, examples = self._validation.get(key, (0.0, 0))
        n = self._batch_examples
        self._validation[key] = (total + n * value, examples + n)

    def clip_gradients(self, grad_clip_val: float | int, grads: Any) -> Any:
        """The gradients, scaled so that their global norm is at most grad_clip_val.

        g <- g * min(1, c / norm(g)). Source: d2l 9.5.
        """
        return self.model.ops.clipped(grads, grad_clip_val)

    def _train_step(self, structure: Any) -> Callable[[Carry, Any], tuple[Carry, Any]]:
        def clip(grads: State) -> State:
            limit = self.gradient_clip_val
            return self.clip_gradients(limit, grads) if limit > 0 else grads

        whole = pure_step(partial(self.assemble, structure), self.optim, clip)

        def step(carry: Carry, batch: Any) -> tuple[Carry, Any]:
            carry, taken = whole(carry, self.prepare_batch(batch))
            return carry, (taken.loss, taken.tape)

        return step

    def _validation_step(self, structure: Any) -> Callable[[State, Any], tuple[State, Tape]]:
        def step(state: State, batch: Any) -> tuple[State, Tape]:
            model = self.assemble(structure, *state)
            with watched(model, "validation_step"), recording(self) as tape:
                model.validation_step(self.prepare_batch(batch))
            return (state[0], split(model)[2]), tape

        return step

    def _run(
        self, name: str, step: Callable, carry: Any, loader: Any
    ) -> tuple[Any, Any, list[int], float]:
        """One epoch of `step` over a loader: (carry, outputs [steps], batch sizes, seconds)."""
        start, before = time.perf_counter(), self.history.compile_seconds
        if isinstance(loader, ArrayLoader):
            order = loader.next_order()
            size = loader.schedule.batch_size
            sizes = [len(order[i : i + size]) for i in range(0, len(order), size)]

            def epoch(carry: Any, arrays: Any, order: Any) -> tuple[Any, Any]:
                return scan_batches(step, carry, arrays, order, size, loader.transform)

            compiled = self._compile(name, epoch, (carry, loader.arrays, order))
            carry, outputs = compiled(carry, loader.arrays, order)
        else:
            sizes, collected = [], []
            for batch in loader:
                batch = jax.tree.map(np.asarray, tuple(batch))
                self._check_labels(batch, batch[-1])
                sizes.append(len(jax.tree.leaves(batch[-1])[0]))  # targets may be a tree
                kind = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(batch))
                compiled = self._compile((name, kind), step, (carry, batch))
                carry, output = compiled(carry, batch)
                collected.append(output)
            if not sizes:
                raise ValueError(
                    f"Trainer: the {name} loader gave no batches, expected {len(loader)}; "
                    "can it be iterated over only once?"
                )
            outputs = jax.tree.map(lambda *values: np.stack(values), *collected)
        carry, outputs = jax.block_until_ready((carry, jax.device_get(outputs)))
        compiling = self.history.compile_seconds - before
        return carry, outputs, sizes, time.perf_counter() - start - compiling

    def _compile(self, key: Any, function: Callable, args: tuple) -> Callable:
        """`function` compiled for these arguments, once a fit; the time is recorded apart."""
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = self.compile(function, *args)
            self.history.compile_seconds += time.perf_counter() - start
        return self._compiled[key]

    def compile(self, function: Callable, *args: Any) -> Callable:
        """`function` as a program for such arguments."""
        return jax.jit(function).lower(*args).compile()

    def _check_labels(self, batch: Any, labels: Any) -> None:
        """XLA can't raise: labels are checked here, where data enters.

        They must name outputs of the model, which `batch`, or one like it, shows.
        """
        if not isinstance(self.model, Classifier) or not np.issubdtype(labels.dtype, np.integer):
            return
        if "outputs" not in self._compiled:
            structure, *state = split(self.model)

            def logits(state: Any, batch: Any) -> Any:
                model = nnx.merge(structure, *state, copy=True)
                return model(*self.prepare_batch(batch)[:-1])

            self._compiled["outputs"] = jax.eval_shape(logits, state, batch).shape[-1]
        check_labels(labels, self._compiled["outputs"], where=type(self.model).__name__)

    def _replay(self, tape: Tape, i: int) -> None:
        for (key, train), values in tape.items():
            self.model.plot(key, values[i], train)


def scan_batches(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    arrays: tuple,
    order: Any,
    batch_size: int,
    transform: Callable,
) -> tuple[Any, Any]:
    """`step` over the batches of an epoch: a scan over the full ones, then the partial one.

    arrays: [examples, ...] each. order: [examples] int32, indices into them. Returns the last carry
    and what the steps gave, stacked to [steps, ...].
    """
    whole = len(order) // batch_size * batch_size

    def body(carry: Any, rows: Any) -> tuple[Any, Any]:
        # A Schedule is a permutation: no index needs a check.
        batch = (array.at[rows].get(mode="promise_in_bounds") for array in arrays)
        return step(carry, transform(*batch))

    carry, outputs = lax.scan(body, carry, order[:whole].reshape(-1, batch_size))
    if whole < len(order):
        carry, last = body(carry, order[whole:])
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), outputs, last)
    return carry, outputs
