"""A JAX training that goes on from a checkpoint has the bits of one that was never stopped."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from launching import together
from small_trainings import Listed, copied, small

import jax_mlp as d2l
from mlp_core.checkpoint import CheckpointError, Checkpoints
from mlp_core.stopping import Terminated


class Random(d2l.Classifier):
    """Dropout, momentum, a count of its own: all that a step may carry on."""

    def __init__(self, rate=0.1):
        super().__init__()
        self.save_hyperparameters()
        rngs = nnx.Rngs(d2l.get_key())
        self.net = nnx.Sequential(nnx.Linear(6, 4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
        self.steps = nnx.Variable(jnp.int32(0))

    def training_step(self, batch):
        self.steps[...] += 1
        return super().training_step(batch) * (1 + self.steps[...] % 3)

    def configure_optimizers(self):
        return optax.adam(self.rate)


def trained(make, data, epochs=2, checkpoint=None, resume=False):
    """(every array of the model, history) of a training from seed 3."""
    d2l.manual_seed(3)
    model = make()
    trainer = d2l.Trainer(epochs, checkpoint=checkpoint)
    history = trainer.fit(model, data(), resume)
    state = jax.tree.leaves(nnx.to_pure_dict(nnx.state(model)))
    bits = [np.asarray(jax.random.key_data(a) if is_key(a) else a).tobytes() for a in state]
    figures = history.train_loss, [(e.steps, e.samples, e.val) for e in history.epochs]
    return bits, figures, model.board.data


def is_key(array):
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


MODELS = {
    "native": small,
    "reproducible": lambda: small(arithmetic="reproducible"),
    "dropout, Adam": Random,
}


@pytest.mark.parametrize(
    ("kind", "every"),
    [("native", 4),
     *(pytest.param(*case, marks=pytest.mark.slow)
       for case in [("native", 1), ("native", 7), ("reproducible", 4), ("dropout, Adam", 5)])],
)  # fmt: skip
def test_a_run_goes_on_from_any_of_its_checkpoints_to_the_same_bits(blobs, tmp_path, kind, every):
    whole = trained(MODELS[kind], lambda: blobs)
    place = Checkpoints(tmp_path, every, keep=100)
    assert trained(MODELS[kind], lambda: blobs, checkpoint=place) == whole
    files = place.paths()
    steps = [int(path.name[5:17]) for path in files[::-1]]
    assert steps == sorted({*range(every, 19, every), 9, 18})
    for path in files[1], files[-1]:
        assert trained(MODELS[kind], lambda: blobs, resume=path) == whole


@pytest.mark.slow
def test_batches_of_any_loader_are_passed_over_when_a_run_goes_on(blobs, tmp_path):
    whole = trained(small, lambda: Listed(blobs))
    place = Checkpoints(tmp_path, 4, keep=100)
    assert trained(small, lambda: Listed(blobs), checkpoint=place) == whole
    assert trained(small, lambda: Listed(blobs), resume=place.paths()[-1]) == whole


def test_a_resumed_run_can_be_longer_and_a_finished_one_stays_as_it_is(blobs, tmp_path):
    whole = trained(small, lambda: blobs, epochs=3)
    trained(small, lambda: blobs, epochs=2, checkpoint=tmp_path)
    assert trained(small, lambda: blobs, 3, tmp_path, resume=True) == whole
    assert trained(small, lambda: blobs, 3, tmp_path, resume=True) == whole
    with pytest.raises(CheckpointError, match="has trained for 3 epochs.*ask for more"):
        trained(small, lambda: blobs, 2, tmp_path, resume=True)


def test_a_checkpoint_of_another_run_says_what_differs(blobs, tmp_path):
    trained(small, lambda: blobs, 1, tmp_path)
    with pytest.raises(CheckpointError, match=r"of another run:\n  lr = 0.1, now 0.2\n  go on"):
        trained(lambda: small(lr=0.2), lambda: blobs, 1, tmp_path, resume=True)
    with pytest.raises(CheckpointError, match="holds checkpoints of a run.*resume"):
        trained(small, lambda: blobs, 1, tmp_path)
    blobs.X = blobs.X + 1
    with pytest.raises(CheckpointError, match="training data = "):
        trained(small, lambda: blobs, 1, tmp_path, resume=True)


def test_an_optimiser_of_another_shape_is_named(blobs, tmp_path):
    class Other(d2l.MLPScratch):
        momentum = None

        def configure_optimizers(self):
            return optax.sgd(self.lr, self.momentum)

    def other():
        return Other(6, 3, 5, 0.1)

    trained(other, lambda: blobs, 1, tmp_path)
    Other.momentum = 0.9
    with pytest.raises(CheckpointError, match="of another model:\n.*trace.*missing"):
        trained(other, lambda: blobs, 2, tmp_path, resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_steps_under_way_and_nothing_is_lost(blobs, tmp_path, number):
    class Signalled(d2l.Trainer):
        def _replay(self, tape, i):
            super()._replay(tape, i)
            if self.train_batch_idx == 5:
                os.kill(os.getpid(), number)

    whole = trained(small, lambda: blobs)
    d2l.manual_seed(3)
    model, place = small(), Checkpoints(tmp_path, 3)
    trainer, before = Signalled(2, checkpoint=place), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught:
        trainer.fit(model, blobs)
    assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    assert trainer.history.interrupted and len(trainer.history.train_loss) == 6
    assert place.newest().step == 6 and signal.getsignal(number) is before
    assert np.array_equal(copied(model.params)["W1"], place.newest().arrays["state/[0]['W1']"])
    assert trained(small, lambda: blobs, 2, place, resume=True) == whole


@pytest.mark.slow
def test_a_sweep_goes_on_to_the_same_bits(blobs, tmp_path):
    def models():
        d2l.manual_seed(0)
        return [small(lr=lr, num_hiddens=n) for n, lr in ((5, 0.1), (5, 0.2), (4, 0.1))]

    def swept(epochs, place=None, resume=False):
        made = models()
        sweep = d2l.Sweep(epochs, checkpoint=place)
        histories = sweep.fit(made, blobs, [0, 1, 2], resume)
        figures = [(h.train_loss, [e.val for e in h.epochs]) for h in histories]
        return figures, [copied(model.params)["W1"].tobytes() for model in made]

    whole = swept(3)
    swept(2, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["group-000", "group-001"]
    assert swept(3, tmp_path, resume=True) == whole
    with pytest.raises(CheckpointError, match="has trained for 3 epochs"):
        swept(2, tmp_path, resume=True)


PROCESSES = """
import json, os, sys, numpy as np, jax_mlp as d2l
from jax_mlp.processes import connected
from mlp_core.checkpoint import CheckpointError, Checkpoints

