"""Trainer: whole epochs as one compiled call each (d2l 3.2, 3.4)."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jax_mlp import image_bytes, programs
from jax_mlp.classifier import Classifier
from jax_mlp.data import ArrayLoader
from jax_mlp.device import default_device
from jax_mlp.reproducible import Arithmetic
from jax_mlp.resuming import State as Kept
from jax_mlp.sharding import Shares, scan_rows
from jax_mlp.step import Carry, State, Tape, pure_step, recording, split, watched
from mlp_core import forked
from mlp_core.arithmetic import NotReproducible, checked, in_force
from mlp_core.attributes import Counter
from mlp_core.checkpoint import Checkpoints
from mlp_core.fashion_mnist import check_labels
from mlp_core.history import Epoch, History, about, ends
from mlp_core.limits import check_trainer
from mlp_core.processes import check as check_processes
from mlp_core.resuming import checkpoints, keeping
from mlp_core.shell import HyperParameters, progress_bar

NO_JIT = "jax_disable_jit"
KERNELS = ("scan", "fused")
IMAGES = ("floats", "bytes")


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
    target: Any = None  # the device to compile for; None: the default device, which it runs on
    epoch, train_batch_idx, val_batch_idx = Counter(), Counter(), Counter()

    def __init__(
        self,
        max_epochs: int,
        num_gpus: int = 0,
        gradient_clip_val: float | int = 0,
        arithmetic: str | Arithmetic | None = None,
        devices: int | Sequence[int] | None = None,
        processes: int | None = None,
        checkpoint: str | os.PathLike | Checkpoints | None = None,
        at_nan: str = "warn",
        kernel: str = "scan",
        images: str = "floats",
    ) -> None:
        """num_gpus: 0 leaves it to JAX, which takes the accelerator where there is one; more: so
        many accelerators. gradient_clip_val: largest global norm of the gradient; 0
        clips nothing. arithmetic: "native" or "reproducible"; None leaves it to the model.
        devices: how many share out each batch, of any size; None: one, or all that connected
        processes have. (2, 4): the same on eight, with the hidden units cut in four, see Shares.
        processes: how many train together, see jax_mlp.processes; None: all that were launched.
        checkpoint: the folder to save to at the end of each epoch; Checkpoints(folder, every=N),
        also every N steps. at_nan: what a loss that isn't finite does: "warn" warns with its step
        and goes on, "stop" warns and ends the training after that epoch, "ignore" goes on.
        kernel: "scan" over the steps of any model, or "fused", see jax_mlp.fused.
        images: "floats" in [0, 1], or "bytes" that stay bytes, see jax_mlp.images.
        Raises DevicesError for more devices than there are, TypeError, ValueError for what is no
        such number.
        """
        # Checkpoints from before there were these know of none, and go on with the first of them.
        self.save_hyperparameters(
            ["checkpoint", *["kernel"] * (kernel == "scan"), *["images"] * (images == "floats")]
        )
        self.kernel, self.images = kernel, images
        self.checkpoint = checkpoints(checkpoint)
        checked(arithmetic)
        check_trainer(type(self).__name__, max_epochs, num_gpus, gradient_clip_val, at_nan)
        for name, given, known in (("kernel", kernel, KERNELS), ("images", images, IMAGES)):
            if given not in known:
                raise ValueError(
                    f"{type(self).__name__}: {name} = {given!r}, expected one of {known}"
                )
        self.shares = Shares(devices, num_gpus)

    def prepare_data(self, data: Any) -> None:
        self.train_dataloader = data.train_dataloader()
        self.val_dataloader = data.val_dataloader()
        self.num_train_batches = len(self.train_dataloader)
        self.num_val_batches = len(self.val_dataloader) if self.val_dataloader is not None else 0

    def prepare_model(self, model: Any) -> None:
        model.trainer = self
        model.board.xlim = [0, self.max_epochs]
        self.model = model
        if self.shares.units > 1:
            loader = self.train_dataloader
            if isinstance(model, Classifier) and isinstance(loader, ArrayLoader):
                self.shares.outputs = self._outputs(loader.batch_like())
            self.shares.check_cut(split(model)[1])
        nnx.update(model, *self.shares.everywhere(split(model)[1:]))

    def prepare_batch(self, batch: Any) -> Any:
        """The batch as the model gets it. Traced, like the step that follows it."""
        return self.shares.cut(batch)

    def assemble(self, structure: Any, *state: Any) -> Any:
        """The model that a step computes with, a copy. Traced, like the step that follows it."""
        return nnx.merge(structure, *state, copy=True)

    @programs.kept()
    def fit(self, model: Any, data: Any, resume: bool | str | os.PathLike = False) -> History:
        """Train `model` on `data` for max_epochs, from the weights that it has.

        Again, it is a new training: optimiser and counters start anew, and so does the shuffle,
        with the same orders where its seed was given. Warns with NotFinite, see at_nan. Under
        jax_disable_jit nothing is compiled.
        resume: go on from the newest checkpoint, if there is one, or from the one that is named;
        the bits are those of a run that was never interrupted.
        Ctrl-C stops after the epoch that runs; then `trainer.history` holds what was measured
        until then, and the model the weights of its last whole epoch. With checkpoints, it saves
        one, after the steps that are run at once, and so does SIGTERM.
        Raises CheckpointError for a checkpoint of another run or none that is whole, Forked in a
        process that was forked from one that computed, LabelError for a label that the model has
        no output for, NotReproducible for a model that computes by other means than the arithmetic
        asked for, NotBytes and NotFused for what images="bytes" and kernel="fused" don't train,
        Untraceable for steps that change plain attributes of the model, ProcessesError where
        processes that were launched together are not connected.
        """
        forked.refuse(type(self).__name__)
        self.shares = Shares(self.devices, self.num_gpus)
        check_processes(self.processes, self.shares.processes)
        self.prepare_data(data)
        self.prepare_model(model)
        self.optim = model.configure_optimizers()
        if in_force(model, self) != "native" and (why := model.not_reproducible(self.optim)):
            raise NotReproducible(model, why)
        if self.images == "bytes":
            image_bytes.check(self, model)
        self.kernels = self._fused() if self.kernel == "fused" else None
        self.opt_state = self.shares.everywhere(self.optim.init(split(model)[1]))
        self.epoch = self.train_batch_idx = self.val_batch_idx = 0
        device = default_device().device_kind
        self.history = History(about=about("jax", model, data, self, device, ["jax", "flax"]))
        self._compiled: dict[Any, Any] = {}
        for loader in (self.train_dataloader, self.val_dataloader):
            if isinstance(loader, ArrayLoader):
                self._check_labels(loader.batch_like(), loader.host_arrays[-1])
        steps = self.max_epochs * self.num_train_batches
        with (
            progress_bar(steps, "step", "jax") as self.bar,
            keeping(self, Kept(self), resume) as self.keeper,
        ):
            try:
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
                del self._compiled  # holds the structure of this model: not for the next
        return self.history

    def fit_epoch(self) -> None:
        """All training batches, then all validation batches."""
        self.model.train()
        structure, params, rest = split(self.model)
        carry = Carry(params, rest, self.opt_state)
        within = self.keeper.within
        record = self.history.epochs[-1] if within else Epoch(steps=0, samples=0, seconds=0.0)
        pieces = self._pieces("train", self._train_step(structure), carry, self.train_dataloader)
        for carry, (losses, tape), sizes, seconds in pieces:
            params, rest, self.opt_state = carry
            nnx.update(self.model, params, rest)
            self.history.train_loss += losses.tolist()
            if not record.steps:
                self.history.epochs.append(record)
            record.steps += len(losses)
            record.samples += sum(sizes)
            record.seconds += seconds
            for i in range(len(losses)):
                self._replay(tape, i)
                self.train_batch_idx += 1
            self.bar.update(len(losses))
            if record.steps < self.num_train_batches:
                self.keeper.step_done()
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

    def _fused(self) -> Callable[..., tuple[Carry, Any]]:
        from jax_mlp import fused  # here: others needn't wait until Pallas is imported

        fused.check(self, self.model, self.target or default_device())
        return fused.epoch(self.model, self.images == "bytes")

    def _train_step(self, structure: Any) -> Callable[[Carry, Any], tuple[Carry, Any]]:
        def clip(grads: State) -> State:
            limit = self.gradient_clip_val
            return self.clip_gradients(limit, grads) if limit > 0 else grads

        whole = pure_step(partial(self.assemble, structure), self.optim, clip)

        def step(carry: Carry, batch: Any) -> tuple[Carry, Any]:
            carry, taken = whole(carry, self.prepare_batch(batch))
            return self.shares.placed(carry), self.shares.whole((taken.loss, taken.tape))

        return step

    def _validation_step(self, structure: Any) -> Callable[[State, Any], tuple[State, Tape]]:
        def step(state: State, batch: Any) -> tuple[State, Tape]:
            model = self.assemble(structure, *state)
            with watched(model, "validation_step"), recording(self) as tape:
                model.validation_step(self.prepare_batch(batch))
            return self.shares.placed((state[0], split(model)[2])), self.shares.whole(tape)

        return step

    def _run(
        self, name: str, step: Callable, carry: Any, loader: Any
    ) -> tuple[Any, Any, list[int], float]:
        """One epoch of `step` over a loader: (carry, outputs [steps], batch sizes, seconds)."""
        (piece,) = self._pieces(name, step, carry, loader, whole=True)
        return piece

    def _pieces(
        self, name: str, step: Callable, carry: Any, loader: Any, whole: bool = False
    ) -> Iterator[tuple[Any, Any, list[int], float]]:
        """What `_run` gives, for each part of an epoch that ends where a checkpoint is due."""
        in_memory = isinstance(loader, ArrayLoader)
        run = self._in_memory if in_memory else self._one_by_one
        start, before = time.perf_counter(), self.history.compile_seconds
        for after, outputs, sizes in run(name, step, carry, loader, whole):
            after, outputs = jax.block_until_ready((after, jax.device_get(outputs)))
            compiling = self.history.compile_seconds - before
            yield after, outputs, sizes, time.perf_counter() - start - compiling
            start, before = time.perf_counter(), self.history.compile_seconds

    def _in_memory(
        self, name: str, step: Callable, carry: Any, loader: ArrayLoader, whole: bool
    ) -> Iterator[tuple[Any, Any, list[int]]]:
        """Parts of an epoch over arrays, a compiled call each."""
        order = loader.next_order()
        size, transform = loader.schedule.batch_size, image_bytes.transform(loader, self.images)
        # One process's array on a device of its own is no array of a program of several.
        arrays = loader.arrays if self.shares.processes == 1 else loader.host_arrays
        sizes = [len(order[i : i + size]) for i in range(0, len(order), size)]
        first = 0 if whole else self.keeper.within
        if not whole:
            self.keeper.passed()
        free = None if whole else self.keeper.free(0)
        if first == 0 and free is None:
            batches = (
                self.kernels if name == "train" and self.kernels else partial(scan_batches, step)
            )

            def epoch(carry: Any, arrays: Any, order: Any) -> tuple[Any, Any]:
                order = self.shares.whole(order)
                return batches(carry, arrays, order, size, transform)

            def shared_epoch(carry: Any, *stacks: Any) -> tuple[Any, Any]:
                return scan_rows(step, carry, [*stacks], [*dict.fromkeys(sizes)], transform)

            program: Callable[..., Any] = epoch
            given: Sequence[Any] = arrays, order
            if self.shares.processes > 1:
                program, given = shared_epoch, self.shares.own_rows(loader.host_arrays, order, size)
            compiled = self._compile(name, program, (carry, *given))
            yield *compiled(carry, *given), sizes
            return
        full = len(order) // size

        def some(carry: Any, arrays: Any, order: Any, first: Any, last: Any) -> tuple[Any, Any]:
            order = self.shares.whole(order)
            return scan_some(step, carry, arrays, order, size, transform, first, last)

        def last_one(carry: Any, arrays: Any, rows: Any) -> tuple[Any, Any]:
            rows = self.shares.whole(rows)
            return step(carry, transform(*gathered(arrays, rows)))

        while first < len(sizes):
            free = self.keeper.free(self.train_batch_idx)
            last = len(sizes) if free is None else min(len(sizes), first + free)
            outputs: Any = None
            if first < full:
                given = (carry, arrays, order, np.int32(first), np.int32(min(last, full)))
                carry, outputs = self._compile((name, "some"), some, given)(*given)
                end = min(last, full)
                outputs = jax.tree.map(lambda o, a=first, b=end: o[a:b], jax.device_get(outputs))
            if last > full:
                rest = (carry, arrays, order[full * size :])
                carry, one = self._compile((name, "last"), last_one, rest)(*rest)
                one = jax.tree.map(lambda o: np.asarray(o)[None], one)
                outputs = one if outputs is None else jax.tree.map(_joined, outputs, one)
            yield carry, outputs, sizes[first:last]
            first = last

    def _one_by_one(
        self, name: str, step: Callable, carry: Any, loader: Any, whole: bool
    ) -> Iterator[tuple[Any, Any, list[int]]]:
        """Parts of an epoch over any batches, a compiled call for each step."""
        sizes: list[int] = []
        collected: list[Any] = []
        found = False
        for batch in loader if whole else self.keeper.rest(loader):
            batch = jax.tree.map(np.asarray, tuple(batch))
            self._check_labels(batch, batch[-1])
            sizes.append(len(jax.tree.leaves(batch[-1])[0]))  # targets may be a tree
            kind = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(batch))
            compiled = self._compile((name, kind), step, (carry, batch))
            carry, output = compiled(carry, batch)
            collected.append(output)
            found = True
            if not whole and self.keeper.free(self.train_batch_idx) == len(sizes):
                yield carry, jax.tree.map(_stacked, *collected), sizes
                sizes, collected = [], []
        if not found:
            raise ValueError(
                f"Trainer: the {name} loader gave no batches, expected {len(loader)}; "
                "can it be iterated over only once?"
            )
        if sizes:
            yield carry, jax.tree.map(_stacked, *collected), sizes

    def _compile(self, key: Any, function: Callable, args: tuple) -> Callable:
        """`function` compiled for these arguments, once a fit; the time is recorded apart."""
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = self.compile(function, *args)
            self.history.compile_seconds += time.perf_counter() - start
        return self._compiled[key]

    def compile(self, function: Callable, *args: Any) -> Callable:
        """`function` as a program for such arguments."""
        if getattr(jax.config, NO_JIT):  # to debug: JAX has no program then
            return function
        return jax.jit(function).lower(*args).compile(self.compiler_options())

    def compiler_options(self) -> dict[str, Any] | None:
        """What XLA is told beside the program."""
        alone = self.shares.count == 1
        return programs.of_a_loop(self.target or default_device()) if alone else None

    def _check_labels(self, batch: Any, labels: Any) -> None:
        """XLA can't raise: labels are checked here, where data enters.

        They must name outputs of the model, which `batch`, or one like it, shows.
        """
        if not isinstance(self.model, Classifier) or not np.issubdtype(labels.dtype, np.integer):
            return
        if "outputs" not in self._compiled:
            self._compiled["outputs"] = self._outputs(batch)
        check_labels(labels, self._compiled["outputs"], where=type(self.model).__name__)

    def _outputs(self, batch: Any) -> int:
        """How many outputs the model has for each example."""
        structure, *state = split(self.model)

        def logits(state: Any, batch: Any) -> Any:
            model = nnx.merge(structure, *state, copy=True)
            return model(*self.prepare_batch(batch)[:-1])

        return jax.eval_shape(logits, state, batch).shape[-1]

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
        return step(carry, transform(*gathered(arrays, rows)))

    carry, outputs = lax.scan(body, carry, order[:whole].reshape(-1, batch_size))
    if whole < len(order):
        carry, last = body(carry, order[whole:])
        outputs = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), outputs, last)
    return carry, outputs


def scan_some(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    arrays: tuple,
    order: Any,
    batch_size: int,
    transform: Callable,
    first: Any,
    last: Any,
) -> tuple[Any, Any]:
    """`scan_batches` over the full batches from `first` to before `last`, in one program for all.

    The outputs of the others are zeros. A scan of another length would be another program: of a
    single step XLA makes no loop at all, and may fuse, so round, it otherwise.
    """
    full = len(order) // batch_size
    rows = order[: full * batch_size].reshape(-1, batch_size)

    def taken(carry: Any, i: Any) -> tuple[Any, Any]:
        return step(carry, transform(*gathered(arrays, rows[i])))

    _, like = jax.eval_shape(taken, carry, jnp.int32(0))
    empty = jax.tree.map(lambda one: jnp.zeros((full, *one.shape), one.dtype), like)

    def body(i: Any, held: tuple[Any, Any]) -> tuple[Any, Any]:
        carry, given = taken(held[0], i)
        return carry, jax.tree.map(lambda all, one: all.at[i].set(one), held[1], given)

    return lax.fori_loop(first, last, body, (carry, empty))


def gathered(arrays: tuple, rows: Any) -> tuple:
    """Rows of each array. A Schedule is a permutation: no index needs a check."""
    return tuple(array.at[rows].get(mode="promise_in_bounds") for array in arrays)


def _stacked(*values: Any) -> np.ndarray:
    return np.stack(values)


def _joined(*parts: Any) -> np.ndarray:
    return np.concatenate(parts)
