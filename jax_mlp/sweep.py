"""Sweep: many runs at once, those of one program in one compiled call."""

import contextlib
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from jax_mlp import programs
from jax_mlp.data import ArrayLoader
from jax_mlp.device import default_device
from jax_mlp.reproducible import Arithmetic
from jax_mlp.resuming import filled, named
from jax_mlp.sharding import DevicesError
from jax_mlp.step import Carry, split
from jax_mlp.training import Trainer, scan_batches
from mlp_core import forked
from mlp_core.arithmetic import NotReproducible, in_force
from mlp_core.checkpoint import Checkpoint, CheckpointError, Checkpoints, told
from mlp_core.history import Epoch, History, about
from mlp_core.limits import check_trainer
from mlp_core.packing import Arrays
from mlp_core.resuming import FREE, checkpoints, fingerprint
from mlp_core.schedule import Schedule
from mlp_core.shell import HyperParameters, progress_bar
from mlp_core.work import Work, working

Numbers = dict[str, Any]  # hyperparameters of one run, by name


class _Run(NamedTuple):
    model: Any
    schedule: Schedule
    history: History


class Sweep(HyperParameters):
    """Trains many models on the same data; all that compute the same program, at once.

        run i:  w_i <- w_i - lr_i * gradient of L(w_i; next batch of run i),   i = 1 ... runs

    It is one `vmap` over runs of a Trainer's epoch. Every device has runs of its own, so none waits
    for another: the compiled program holds no collective. In reproducible arithmetic a run has the
    bits that Trainer.fit gives it; in native arithmetic it is the same up to rounding.

        >>> import jax_mlp as d2l
        >>> class Rows(d2l.DataModule):
        ...     batch_size = 4
        ...     def get_dataloader(self, train):
        ...         rows = np.float32(np.arange(24).reshape(6, 4)), np.arange(6) % 3
        ...         return self.get_tensorloader(rows, train)
        >>> models = [d2l.MLPScratch(4, 3, 2, lr=lr) for lr in (0.1, 0.2)]
        >>> [len(history.train_loss) for history in d2l.Sweep(max_epochs=1).fit(models, Rows())]
        [2, 2]
    """

    def __init__(
        self,
        max_epochs: int,
        gradient_clip_val: float | int = 0,
        arithmetic: str | Arithmetic | None = None,
        devices: int | None = None,
        mapped: Sequence[str] = ("lr",),
        checkpoint: str | os.PathLike | Checkpoints | None = None,
    ) -> None:
        """devices: how many to spread the runs over; None takes all.

        mapped: hyperparameters that enter the program as numbers of each run, as weights do. Models
        that differ in anything else that the program shows (width, activation) are trained in
        groups, one after the other.

        checkpoint: the folder to save to after each epoch, in it a folder for each group.
        """
        self.save_hyperparameters(ignore=["checkpoint"])
        self.checkpoint = checkpoints(checkpoint)
        check_trainer(type(self).__name__, max_epochs, 0, gradient_clip_val, "ignore")
        found = jax.devices(default_device().platform)
        if devices is not None and not 1 <= devices <= len(found):
            raise DevicesError(f"devices = {devices}, expected 1 to {len(found)}")
        self._devices = found[:devices]

    @programs.kept()
    def fit(
        self,
        models: Sequence[Any],
        data: Any,
        seeds: Sequence[int] | None = None,
        resume: bool = False,
    ) -> list[History]:
        """Train every model for max_epochs; a History each, in the order of the models.

        seeds: of the shuffles of each run; None: all see the data's own order. The seconds in a
        History are the run's share of the time that its group took. resume: go on from the
        checkpoints, if there are any, to the same bits.
        Ctrl-C stops after the epoch that runs; then `sweep.histories` holds what was measured until
        then, and the models the weights of their last whole epoch.
        Raises CheckpointError for checkpoints of another sweep, TypeError for data whose loaders
        are not ArrayLoaders, and what Trainer.fit raises.
        """
        if seeds is not None and len(seeds) != len(models):
            raise ValueError(
                f"Sweep: {len(seeds)} seeds for {len(models)} models, expected as many"
            )
        tracer = _Tracer(self.max_epochs, 0, self.gradient_clip_val, self.arithmetic)
        forked.refuse(type(self).__name__)
        tracer.prepare_data(data)
        own, device = tracer.train_dataloader.schedule, self._devices[0].device_kind
        self.histories = []
        groups: dict[Any, list[_Run]] = {}
        for i, model in enumerate(models):
            key = tracer.program(model, _numbers(model, self.mapped))
            schedule = own if seeds is None else replace(own, seed=int(seeds[i]))
            history = History(about=about("jax", model, data, tracer, device, ["jax", "flax"]))
            history.about["hyperparameters"]["seed"] = schedule.seed
            groups.setdefault(key, []).append(_Run(model, schedule, history))
            self.histories.append(history)
        total = self.max_epochs * len(models) * tracer.num_train_batches
        with progress_bar(total, "step", f"jax, {len(models)} runs") as self.bar:
            try:
                for i, runs in enumerate(groups.values()):
                    with working(self._place(i), _settings(tracer, runs), resume) as work:
                        self._fit_group(tracer, runs, work)
            except KeyboardInterrupt:
                for history in self.histories:
                    history.interrupted = len(history.epochs) < self.max_epochs
                raise
        return self.histories

    def _place(self, group: int) -> Checkpoints | None:
        place = self.checkpoint
        return place and replace(place, folder=place.folder / f"group-{group:03}", every=None)

    def _fit_group(self, tracer: "_Tracer", runs: list[_Run], work: Work) -> None:
        """Train models that compute the same program."""
        devices = self._devices[: len(runs)]
        mesh = jax.sharding.Mesh(np.array(devices), ("runs",))
        by_run, everywhere = (jax.NamedSharding(mesh, p) for p in (jax.P("runs"), jax.P()))
        # Each device gets as many: copies of the first run fill up, and are thrown away.
        all_runs = runs + runs[:1] * (-len(runs) % len(devices))

        def stacked(trees: list) -> Any:
            whole = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
            return jax.device_put(whole, by_run)

        def compiled(epoch: Callable, *args: Any) -> Callable:
            start = time.perf_counter()
            program = jax.jit(tracer.many(epoch, mesh)).lower(*args).compile()
            seconds = (time.perf_counter() - start) / len(runs)
            for run in runs:
                run.history.compile_seconds += seconds
            return program

        def orders(epoch: int) -> Any:
            return stacked([run.schedule.epoch(epoch) for run in all_runs])

        train, validate = tracer.epochs(runs[0].model)
        numbers = stacked([_numbers(run.model, self.mapped) for run in all_runs])
        carry = stacked([tracer.state(run.model) for run in all_runs])
        loader, val_loader = tracer.train_dataloader, tracer.val_dataloader
        arrays = jax.device_put(loader.arrays, everywhere)
        train = compiled(train, numbers, carry, arrays, orders(0))
        if val_loader is not None:
            given = jax.device_put(val_loader.arrays, everywhere)
            val_orders = stacked([val_loader.schedule.epoch(0)] * len(all_runs))
            validate = compiled(validate, numbers, carry, given, val_orders)
        done = work.step
        if done > self.max_epochs:
            raise CheckpointError(
                f"{work.found and work.found.path}: has trained for {done} epochs, and max_epochs "
                f"= {self.max_epochs}: ask for more epochs, or start anew in another folder"
            )
        if work.found is not None:
            carry = _taken_up(work.found, runs, carry)
            self.bar.update(done * len(loader) * len(runs))
        try:
            for epoch in range(done, self.max_epochs):
                start = time.perf_counter()
                outputs = train(numbers, carry, arrays, orders(epoch))
                carry, losses = jax.block_until_ready(outputs)
                seconds = (time.perf_counter() - start) / len(runs)
                losses, figures = np.asarray(losses), {}
                if val_loader is not None:
                    rest, found = validate(numbers, carry, given, val_orders)
                    carry, figures = carry._replace(rest=rest), jax.device_get(found)
                for i, run in enumerate(runs):
                    record = Epoch(len(loader), loader.schedule.num_examples, seconds)
                    record.val = {
                        key: _mean(v[i], val_loader.schedule) for key, v in figures.items()
                    }
                    run.history.train_loss += losses[i].tolist()
                    run.history.epochs.append(record)
                self.bar.update(losses[: len(runs)].size)
                work.save(epoch + 1, partial(_held, runs, carry))
        finally:
            trained = jax.device_put(carry[:2], devices[0])
            for i, run in enumerate(runs):
                nnx.update(run.model, *jax.tree.map(lambda leaf, i=i: leaf[i], trained))


