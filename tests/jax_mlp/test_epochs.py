"""A training epoch: which batches, how many programs, how much memory."""

import contextlib

import jax
import numpy as np
import pytest
from small_trainings import (
    ROUNDING,
    Listed,
    largest_difference,
    next_loader,
    small,
    steps_of,
)

import jax_mlp as d2l


@contextlib.contextmanager
def compilations():
    """A list that grows by one with each program that XLA compiles."""
    seen = []

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class Watching(d2l.Trainer):
    """Adds to a list how many programs each epoch compiled."""

    def __init__(self, programs, **options):
        super().__init__(**options)
        self.programs = programs

    def fit_epoch(self):
        with compilations() as seen:
            super().fit_epoch()
        self.programs.append(len(seen))


def test_the_compiled_epoch_is_scratch_step_over_the_batches_of_the_schedule(blobs):
    model = small()
    loader = next_loader(blobs)
    losses, params = steps_of(model, loader, epochs=2)
    frozen, _ = steps_of(model, loader, 2, orders=lambda schedule, epoch: schedule.batches(0))
    whole, without_partial = steps_of(
        model, loader, 2, orders=lambda schedule, epoch: list(schedule.batches(epoch))[:-1]
    )
    history = d2l.Trainer(max_epochs=2).fit(model, blobs)
    assert history.train_loss == pytest.approx(losses, rel=ROUNDING)
    assert largest_difference(model.params, params) < ROUNDING
    # So this test sees batches frozen after the first epoch, and a partial batch left out.
    assert history.train_loss[9:] != pytest.approx(frozen[9:], rel=1000 * ROUNDING)
    assert len(whole) == 16
    assert largest_difference(model.params, without_partial) > 1000 * ROUNDING


def test_fewer_examples_than_a_batch_train_as_one_partial_batch(blobs):
    data = type(blobs)(batch_size=100)
    history = d2l.Trainer(max_epochs=3).fit(small(), data)
    assert [e.steps for e in history.epochs] == [1, 1, 1]
    assert history.train_loss[2] < history.train_loss[0]


def test_batches_that_divide_the_examples_need_no_partial_one(blobs):
    history = d2l.Trainer(max_epochs=2).fit(small(), type(blobs)(batch_size=10))
    assert [e.steps for e in history.epochs] == [7, 7]


def test_nothing_is_traced_or_compiled_after_the_first_epoch(blobs):
    traced = []

    class Counting(d2l.MLP):
        def training_step(self, batch):
            traced.append(len(batch[-1]))
            return super().training_step(batch)

        def validation_step(self, batch):
            traced.append(len(batch[-1]))
            super().validation_step(batch)

    programs = []
    model = Counting(num_inputs=6, num_outputs=3, num_hiddens=5, lr=0.1)
    Watching(programs, max_epochs=4, gradient_clip_val=1).fit(model, blobs)
    assert programs[0] >= 2 and programs[1:] == [0, 0, 0]
    # Each step for the full batches and for the last one; a scan may trace its body twice.
    assert set(traced) == {8, 6, 4} and len(traced) <= 6


def test_any_sized_iterable_of_batches_is_a_loader(blobs):
    d2l.manual_seed(1)
    start = small().params
    results = []
    for data in (blobs, Listed(blobs)):
        d2l.manual_seed(1)
        model = small()
        assert largest_difference(model.params, start) == 0
        if data is not blobs:
            data = Listed(blobs)  # draws the seed of the shuffle after the weights, as fit does
        results.append((d2l.Trainer(max_epochs=1).fit(model, data), model))
    (fast, fast_model), (slow, slow_model) = results
    assert slow.train_loss == pytest.approx(fast.train_loss, rel=ROUNDING)
    assert slow.val("loss") == pytest.approx(fast.val("loss"), rel=ROUNDING)
    assert slow.val("acc") == pytest.approx(fast.val("acc"))
    assert largest_difference(slow_model.params, fast_model.params) < ROUNDING
    assert [(e.steps, e.samples) for e in slow.epochs] == [(9, 70)]


def test_batches_of_a_list_may_differ_in_shape_and_compile_once_each(blobs):
    class Mixed(d2l.DataModule):
        def train_dataloader(self):
            X, y = blobs.X, blobs.y
            return [(X[:4], y[:4]), (X[4:8].reshape(4, 2, 3), y[4:8]), (X[8:9], y[8:9])] * 2

        def val_dataloader(self):
            return None

    programs = []
    history = Watching(programs, max_epochs=2).fit(small(), Mixed())
    assert len(history.train_loss) == 12 and [e.val for e in history.epochs] == [{}, {}]
    assert programs[0] >= 3 and programs[1] == 0


def test_a_loader_that_gives_no_batches_is_an_error(blobs, once):
    class Own(type(blobs)):
        def get_dataloader(self, train):
            return once([(self.X[:4], self.y[:4])] * 2)

    with pytest.raises(ValueError, match="no batches, expected 2"):
        d2l.Trainer(max_epochs=2).fit(small(), Own())


def test_memory_grows_by_the_order_and_the_losses_alone():
    class Keeping(d2l.Trainer):
        def _compile(self, key, function, args):
            program = super()._compile(key, function, args)
            memory.setdefault(key, []).append(program.memory_analysis())
            return program

    class Zeros(d2l.DataModule):
        def __init__(self, examples):
            self.examples, self.batch_size = examples, 8

        def get_dataloader(self, train):
            X, y = np.zeros((self.examples, 6), np.float32), np.zeros(self.examples, np.int32)
            return self.get_tensorloader([X, y], train)

    memory: dict = {}
    for examples in (804, 8004):
        Keeping(1).fit(small(), Zeros(examples))
    more, steps = 7200, 900
    for few, many in memory.values():
        # An index for each example; for each step its loss and what it plots, two figures at most.
        assert many.temp_size_in_bytes - few.temp_size_in_bytes <= 4 * more + 8 * steps
        assert many.output_size_in_bytes - few.output_size_in_bytes <= 12 * steps
