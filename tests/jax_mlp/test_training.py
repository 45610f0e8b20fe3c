import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_trainings import (
    ROUNDING,
    Listed,
    copied,
    largest_difference,
    next_loader,
    small,
    step,
    steps_of,
)

import jax_mlp as d2l
from jax_mlp import scratch
from jax_mlp.sharding import DevicesError
from mlp_core.fashion_mnist import LabelError
from mlp_core.history import NotFinite

gradient = jax.jit(jax.grad(scratch.loss))


def test_history_holds_every_step_and_every_epoch(blobs):
    trainer = d2l.Trainer(max_epochs=3)
    history = trainer.fit(small(lr=0.5), blobs)
    assert history is trainer.history
    assert len(history.train_loss) == 27  # 70 examples in batches of 8: nine steps
    assert [(e.steps, e.samples) for e in history.epochs] == [(9, 70)] * 3
    assert [list(e.val) for e in history.epochs] == [["loss", "acc"]] * 3
    assert history.val("loss")[-1] < history.val("loss")[0]
    assert all(e.seconds > 0 for e in history.epochs) and history.samples_per_second > 0
    assert history.compile_seconds > 0 and not history.interrupted
    assert history.about["side"] == "jax" and history.about["model"] == "MLPScratch"
    assert history.about["hyperparameters"]["max_epochs"] == 3
    assert history.about["hyperparameters"]["num_hiddens"] == 5


def test_validation_is_weighted_by_examples_and_the_board_by_batches(blobs):
    model = small()
    history = d2l.Trainer(max_epochs=1).fit(model, blobs)
    X, y = jnp.asarray(blobs.X[70:]), jnp.asarray(blobs.y[70:])
    losses = model.loss(model(X), y, averaged=False)
    hits = model.accuracy(model(X), y, averaged=False)
    assert history.val("loss")[0] == pytest.approx(float(losses.mean()), rel=1e-6)
    assert history.val("acc")[0] == pytest.approx(float(hits.mean()), rel=1e-6)
    parts = losses[:8], losses[8:16], losses[16:]
    book = float(sum(part.mean() for part in parts)) / 3  # batches of 8, 8 and 4
    assert model.board.data["val_loss"] == [(1, pytest.approx(book, rel=1e-6))]
    assert abs(book - float(losses.mean())) > 1e-3 * book


def test_the_board_has_the_books_points(blobs):
    model = small()
    model.plot_train_per_epoch = 3
    history = d2l.Trainer(max_epochs=2).fit(model, blobs)
    board = model.board
    assert list(board.data) == ["train_loss", "val_loss", "val_acc"]
    assert board.xlabel == "epoch" and board.xlim == [0, 2]
    x = [pytest.approx((3 * i + 1) / 9) for i in range(6)]  # means of three steps in a row
    y = [pytest.approx(sum(history.train_loss[3 * i : 3 * i + 3]) / 3) for i in range(6)]
    assert board.data["train_loss"] == list(zip(x, y, strict=True))
    assert [point.x for point in board.data["val_acc"]] == [1, 2]