class Blobs(d2l.DataModule):
    batch_size = 23
    def get_dataloader(self, train):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((70, 6), np.float32), rng.integers(0, 3, 70).astype(np.int32)
        return self.get_tensorloader([X, y], train)

def trained(epochs, place=None, resume=False):
    d2l.manual_seed(0)
    model = d2l.MLPScratch(6, 3, [4], lr=0.1, sigma=1)
    trainer = d2l.Trainer(epochs, arithmetic="reproducible", checkpoint=place)
    history = trainer.fit(model, Blobs(), resume)
    return [history.train_loss, [e.val for e in history.epochs], [np.asarray(p).tolist() for p in
            model.params.values()]]

with connected(2):
    whole, folder = trained(2), sys.argv[1]
    trained(1, folder + "/shared")
    found = trained(2, folder + "/shared", True)
    said = []
    for place in (Checkpoints(folder + "/shared", 2),
                  folder + ("/shared" if os.environ["RANK"] == "0" else "/own")):
        try:
            trained(3, place, True)
        except CheckpointError as error:
            said.append(str(error))
    print(json.dumps([found == whole, said]))
"""


@pytest.mark.slow
def test_processes_go_on_together_from_what_the_first_one_saved(tmp_path):
    for code, out, err, _ in together(PROCESSES, 2, tmp_path):
        assert code == 0, err
        same, said = json.loads(out.splitlines()[-1])  # JAX prints its connections before
        assert same and "at the end of an epoch alone" in said[0]
        assert "find different checkpoints there (step 8, none)" in said[1]
