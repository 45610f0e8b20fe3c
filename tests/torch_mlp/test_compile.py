"""Trainer(compile=True): the same steps, in one graph each."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import torch_mlp as d2l
from mlp_core.checkpoint import Checkpoints

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler (g++)"),
    pytest.mark.filterwarnings("ignore"),  # Inductor's own
]


class InFloat64(d2l.Trainer):
    def prepare_batch(self, batch):
        X, y = super().prepare_batch(batch)
        return X.to(torch.float64), y


def losses(model, blobs, **options):
    d2l.manual_seed(1)  # of the shuffles
    history = InFloat64(2, **options).fit(model.to(torch.float64), blobs)
    return history, np.array(history.train_loss)


def scratch(lr=0.5):
    d2l.manual_seed(0)
    return d2l.MLPScratch(6, 3, 5, lr, sigma=1)


def test_a_compiled_training_is_the_eager_one_within_rounding(blobs):
    # The yardstick: in eager mode, a rate that is off by one part in 10^9.
    _, eager = losses(scratch(), blobs)
    _, off = losses(scratch(0.5 * (1 + 1e-9)), blobs)
    history, compiled = losses(scratch(), blobs, compile=True)
    assert len(compiled) == len(eager) == 18
    assert np.abs(compiled - eager).max() < np.abs(off - eager).max()
    assert history.compile_seconds > 0 and all(e.seconds > 0 for e in history.epochs)
    assert [list(e.val) for e in history.epochs] == [["loss", "acc"]] * 2


def test_clipping_and_the_board_work_when_compiled(blobs):
    eager, compiled = scratch(), scratch()
    _, expected = losses(eager, blobs, gradient_clip_val=0.05)
    _, found = losses(compiled, blobs, gradient_clip_val=0.05, compile=True)
    _, free = losses(scratch(), blobs)
    assert np.abs(found - expected).max() < 1e-6 * np.abs(free - expected).max()
    for label, points in eager.board.data.items():
        np.testing.assert_allclose(compiled.board.data[label], points, rtol=1e-12)


def test_lazy_layers_draw_their_weights_in_a_compiled_run(blobs):
    class Flat(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.net = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))

    d2l.manual_seed(0)
    history = d2l.Trainer(1, compile=True).fit(Flat(), blobs)
    d2l.manual_seed(0)
    eager = d2l.Trainer(1).fit(Flat(), blobs)
    assert len(history.train_loss) == 9
    # The same weights were drawn: the first losses differ by rounding, 2^-24 times a few terms.
    assert abs(history.train_loss[0] - eager.train_loss[0]) < 2.0**-20


def test_a_model_that_changes_its_buffers_is_refused_with_the_reason(blobs):
    class Normalised(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.net = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))

    with pytest.raises(RuntimeError, match=r"training_step of Normalised.*leave compile=False"):
        d2l.Trainer(1, compile=True).fit(Normalised(), blobs)


def test_batches_that_lie_otherwise_in_memory_get_a_graph_of_their_own(blobs):
    class Turned(d2l.Trainer):
        def prepare_batch(self, batch):
            X, y = batch
            odd = self.train_batch_idx % 2 and self.model.training
            return (X.T.contiguous().T if odd else X), y

    d2l.manual_seed(1)
    plain = d2l.Trainer(1, compile=True).fit(scratch(), blobs)
    d2l.manual_seed(1)
    turned = Turned(1, compile=True).fit(scratch(), blobs)
    np.testing.assert_allclose(turned.train_loss, plain.train_loss, rtol=2.0**-20)


@pytest.mark.slow
def test_compiling_draws_nothing_so_that_a_run_goes_on_to_the_same_bits(blobs, tmp_path):
    class Dropped(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    d2l.manual_seed(0)
    place = Checkpoints(tmp_path, every=4, keep=99)
    whole = d2l.Trainer(2, compile=True, checkpoint=place).fit(Dropped(), blobs)
    (within,) = tmp_path.glob("*12*")
    d2l.manual_seed(5)
    going_on = d2l.Trainer(2, compile=True).fit(Dropped(), blobs, resume=within)
    assert going_on.train_loss == whole.train_loss