def test_plots_of_a_compiled_step_are_the_values_of_an_eager_one(blobs):
    plotted = []

    class Plotting(d2l.MLPScratch):
        def training_step(self, batch):
            logits = self(batch[0])
            self.plot("largest", abs(logits).max(), train=True)
            self.plot("lr", self.lr, train=True)  # a number is the same at each step
            return self.loss(logits, batch[-1])

        def validation_step(self, batch):
            self.plot("size", len(batch[-1]), train=False)

        def plot(self, key, value, train):
            super().plot(key, value, train)
            if not isinstance(value, jax.core.Tracer) and isinstance(value, np.ndarray | np.number):
                plotted.append((key, float(value), self.trainer.train_batch_idx))

    model = Plotting(6, 3, 5, lr=0.25, sigma=1)
    params, loader = model.params, next_loader(blobs)
    history = d2l.Trainer(max_epochs=1).fit(model, blobs)
    largest = []
    for X, y in loader:
        largest.append(float(abs(scratch.forward(params, X)).max()))
        params, _ = step(params, (X, y), lr=0.25)
    train = [p for p in plotted if p[0] != "size"]
    assert [p[1] for p in train if p[0] == "largest"] == pytest.approx(largest, rel=ROUNDING)
    assert [(p[1], p[2]) for p in train if p[0] == "lr"] == [(0.25, i) for i in range(9)]
    assert history.epochs[0].val == {"size": (8 * 8 + 8 * 8 + 4 * 4) / 20}


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_gradients_are_scaled_to_the_global_norm(reference, blobs, clip):
    class OneStep(type(blobs)):
        def train_dataloader(self):
            return [(self.X[:8], self.y[:8])]

    model = small()
    before = copied(model.params)
    _, grads = reference.loss_and_gradients(before, blobs.X[:8], blobs.y[:8])
    norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
    factor = min(1, clip / norm)
    assert (factor < 1) == (clip < 1)
    d2l.Trainer(max_epochs=1, gradient_clip_val=clip).fit(model, OneStep())
    exact = {name: before[name] - 0.1 * factor * g for name, g in grads.items()}
    assert largest_difference(model.params, exact) < 1e-6
    unclipped = {name: before[name] - 0.1 * g for name, g in grads.items()}
    assert (largest_difference(unclipped, exact) > 1e-4) == (clip < 1)


MODEL_HOOKS = {
    "forward": lambda self, X: X @ self.W1[:, :3] * 0,
    "loss": lambda self, Y_hat, Y, averaged=True: (Y_hat * 0).sum() + 7,
    "training_step": lambda self, batch: (self(batch[0]) * 0).sum() + 7,
}


@pytest.mark.parametrize("hook", MODEL_HOOKS)
def test_overriding_a_hook_of_the_model_changes_the_losses(blobs, hook):
    model = type("Own", (d2l.MLPScratch,), {hook: MODEL_HOOKS[hook]})(6, 3, 5, lr=0.1)
    history = d2l.Trainer(max_epochs=1).fit(model, blobs)
    expected = math.log(3) if hook == "forward" else 7
    assert history.train_loss == [pytest.approx(expected)] * 9


def adam(self):
    return optax.adam(0.01)


def momentum(self):
    return optax.sgd(0.1, momentum=0.9)


def decaying(self):
    return optax.inject_hyperparams(optax.sgd)(optax.exponential_decay(0.1, 5, 0.9))


@pytest.mark.parametrize("configure", [adam, momentum, decaying])
def test_optax_transformations_are_used(blobs, configure):
    model = type("Own", (d2l.MLPScratch,), {"configure_optimizers": configure})(6, 3, 5, lr=0.1)
    params, loader = model.params, next_loader(blobs)
    d2l.Trainer(max_epochs=2).fit(model, blobs)
    optim = configure(model)
    state = optim.init(params)
    plain = params
    for X, y in [*loader, *loader]:
        updates, state = optim.update(gradient(params, X, y), state, params)
        params = optax.apply_updates(params, updates)
        plain, _ = step(plain, (X, y), lr=0.1)
    # Adam divides by the gradient's size, so it enlarges rounding where that is small.
    assert largest_difference(model.params, params) < 1e-4
    assert largest_difference(model.params, plain) > 1e-3


def test_overriding_the_trainers_hooks_takes_effect(blobs):
    calls = []

    class Own(d2l.Trainer):
        def prepare_data(self, data):
            calls.append("data")
            super().prepare_data(data)

        def prepare_model(self, model):
            calls.append("model")
            super().prepare_model(model)

        def prepare_batch(self, batch):
            return jnp.zeros_like(batch[0]), batch[1]

        def fit_epoch(self):
            calls.append(self.epoch)
            super().fit_epoch()

        def clip_gradients(self, grad_clip_val, grads):
            return jax.tree.map(lambda g: jnp.where(g == 0, 0, grad_clip_val), grads)

    model = small()
    W1, b2 = np.array(model.W1), np.array(model.b2)
    Own(max_epochs=2, gradient_clip_val=0.5).fit(model, blobs)
    assert calls == ["data", "model", 0, 1]
    assert np.array_equal(model.W1, W1)  # blank inputs give these weights no gradient
    assert np.allclose(model.b2, b2 - 0.1 * 0.5 * 18)


