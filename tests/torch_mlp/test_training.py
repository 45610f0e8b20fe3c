import json
import math

import pytest
import torch
from torch import nn

import torch_mlp as d2l
from mlp_core.history import NotFinite
from torch_mlp.sharding import DevicesError


def scratch(**options):
    return d2l.MLPScratch(num_inputs=6, num_outputs=3, num_hiddens=5, **({"lr": 0.1} | options))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def equal(model, others):
    return all(map(torch.equal, weights(model), others))


def test_history_holds_every_step_and_every_epoch(blobs):
    model = scratch(lr=0.5)
    trainer = d2l.Trainer(max_epochs=3)
    history = trainer.fit(model, blobs)
    assert history is trainer.history
    assert len(history.train_loss) == 27  # 70 examples in batches of 8: nine steps
    assert [(e.steps, e.samples) for e in history.epochs] == [(9, 70)] * 3
    assert [list(e.val) for e in history.epochs] == [["loss", "acc"]] * 3
    assert history.val("loss")[-1] < history.val("loss")[0]
    assert all(e.seconds > 0 for e in history.epochs) and history.samples_per_second > 0
    assert history.compile_seconds == 0 and not history.interrupted
    assert history.about["side"] == "torch" and history.about["model"] == "MLPScratch"
    assert history.about["hyperparameters"]["max_epochs"] == 3
    assert history.about["hyperparameters"]["num_hiddens"] == 5


def test_last_partial_batch_is_trained_on(blobs):
    whole = scratch(sigma=1)
    start = weights(whole)
    d2l.Trainer(max_epochs=1).fit(whole, blobs)

    class FullBatchesOnly(type(blobs)):
        def train_dataloader(self):
            return [batch for batch in super().train_dataloader() if len(batch[-1]) == 8]

    d2l.manual_seed(0)
    part = scratch(sigma=1)
    assert equal(part, start)
    history = d2l.Trainer(max_epochs=1).fit(part, FullBatchesOnly())
    assert len(history.train_loss) == 8
    assert not equal(part, weights(whole))


def test_validation_is_weighted_by_examples_and_the_board_by_batches(blobs):
    model = scratch()
    history = d2l.Trainer(max_epochs=1).fit(model, blobs)
    X, y = blobs.X[70:], blobs.y[70:]
    with torch.no_grad():
        losses = model.loss(model(X), y, averaged=False)
        hits = model.accuracy(model(X), y, averaged=False)
    assert history.val("loss")[0] == pytest.approx(losses.mean().item(), rel=1e-6)
    assert history.val("acc")[0] == pytest.approx(hits.mean().item(), rel=1e-6)
    book = sum(part.mean().item() for part in losses.split(8)) / 3  # batches of 8, 8 and 4
    assert model.board.data["val_loss"] == [(1, pytest.approx(book, rel=1e-6))]
    assert abs(book - losses.mean().item()) > 1e-3 * book


def test_the_board_has_the_books_points(blobs):
    model = scratch()
    model.plot_train_per_epoch = 3
    history = d2l.Trainer(max_epochs=2).fit(model, blobs)
    board = model.board
    assert list(board.data) == ["train_loss", "val_loss", "val_acc"]
    assert board.xlabel == "epoch" and board.xlim == [0, 2]
    x = [pytest.approx((3 * i + 1) / 9) for i in range(6)]  # means of three steps in a row
    y = [pytest.approx(sum(history.train_loss[3 * i : 3 * i + 3]) / 3) for i in range(6)]
    assert board.data["train_loss"] == list(zip(x, y, strict=True))
    assert [point.x for point in board.data["val_acc"]] == [1, 2]


