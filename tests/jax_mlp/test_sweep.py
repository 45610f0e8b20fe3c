"""Many runs at once: each is the single run, whatever runs beside it, on any number of devices."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

import jax_mlp as d2l
from jax_mlp.checkpoint import named_params, set_params
from jax_mlp.sharding import DevicesError
from mlp_core.arithmetic import NotReproducible
from mlp_core.fashion_mnist import LabelError

RUNS = ((0, 0.1), (0, 0.2), (1, 0.05))  # (seed, lr)
YARDSTICK = 1e-12


def build(seed, lr, kind=d2l.MLP, hiddens=(5,), **options):
    d2l.manual_seed(seed)
    model = kind(num_inputs=6, num_outputs=3, num_hiddens=hiddens, lr=lr, **options)
    if jax.config.jax_enable_x64:
        set_params(model, {name: np.float64(a) for name, a in named_params(model).items()})
    return model


def shuffled(blobs, seed):
    """The same data in the order of one seed."""

    class Shuffled(type(blobs)):
        def get_dataloader(self, train):
            loader = super().get_dataloader(train)
            loader.schedule = replace(loader.schedule, seed=seed)
            return loader

    return Shuffled(blobs.batch_size)


def curve(model, history):
    """Everything that a run leaves, in one vector."""
    val = [v for e in history.epochs for v in e.val.values()]
    weights = [np.ravel(a) for _, a in sorted(named_params(model).items())]
    return np.concatenate([history.train_loss, val, *weights])


def alone(blobs, model, seed, epochs=3, **options):
    return curve(model, d2l.Trainer(epochs, **options).fit(model, shuffled(blobs, seed)))


def together(blobs, models, seeds, epochs=3, **options):
    histories = d2l.Sweep(epochs, **options).fit(models, blobs, seeds)
    return [curve(*pair) for pair in zip(models, histories, strict=True)]


def distance(a, b):
    return np.abs(a - b).max()


class Momentum(d2l.MLP):
    def configure_optimizers(self):
        return optax.sgd(self.lr, momentum=0.9)


@pytest.mark.parametrize(
    ("kind", "clip"),
    [(d2l.MLPScratch, 0), pytest.param(d2l.MLP, 0.05, marks=pytest.mark.slow), (Momentum, 0)],
)
def test_each_run_is_the_single_run(blobs, kind, clip):
    """In float64 closer than a single run whose rate is off by one part in 10^12."""
    with jax.enable_x64(True):
        seeds, options = [seed for seed, _ in RUNS], {"gradient_clip_val": clip}
        runs = together(blobs, [build(*run, kind) for run in RUNS], seeds, **options)
        expected = [alone(blobs, build(*run, kind), run[0], **options) for run in RUNS]
        off = alone(blobs, build(0, 0.1 * (1 + YARDSTICK), kind), 0, **options)
        assert distance(off, expected[0]) < 1e3 * YARDSTICK
        for run, single in zip(runs, expected, strict=True):
            assert distance(run, single) < distance(off, expected[0])
        assert distance(runs[0], runs[1]) > 1e-3  # so a rate that got mixed up would show


@pytest.mark.slow
def test_in_reproducible_arithmetic_each_run_has_the_bits_of_the_single_run(blobs):
    runs = together(blobs, [build(*run) for run in RUNS], [0, 0, 1], arithmetic="reproducible")
    for (seed, lr), run in zip(RUNS, runs, strict=True):
        expected = alone(blobs, build(seed, lr), seed, arithmetic="reproducible")
        np.testing.assert_array_equal(run, expected)


def test_without_seeds_all_runs_see_the_order_of_the_data(blobs):
    with jax.enable_x64(True):
        data = shuffled(blobs, 3)
        expected = alone(blobs, build(0, 0.1), 3)
        for run in together(data, [build(0, 0.1), build(0, 0.1)], None):
            assert distance(run, expected) < YARDSTICK


def groups(blobs, models):
    """How many runs were compiled together, group by group, seen by their shares of the time."""
    histories = d2l.Sweep(1).fit(models, blobs)
    return [h.compile_seconds for h in histories]


def test_runs_of_one_program_share_it_and_others_have_their_own(blobs):
    models = [
        build(0, 0.1),
        build(1, 0.2),  # seed and rate are data
        build(0, 0.1, hiddens=(4,)),
        build(0, 0.1, d2l.MLPScratch, sigma=0.1),
        build(0, 0.1, d2l.MLPScratch, sigma=0.2),  # so is the spread of the initial weights
    ]
    seconds = groups(blobs, models)
    assert seconds[0] == seconds[1] and seconds[3] == seconds[4]
    assert len(set(seconds)) == 3


class Smoothed(d2l.MLP):
    """A hyperparameter in the loss, where no structure shows it."""

    smoothing = 0.0

    def loss(self, Y_hat, Y, averaged=True):
        return super().loss(Y_hat, Y, averaged) - self.smoothing * jax.nn.log_softmax(Y_hat).mean()


def smoothed(smoothing):
    model = build(0, 0.1, Smoothed)
    model.smoothing = smoothing
    return model


@pytest.mark.parametrize("mapped", [("lr",), ("lr", "smoothing")])
def test_a_hyperparameter_of_the_loss_is_each_runs_own_mapped_or_not(blobs, mapped):
    with jax.enable_x64(True):
        models = [smoothed(0.0), smoothed(0.1)]
        histories = d2l.Sweep(3, mapped=mapped).fit(models, blobs, [0, 0])
        shared = histories[0].compile_seconds == histories[1].compile_seconds
        assert shared == ("smoothing" in mapped)
        for model, history, smoothing in zip(models, histories, (0.0, 0.1), strict=True):
            expected = alone(blobs, smoothed(smoothing), 0)
            assert distance(curve(model, history), expected) < YARDSTICK


def test_a_run_that_diverges_says_so_and_leaves_the_others_alone(blobs):
    with jax.enable_x64(True):
        models = [build(0, 0.1), build(0, 1e200)]
        calm, wild = together(blobs, models, [0, 0])
        assert not np.isfinite(wild).all()
        assert distance(calm, alone(blobs, build(0, 0.1), 0)) < YARDSTICK


def test_history_says_what_was_run_and_a_runs_share_of_the_time(blobs):
    histories = d2l.Sweep(2).fit([build(*run) for run in RUNS], blobs, [s for s, _ in RUNS])
    for (seed, lr), history in zip(RUNS, histories, strict=True):
        about = history.about["hyperparameters"]
        assert about["lr"] == lr and about["seed"] == seed and about["max_epochs"] == 2
        assert [e.steps for e in history.epochs] == [9, 9] and history.epochs[0].samples == 70
        assert list(history.epochs[0].val) == ["loss", "acc"]
    assert len({h.seconds for h in histories}) == 1


def test_ctrl_c_keeps_whole_epochs_and_their_weights(blobs, monkeypatch):
    class Stopping(d2l.Sweep):
        pass

    sweep, models = Stopping(3), [build(0, 0.1), build(1, 0.1), build(0, 0.1, hiddens=(4,))]

    class Bar:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, steps):
            raise KeyboardInterrupt

    monkeypatch.setattr("jax_mlp.sweep.progress_bar", lambda *args: Bar())
    with pytest.raises(KeyboardInterrupt):
        sweep.fit(models, blobs, [0, 1, 0])
    assert [len(h.epochs) for h in sweep.histories] == [1, 1, 0]
    assert all(h.interrupted for h in sweep.histories)
    expected = alone(blobs, build(0, 0.1), 0, epochs=1)
    np.testing.assert_allclose(curve(models[0], sweep.histories[0]), expected, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_run_is_refused_before_anything_is(blobs):
    with pytest.raises(ValueError, match="2 seeds for 1 models"):
        d2l.Sweep(1).fit([build(0, 0.1)], blobs, [0, 1])
    with pytest.raises(DevicesError, match="devices = 99"):
        d2l.Sweep(1, devices=99)
    with pytest.raises(LabelError):
        d2l.manual_seed(0)
        narrow = d2l.MLP(num_inputs=6, num_outputs=2, num_hiddens=4, lr=0.1)
        d2l.Sweep(1).fit([build(0, 0.1), narrow], blobs)
    with pytest.raises(NotReproducible):
        d2l.Sweep(1, arithmetic="reproducible").fit([build(0, 0.1, Momentum)], blobs)

    class Listed(d2l.DataModule):
        def get_dataloader(self, train):
            return [1, 2]

    with pytest.raises(TypeError, match="list, expected an ArrayLoader"):
        d2l.Sweep(1).fit([build(0, 0.1)], Listed())


ON_DEVICES = """
import json, sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 3)
import jax_mlp as d2l
from jax_mlp.checkpoint import named_params, set_params