def test_overriding_the_loaders_takes_effect(blobs):
    class Own(type(blobs)):
        def train_dataloader(self):
            return self.get_tensorloader([self.X, self.y], True, slice(0, 24))

        def val_dataloader(self):
            return None

    history = d2l.Trainer(max_epochs=2).fit(small(), Own())
    assert len(history.train_loss) == 6
    assert [e.val for e in history.epochs] == [{}, {}]


@pytest.mark.parametrize("bad", [-100, -1, 3, 10])
@pytest.mark.parametrize("place", [5, 75], ids=["train", "val"])
def test_labels_out_of_range_are_refused_before_training(blobs, bad, place):
    blobs.y[place] = bad
    model = small()
    before = copied(model.params)
    with pytest.raises(LabelError, match=rf"MLPScratch: expected integers in \[0, 3\), got {bad} "):
        d2l.Trainer(max_epochs=1).fit(model, blobs)
    assert largest_difference(model.params, before) == 0


@pytest.mark.parametrize("place", [0, 75], ids=["train", "val"])
def test_labels_in_a_list_of_batches_are_refused_as_well(blobs, place):
    blobs.y[place] = 3
    with pytest.raises(LabelError, match=r"expected integers in \[0, 3\), got 3 "):
        d2l.Trainer(max_epochs=1).fit(small(), Listed(blobs))


def test_a_model_with_fewer_outputs_than_labels_is_refused(blobs):
    with pytest.raises(LabelError, match=r"MLP: expected integers in \[0, 2\), got 2 at index"):
        d2l.Trainer(1).fit(d2l.MLP(num_outputs=2, num_hiddens=4, lr=0.1, num_inputs=6), blobs)


def test_more_than_ten_classes_are_fine(blobs):
    blobs.y[:] = np.arange(90) % 20
    history = d2l.Trainer(max_epochs=1).fit(small(num_outputs=20), blobs)
    assert np.isfinite(history.train_loss).all()


class Regularised(d2l.Classifier):
    def __init__(self, lr, seed=0):
        super().__init__()
        self.save_hyperparameters()
        rngs = nnx.Rngs(seed)
        self.net = nnx.Sequential(
            nnx.Linear(6, 8, rngs=rngs),
            nnx.BatchNorm(8, momentum=0.5, rngs=rngs),
            nnx.relu,
            nnx.Dropout(0.5, rngs=rngs),
            nnx.Linear(8, 3, rngs=rngs),
        )


def test_dropout_and_batch_norm_work_in_training_and_rest_in_validation(blobs):
    model = Regularised(lr=0.0)
    means = [np.array(model.net.layers[1].mean[...])]

    class Watching(d2l.Trainer):
        def fit_epoch(self):
            super().fit_epoch()
            means.append(np.array(model.net.layers[1].mean[...]))

    history = Watching(max_epochs=2).fit(model, blobs)
    # Nothing learns at rate 0, but the running means do, and masks change from epoch to epoch.
    assert not np.array_equal(means[0], means[1]) and not np.array_equal(means[1], means[2])
    assert model.net.layers[3].rngs.count[...] >= 18
    assert history.train_loss[0] != history.train_loss[9]
    # Linear layers are unbiased: the running means end up near the means of what goes in.
    inner = model.net.layers[0](jnp.asarray(blobs.X[:70]))
    assert np.abs(means[2] - inner.mean(0)).max() < 0.5 * np.abs(means[0] - inner.mean(0)).max()
    model.eval()
    X, y = jnp.asarray(blobs.X[70:]), jnp.asarray(blobs.y[70:])
    assert history.val("loss")[1] == pytest.approx(float(model.loss(model(X), y)), rel=1e-5)
    assert not any(map(jnp.array_equal, model(X), (model.train(), model(X))[1]))


def test_a_run_with_dropout_is_fixed_by_its_seeds(blobs):
    losses = []
    for _ in range(2):
        d2l.manual_seed(0)
        losses.append(d2l.Trainer(max_epochs=1).fit(Regularised(0.1, seed=1), blobs).train_loss)
    assert losses[0] == losses[1]