def test_a_number_may_be_plotted_as_well_as_a_tensor(blobs):
    class Plotting(d2l.MLPScratch):
        def validation_step(self, batch):
            self.plot("lr", self.lr, train=False)

    history = d2l.Trainer(max_epochs=1).fit(Plotting(6, 3, 4, lr=0.25), blobs)
    assert history.val("lr") == [0.25]


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_gradients_are_scaled_to_the_global_norm(blobs, clip):
    seen = []

    class Watching(d2l.Trainer):
        def clip_gradients(self, grad_clip_val, model):
            before = [p.grad.clone() for p in model.parameters()]
            super().clip_gradients(grad_clip_val, model)
            seen.append((before, [p.grad.clone() for p in model.parameters()]))

    Watching(max_epochs=1, gradient_clip_val=clip).fit(scratch(sigma=1), blobs)
    assert len(seen) == 9
    for before, after in seen:
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in before))
        factor = min(1, clip / norm)
        assert (factor < 1) == (clip < 1)
        for g, clipped in zip(before, after, strict=True):
            assert torch.allclose(clipped, g * factor, rtol=1e-6, atol=0)
            assert factor < 1 or torch.equal(clipped, g)


def test_no_clipping_by_default(blobs):
    class Refusing(d2l.Trainer):
        def clip_gradients(self, grad_clip_val, model):
            raise AssertionError

    Refusing(max_epochs=1).fit(scratch(), blobs)


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


def test_overriding_validation_step_changes_what_is_recorded(blobs):
    class Own(d2l.MLPScratch):
        def validation_step(self, batch):
            assert not self.training and not torch.is_grad_enabled()
            self.plot("size", torch.tensor(float(len(batch[-1]))), train=False)

    history = d2l.Trainer(max_epochs=1).fit(Own(6, 3, 5, lr=0.1), blobs)
    assert history.epochs[0].val == {"size": (8 * 8 + 8 * 8 + 4 * 4) / 20}


def test_overriding_configure_optimizers_is_used(blobs):
    class Adam(d2l.MLPScratch):
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.lr)

    trainer, model = d2l.Trainer(max_epochs=1), Adam(6, 3, 5, lr=0.001, sigma=1)
    start = weights(model)
    trainer.fit(model, blobs)
    assert isinstance(trainer.optim, torch.optim.Adam)
    # Adam moves a weight by about lr a step, whatever the size of its gradient.
    moved = max((a - b).abs().max().item() for a, b in zip(weights(model), start, strict=True))
    assert 0.001 < moved < 9 * 0.0015


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
            return [torch.zeros_like(batch[0]), batch[1]]

        def fit_epoch(self):
            calls.append(self.epoch)
            super().fit_epoch()

    model = scratch(sigma=1)
    W1 = model.W1.detach().clone()
    Own(max_epochs=2).fit(model, blobs)
    assert calls == ["data", "model", 0, 1]
    assert torch.equal(model.W1, W1)  # blank inputs give these weights no gradient


def test_overriding_the_loaders_takes_effect(blobs):
    class Own(type(blobs)):
        def train_dataloader(self):
            return [(self.X[:4], self.y[:4])] * 3

        def val_dataloader(self):
            return None

    history = d2l.Trainer(max_epochs=2).fit(scratch(), Own())
    assert len(history.train_loss) == 6
    assert [e.val for e in history.epochs] == [{}, {}]


def test_a_loader_that_gives_no_batches_is_an_error(blobs, once):
    class Own(type(blobs)):
        def get_dataloader(self, train):
            return once([(self.X[:4], self.y[:4])] * 2)

    with pytest.raises(ValueError, match="no batches, expected 2"):
        d2l.Trainer(max_epochs=2).fit(scratch(), Own())


def test_dropout_works_in_training_and_rests_in_validation(blobs):
    class Dropping(d2l.Classifier):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Dropout(1.0), nn.Linear(6, 3))

    model = Dropping(lr=0.0)
    history = d2l.Trainer(max_epochs=1).fit(model, blobs)
    with torch.no_grad():
        expected = model.loss(model.net[1](blobs.X[70:]), blobs.y[70:]).item()
    assert history.val("loss") == [pytest.approx(expected, rel=1e-6)]
    assert history.train_loss[0] != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("hook", ["training_step", "validation_step"])