class _Tracer(Trainer):
    """A Trainer whose steps are traced once for many runs: their numbers come as arguments."""

    numbers: Numbers = {}  # while a step is traced

    def prepare_data(self, data: Any) -> None:
        super().prepare_data(data)
        for loader in (self.train_dataloader, self.val_dataloader):
            if not isinstance(loader, ArrayLoader | None):
                kind = type(loader).__name__
                raise TypeError(f"Sweep: the data's loader is a {kind}, expected an ArrayLoader")

    def assemble(self, structure: Any, *state: Any) -> Any:
        model = super().assemble(structure, *state)
        for name, number in self.numbers.items():
            setattr(model, name, number)
        return model

    def state(self, model: Any) -> Carry:
        """(parameters, the rest of the state, the optimiser's state) before the first step."""
        _, params, rest = split(model)
        return Carry(params, rest, model.configure_optimizers().init(params))

    def epochs(self, model: Any) -> tuple[Callable, Callable]:
        """(train, validate): an epoch of one run, functions of (numbers, carry, arrays, order).

        train gives (carry, losses [steps]), validate the rest of the state and the means of each
        figure over each batch.
        """
        self.prepare_model(model)
        model.train()
        training = split(model)[0]
        model.eval()
        evaluating = split(model)[0]

        def scan(step: Callable, carry: Any, arrays: Any, order: Any, loader: ArrayLoader) -> Any:
            size = loader.schedule.batch_size
            return scan_batches(step, carry, arrays, order, size, loader.transform)

        def train(numbers: Numbers, carry: Carry, arrays: Any, order: Any) -> tuple[Carry, Any]:
            with self._given(numbers):
                self.optim = self.assemble(training, *carry[:2]).configure_optimizers()
                step = self._train_step(training)
                carry, (losses, _) = scan(step, carry, arrays, order, self.train_dataloader)
            return carry, losses

        def validate(numbers: Numbers, carry: Carry, arrays: Any, order: Any) -> Any:
            with self._given(numbers):
                step = self._validation_step(evaluating)
                (_, rest), tape = scan(step, carry[:2], arrays, order, self.val_dataloader)
            figures = ((key, values) for (key, train), values in tape.items() if not train)
            return rest, OrderedDict(figures)

        return train, validate

    def many(self, epoch: Callable, mesh: jax.sharding.Mesh) -> Callable:
        """An epoch of many runs, each device's own by vmap."""

        def local(numbers: Numbers, carry: Carry, arrays: Any, order: Any) -> Any:
            def one(given: tuple) -> Any:
                numbers, carry, order = given
                return epoch(numbers, carry, arrays, order)

            # vmap rewrites float64 operations outside the context that allows them.
            native = in_force(self.model, self) == "native"
            return (jax.vmap(one) if native else partial(lax.map, one))((numbers, carry, order))

        runs, whole = jax.P("runs"), jax.P()
        # No collective is inside: there are no varying types to check.
        return jax.shard_map(
            local, mesh=mesh, in_specs=(runs, runs, whole, runs), out_specs=runs, check_vma=False
        )

    def program(self, model: Any, numbers: Numbers) -> Any:
        """What the epochs of a model compute: equal for models that can share a compiled call.

        Raises LabelError and NotReproducible, as Trainer.fit does.
        """
        self.prepare_model(model)
        optim = model.configure_optimizers()
        if in_force(model, self) != "native" and (why := model.not_reproducible(optim)):
            raise NotReproducible(model, why)
        self._compiled: dict[Any, Any] = {}
        carry, texts = self.state(model), []
        loaders = (self.train_dataloader, self.val_dataloader)
        for epoch, loader in zip(self.epochs(model), loaders, strict=True):
            if loader is not None:
                self._check_labels(loader.batch_like(), loader.host_arrays[-1])
                order = jax.ShapeDtypeStruct((loader.schedule.num_examples,), np.int32)
                jaxpr = jax.make_jaxpr(epoch)(numbers, carry, loader.arrays, order)
                consts = (np.asarray(const).tobytes() for const in jaxpr.consts)
                # A custom gradient rule is printed with its address.
                texts += [re.sub(" at 0x[0-9a-f]+", "", str(jaxpr)), *consts]
        return jax.tree.structure((numbers, carry)), *texts

    @contextlib.contextmanager
    def _given(self, numbers: Numbers) -> Iterator[None]:
        self.numbers = numbers
        try:
            yield
        finally:
            self.numbers, self.optim = {}, None  # no tracer outlives its trace