def test_the_same_seed_gives_the_same_history():
    runs = []
    for seed in (4, 4, 5):
        d2l.manual_seed(seed)
        data = d2l.FashionMNIST(batch_size=1000, data="sample")
        model = d2l.MLP(10, 8, lr=0.1)
        history = d2l.Trainer(max_epochs=2).fit(model, data)
        runs.append((history.train_loss, history.val("loss"), history.val("acc")))
    assert runs[0] == runs[1] and runs[0] != runs[2]


def test_a_trainer_fits_one_model_after_the_other(blobs):
    trainer = d2l.Trainer(max_epochs=1)
    first = trainer.fit(small(), blobs)
    second = trainer.fit(d2l.MLP(3, [7, 5], lr=0.1, num_inputs=6), blobs)
    assert (first.about["model"], second.about["model"]) == ("MLPScratch", "MLP")
    assert len(first.train_loss) == len(second.train_loss) == 9


def test_a_nan_in_the_data_shows_in_the_losses_and_is_saved(blobs, tmp_path):
    blobs.X[3] = math.nan
    with pytest.warns(NotFinite, match="step [1-9] on .epoch 1., the training goes on"):
        history = d2l.Trainer(max_epochs=2).fit(small(), blobs)
    assert math.isnan(history.train_loss[-1]) and math.isnan(history.val("loss")[-1])
    loaded = d2l.History.load(history.save(tmp_path / "history.json"))
    assert math.isnan(loaded.train_loss[-1]) and len(loaded.train_loss) == 18


@pytest.mark.parametrize("hook", ["training_step", "validation_step", "plot"])
def test_ctrl_c_keeps_history_and_weights(blobs, hook, tmp_path):
    class Interrupted(d2l.MLPScratch):
        """Training and validation are traced in the first epoch alone; plots happen in each."""

        def training_step(self, batch):
            self.stop("training_step", 0)
            return super().training_step(batch)

        def validation_step(self, batch):
            self.stop("validation_step", 0)
            super().validation_step(batch)

        def plot(self, key, value, train):
            if not isinstance(value, jax.core.Tracer) and train:
                self.stop("plot", 12)
            super().plot(key, value, train)

        def stop(self, where, count):
            calls.append(where)
            if where == hook and calls.count(where) > count:
                raise KeyboardInterrupt

    calls, trainer = [], d2l.Trainer(max_epochs=5)
    model = Interrupted(6, 3, 5, lr=0.1, sigma=1)
    loader = next_loader(blobs)
    epochs = {"training_step": 0, "validation_step": 1, "plot": 2}[hook]
    losses, params = steps_of(model, loader, epochs)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(model, blobs)
    history = trainer.history
    assert history.interrupted and trainer.tape is None
    assert [e.steps for e in history.epochs] == [9] * epochs
    assert history.train_loss == pytest.approx(losses, rel=ROUNDING)
    assert largest_difference(model.params, params) < ROUNDING
    assert len(history.val("loss")) == (1 if hook == "plot" else 0)
    for ending in ("json", "csv"):
        history.save(tmp_path / f"history.{ending}")
    assert json.loads((tmp_path / "history.json").read_text())["interrupted"]


def test_num_gpus_where_there_is_none_is_refused_and_says_what_to_do():
    if jax.default_backend() != "cpu":
        pytest.skip("there is an accelerator")
    with pytest.raises(DevicesError, match="num_gpus = 1, but JAX finds none here; num_gpus=0"):
        d2l.Trainer(max_epochs=1, num_gpus=1)


@pytest.mark.accelerator("jax")
def test_the_accelerator_is_used_where_there_is_one(blobs):
    model = small()
    d2l.Trainer(max_epochs=1).fit(model, blobs)
    assert {device.platform for device in model.W1.devices()} <= {"gpu", "cuda", "tpu"}


@pytest.mark.full_data
def test_the_real_images_give_235_steps_an_epoch(full_data):
    d2l.manual_seed(0)
    data = d2l.FashionMNIST(batch_size=256, data=full_data)
    history = d2l.Trainer(max_epochs=1).fit(d2l.MLPScratch(784, 10, 256, lr=0.1), data)
    assert len(history.train_loss) == 235 and history.epochs[0].samples == 60_000
    assert history.val("acc")[0] > 0.6  # d2l reaches about 0.7 after its first epoch