texts, compiler = [], jax.stages.Lowered.compile
def watched(self, *args, **kwargs):
    compiled = compiler(self, *args, **kwargs)
    texts.append(compiled.as_text())
    return compiled
jax.stages.Lowered.compile = watched

class Data(d2l.DataModule):
    batch_size = 8
    def get_dataloader(self, train):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((70, 6), np.float32), rng.integers(0, 3, 70).astype(np.int32)
        return self.get_tensorloader([X, y], train)

def losses(devices, arithmetic, runs=5):
    models = []
    for seed in range(runs):
        d2l.manual_seed(seed)
        models.append(d2l.MLP(3, 5, 0.1 + 0.1 * seed, num_inputs=6))
        if jax.config.jax_enable_x64:
            params = {n: np.float64(a) for n, a in named_params(models[-1]).items()}
            set_params(models[-1], params)
    sweep = d2l.Sweep(2, devices=devices, arithmetic=arithmetic)
    histories = sweep.fit(models, Data(), range(runs))
    weights = [a for m in models for a in named_params(m).values()]
    assert {len(a.devices()) for a in weights} == {1}
    return [[*h.train_loss, *h.val("loss")] for h in histories], [a.tolist() for a in weights]

bits = [losses(devices, "reproducible") for devices in (1, 3)]
with jax.enable_x64(True):
    native = [losses(devices, None)[0] for devices in (1, None)]
words = "all-reduce", "all-gather", "all-to-all", "collective", "reduce-scatter", "send", "recv"
found = sorted({word for word in words for text in texts if word in text})
many = sum("num_partitions=3" in text for text in texts)
print(json.dumps([bits[0] == bits[1], native, found, many]))
"""


@pytest.mark.slow
def test_runs_are_spread_over_devices_that_exchange_nothing():
    house = str(Path(d2l.__file__).parents[1])
    command = [sys.executable, "-P", "-c", ON_DEVICES]
    environment = os.environ | {"PYTHONPATH": house}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    same_bits, native, found, many = json.loads(done.stdout)
    assert same_bits and found == [] and many == 4  # train and validate, in both arithmetics
    assert distance(*np.array(native)) < YARDSTICK
