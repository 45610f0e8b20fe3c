"""A Torch training that goes on from a checkpoint has the bits of one that was never stopped."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from launching import together
from torch import nn

import torch_mlp as d2l
from mlp_core.checkpoint import CheckpointError, Checkpoints
from mlp_core.stopping import Terminated


def small(**options):
    given = {"num_inputs": 6, "num_outputs": 3, "num_hiddens": 5, "lr": 0.1, "sigma": 1}
    return d2l.MLPScratch(**(given | options))


class Random(d2l.Classifier):
    """Dropout, batch norm, Adam, a falling rate, counts, another generator: what a step carries on.

    Not Python's own: beartype, which checks types in tests, draws from it."""

    def __init__(self, rate=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.steps, self.noise = 0, 0.0

    def training_step(self, batch):
        self.steps += 1
        self.noise += float(np.random.rand())
        self.trainer.optim.param_groups[0]["lr"] *= 0.9
        return super().training_step(batch) * (1 + self.steps % 3 + self.noise)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.rate)


def seeded():
    d2l.manual_seed(3)
    np.random.seed(3)


def trained(make, data, epochs=2, checkpoint=None, resume=False):
    """(every tensor of the model, history, where the generators are) of a training from seed 3."""
    seeded()
    model = make()
    history = d2l.Trainer(epochs, checkpoint=checkpoint).fit(model, data, resume)
    bits = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    figures = history.train_loss, [(e.steps, e.samples, e.val) for e in history.epochs]
    drawn = torch.rand(1).item(), float(np.random.rand())
    return bits, figures, model.board.data, drawn


MODELS = {
    "native": small,
    "reproducible": lambda: small(arithmetic="reproducible"),
    "dropout, Adam": Random,
}