def _numbers(model: Any, names: Sequence[str]) -> Numbers:
    """Hyperparameters of a model that are real numbers, as scalars that promote like Python's."""
    found = {name: getattr(model, name, None) for name in names}
    real = {name: v for name, v in found.items() if isinstance(v, (int, float))}
    return {name: jnp.asarray(float(v)) for name, v in real.items()}


def _settings(tracer: _Tracer, runs: list[_Run]) -> dict[str, Any]:
    """What must be the same when a group goes on."""
    chosen = [run.history.about["hyperparameters"] for run in runs]
    return {
        "models": [type(run.model).__name__ for run in runs],
        "runs": [{k: v for k, v in own.items() if k not in FREE} for own in chosen],
        "training data": fingerprint(tracer.train_dataloader.host_arrays),
    }


def _held(runs: list[_Run], carry: Carry) -> tuple[Arrays, dict[str, Any]]:
    """What a checkpoint keeps of a group after an epoch."""
    arrays = {f"state/{n}": array[: len(runs)] for n, array in named(carry).items()}
    losses = np.array([run.history.train_loss for run in runs], np.float64)
    arrays["losses"] = losses
    arrays["seconds"] = np.array([[e.seconds for e in run.history.epochs] for run in runs])
    last = runs[0].history.epochs[-1]
    for key in last.val:
        arrays[f"val/{key}"] = np.array([run.history.val(key) for run in runs], np.float64)
    return arrays, {"steps": last.steps, "samples": last.samples}