def test_ctrl_c_keeps_history_and_weights(blobs, hook, tmp_path):
    class Interrupted(d2l.MLPScratch):
        def training_step(self, batch):
            self.stop("training_step", 12)
            return super().training_step(batch)

        def validation_step(self, batch):
            self.stop("validation_step", 4)
            super().validation_step(batch)

        def stop(self, where, count):
            self.calls = getattr(self, "calls", 0) + (where == hook)
            if where == hook and self.calls > count:
                self.then = weights(self)
                raise KeyboardInterrupt

    model, trainer = Interrupted(6, 3, 5, lr=0.1, sigma=1), d2l.Trainer(max_epochs=5)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(model, blobs)
    history = trainer.history
    steps = [9, 3] if hook == "training_step" else [9, 9]
    assert history.interrupted
    assert [e.steps for e in history.epochs] == steps and len(history.train_loss) == sum(steps)
    assert history.epochs[0].val and not history.epochs[1].val
    for ending in ("json", "csv"):
        history.save(tmp_path / f"history.{ending}")
    assert json.loads((tmp_path / "history.json").read_text())["interrupted"]
    assert equal(model, model.then)


@pytest.mark.parametrize("count", [1, 2])
def test_without_a_gpu_num_gpus_is_refused_and_says_what_to_do(count):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(DevicesError, match=f"num_gpus = {count}, but Torch .* num_gpus=0 trains"):
        d2l.Trainer(max_epochs=1, num_gpus=count)


def test_several_gpus_in_one_process_are_refused_and_not_left_idle(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DevicesError, match="a process each.*num_gpus=1.*--nproc-per-node 2"):
        d2l.Trainer(max_epochs=1, num_gpus=2)


@pytest.mark.accelerator("torch")
def test_num_gpus_trains_on_the_gpu(blobs):
    model = scratch()
    history = d2l.Trainer(max_epochs=2, num_gpus=1, gradient_clip_val=1).fit(model, blobs)
    assert model.W1.device.type == "cuda" and history.about["device"] != "cpu"
    assert len(history.train_loss) == 18


def test_the_same_seed_gives_the_same_history():
    runs = []
    for seed in (4, 4, 5):
        d2l.manual_seed(seed)
        data = d2l.FashionMNIST(batch_size=1000, data="sample")
        runs.append(d2l.Trainer(max_epochs=1).fit(d2l.MLP(10, 8, lr=0.1), data).train_loss)
    assert runs[0] == runs[1] != runs[2]


def test_a_nan_in_the_data_shows_in_the_losses_and_is_saved(blobs, tmp_path):
    blobs.X[3] = math.nan
    with pytest.warns(NotFinite, match="step [1-9] on .epoch 1., the training goes on"):
        history = d2l.Trainer(max_epochs=2).fit(scratch(), blobs)
    assert math.isnan(history.train_loss[-1]) and math.isnan(history.val("loss")[-1])
    loaded = d2l.History.load(history.save(tmp_path / "history.json"))
    assert math.isnan(loaded.train_loss[-1]) and len(loaded.train_loss) == 18


def test_any_hyperparameter_is_saved(blobs, tmp_path):
    class Own(d2l.MLPScratch):
        def __init__(self, extra):
            super().__init__(6, 3, [4, 2], lr=0.1)
            self.save_hyperparameters()

    trainer = d2l.Trainer(max_epochs=1, gradient_clip_val=math.inf)
    history = trainer.fit(Own(torch.zeros(3)), blobs)
    loaded = d2l.History.load(history.save(tmp_path / "history.json"))
    assert loaded.about["hyperparameters"]["gradient_clip_val"] == "inf"
    assert loaded.about["hyperparameters"]["extra"] == "Tensor"


@pytest.mark.full_data
def test_the_real_images_give_235_steps_an_epoch(full_data):
    d2l.manual_seed(0)
    data = d2l.FashionMNIST(batch_size=256, data=full_data)
    history = d2l.Trainer(max_epochs=1).fit(d2l.MLPScratch(784, 10, 256, lr=0.1), data)
    assert len(history.train_loss) == 235 and history.epochs[0].samples == 60_000
    assert history.val("acc")[0] > 0.6  # d2l reaches about 0.7 after its first epoch