@pytest.mark.parametrize(
    ("kind", "every"),
    [("native", 4), ("reproducible", 4), ("dropout, Adam", 1),
     *(pytest.param(k, n, marks=pytest.mark.slow) for k in MODELS for n in (1, 2, 7))],
)  # fmt: skip
def test_a_run_goes_on_from_any_of_its_checkpoints_to_the_same_bits(blobs, tmp_path, kind, every):
    whole = trained(MODELS[kind], blobs)
    place = Checkpoints(tmp_path, every, keep=100)
    assert trained(MODELS[kind], blobs, checkpoint=place) == whole
    files = place.paths()
    steps = [int(path.name[5:17]) for path in files[::-1]]
    assert steps == sorted({*range(every, 19, every), 9, 18})
    for path in files[:: max(1, len(files) // 3)]:
        assert trained(MODELS[kind], blobs, resume=path) == whole


def test_loaders_with_generators_and_states_of_their_own_go_on_too(blobs, tmp_path):
    class Own(d2l.DataModule):
        def get_dataloader(self, train):
            rows = torch.utils.data.TensorDataset(blobs.X, blobs.y)
            own = torch.Generator().manual_seed(int(train))
            return torch.utils.data.DataLoader(rows, 8, shuffle=train, generator=own)

    whole = trained(small, Own())
    place = Checkpoints(tmp_path, 5, keep=100)
    assert trained(small, Own(), checkpoint=place) == whole
    for path in place.paths():
        assert trained(small, Own(), resume=path) == whole


def test_a_resumed_run_can_be_longer_and_a_finished_one_stays_as_it_is(blobs, tmp_path):
    whole = trained(small, blobs, epochs=3)
    trained(small, blobs, epochs=2, checkpoint=tmp_path)
    for _ in range(2):
        assert trained(small, blobs, 3, tmp_path, resume=True) == whole
    with pytest.raises(CheckpointError, match="has trained for 3 epochs.*ask for more"):
        trained(small, blobs, 2, tmp_path, resume=True)


def test_a_checkpoint_of_another_run_says_what_differs(blobs, tmp_path):
    trained(small, blobs, 1, tmp_path)
    with pytest.raises(CheckpointError, match=r"of another run:\n  lr = 0.1, now 0.2\n  go on"):
        trained(lambda: small(lr=0.2), blobs, 1, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="holds checkpoints of a run.*resume"):
        trained(small, blobs, 1, tmp_path)
    blobs.X = blobs.X + 1
    with pytest.raises(CheckpointError, match="training data = "):
        trained(small, blobs, 1, tmp_path, resume=True)


def test_another_optimiser_or_shape_is_named(blobs, tmp_path):
    class Other(Random):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), self.rate)

    trained(Random, blobs, 1, tmp_path)
    Other.__name__ = "Random"
    with pytest.raises(CheckpointError, match="optimizer = 'Adam', now 'SGD'"):
        trained(Other, blobs, 1, tmp_path, resume=True)

    class Wider(Random):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))

    Wider.__name__ = "Random"
    with pytest.raises(CheckpointError, match=r"'net.0.weight' is torch.float32 \(4, 6\), expect"):
        trained(Wider, blobs, 1, tmp_path, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_under_way_and_nothing_is_lost(blobs, tmp_path, number):
    class Signalled(d2l.MLPScratch):
        def training_step(self, batch):
            if self.trainer.train_batch_idx == 4:
                os.kill(os.getpid(), number)
            return super().training_step(batch)

    def make():
        return Signalled(6, 3, 5, 0.1, sigma=1)

    whole = trained(small, blobs)[:2]
    seeded()
    trainer, before = d2l.Trainer(2, checkpoint=tmp_path), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(make(), blobs)
    assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    assert trainer.history.interrupted and len(trainer.history.train_loss) == 5
    assert Checkpoints(tmp_path).newest().step == 5 and signal.getsignal(number) is before
    assert trained(make, blobs, 2, tmp_path, resume=True)[:2] == whole


def test_a_second_ctrl_c_stops_at_once(blobs, tmp_path):
    class Stubborn(d2l.MLPScratch):
        def training_step(self, batch):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second one was not heard")

    with pytest.raises(KeyboardInterrupt):
        d2l.Trainer(1, checkpoint=tmp_path).fit(Stubborn(6, 3, 5, 0.1), blobs)
    assert not Checkpoints(tmp_path).paths()


PROCESSES = """
import json, os, sys, torch, torch_mlp as d2l
from mlp_core.checkpoint import CheckpointError, Checkpoints
from torch_mlp.processes import connected

class Blobs(d2l.DataModule):
    def get_dataloader(self, train):
        made = torch.Generator().manual_seed(0)
        X, y = torch.randn(70, 6, generator=made), torch.randint(0, 3, (70,), generator=made)
        rows = torch.utils.data.TensorDataset(X, y)
        return torch.utils.data.DataLoader(rows, 23, shuffle=train)

def trained(epochs, place=None, resume=False):
    torch.manual_seed(int(os.environ["RANK"]))  # process 0 says how it begins
    model = d2l.MLPScratch(6, 3, [4], lr=0.1, sigma=1)
    trainer = d2l.Trainer(epochs, arithmetic="reproducible", checkpoint=place)
    history = trainer.fit(model, Blobs(), resume)
    return [history.train_loss, [e.val for e in history.epochs], [p.tolist() for p in
            model.parameters()]]

with connected(2):
    whole, folder = trained(3), sys.argv[1]
    trained(1, Checkpoints(folder + "/shared", 2))
    found = trained(3, Checkpoints(folder + "/shared", 3), True)
    try:
        trained(3, folder + ("/shared" if os.environ["RANK"] == "0" else "/own"), True)
        said = ""
    except CheckpointError as error:
        said = str(error)
    print(json.dumps([found == whole, said]))
"""


@pytest.mark.slow
def test_processes_go_on_together_from_what_the_first_one_saved(tmp_path):
    for code, out, err, _ in together(PROCESSES, 2, tmp_path):
        assert code == 0, err
        same, said = json.loads(out)
        assert same and "find different checkpoints there (step 12, none)" in said