def _taken_up(found: Checkpoint, runs: list[_Run], carry: Carry) -> Carry:
    """The carry of a checkpoint, on the devices of this one's; the histories as they were."""
    arrays, facts = found.arrays, found.facts
    with told(found.path):
        total = len(jax.tree.leaves(carry)[0])
        whole = {}
        for name, array in arrays.items():
            if name.startswith("state/"):
                copies = np.repeat(array[:1], total - len(runs), axis=0)
                whole[name.removeprefix("state/")] = np.concatenate([array, copies])
        carry = filled(carry, whole, "Sweep")
        shape = (len(runs), found.step)
        vals = {n.removeprefix("val/"): a for n, a in arrays.items() if n.startswith("val/")}
        if any(a.shape != shape for a in (arrays["seconds"], *vals.values())):
            raise ValueError("its counts contradict each other")
        for i, run in enumerate(runs):
            run.history.train_loss = arrays["losses"][i].tolist()
            run.history.epochs = [
                Epoch(facts["steps"], facts["samples"], float(arrays["seconds"][i, e]),
                      {key: float(values[i, e]) for key, values in vals.items()})
                for e in range(found.step)
            ]  # fmt: skip
            run.history.about["resumed"] = found.step
    return carry


def _mean(values: np.ndarray, schedule: Schedule) -> float:
    """The example-weighted mean of the means over batches."""
    sizes = [len(rows) for rows in schedule.batches(0)]
    return sum(n * v for n, v in zip(sizes, values.tolist(), strict=True)) / sum(sizes)
