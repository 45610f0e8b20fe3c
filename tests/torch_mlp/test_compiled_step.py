"""A compiled training is the training that was written, or it is refused by name."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import torch_mlp as d2l
from mlp_core.attributes import Untraceable

pytestmark = [
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler (g++)"),
    pytest.mark.filterwarnings("ignore"),  # Inductor's own
]


class Spare(d2l.MLPScratch):
    """With a parameter that the loss doesn't use, and decay, which moves what has a gradient."""

    def __init__(self):
        super().__init__(6, 3, 5, 0.5, sigma=1)
        self.spare = nn.Parameter(torch.ones(2))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=0.1)


class Part(Spare):
    def configure_optimizers(self):
        return torch.optim.SGD([self.W1, self.b1], lr=self.lr)


class Thawing(d2l.Trainer):
    def fit_epoch(self):
        self.model.W1.requires_grad_(self.epoch > 0)
        super().fit_epoch()


def frozen(model):
    model.W1.requires_grad_(False)


def hooked(model):
    model.W1.register_hook(lambda g: g / 2)
    model.W1.register_hook(lambda g: g.clamp(-0.1, 0.1))
    model.b2.register_hook(lambda g: None)


def hooked_after(model):
    def quarter(p):
        p.grad.mul_(0.25)

    model.W2.register_post_accumulate_grad_hook(quarter)


def as_it_is(model):
    pass


@pytest.mark.parametrize(
    "kind, trainer, prepare, options",
    [
        (Spare, d2l.Trainer, frozen, {}),
        (Spare, d2l.Trainer, hooked, {}),
        (Spare, d2l.Trainer, hooked_after, {"gradient_clip_val": 0.3}),
        (Part, d2l.Trainer, as_it_is, {"gradient_clip_val": 0.3}),
        (Spare, Thawing, as_it_is, {}),
    ],
    ids=["frozen", "hooks", "hooks after", "part", "thawing"],
)
def test_what_trains_is_what_trains_in_eager_mode(blobs, kind, trainer, prepare, options):
    found = []
    for compiled in (False, True):
        d2l.manual_seed(0)
        model = kind()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        prepare(model)
        trainer(2, compile=compiled, **options).fit(model, blobs)
        found.append(dict(model.named_parameters()))
    for name, p in found[0].items():
        other = found[1][name]
        # 18 steps on few examples: rounding moves a weight by some 2^-22 of it.
        np.testing.assert_allclose(other.detach(), p.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(p, before[name]) == torch.equal(other, before[name])
        assert (p.grad is None) == (other.grad is None)
    assert torch.equal(found[1]["spare"], before["spare"])
    assert not torch.equal(found[1]["b1"], before["b1"])


class Counting(d2l.MLPScratch):
    def __init__(self):
        super().__init__(6, 3, 5, 0.1)
        self.count, self.log = 0, {"losses": []}
        self.inner = nn.Linear(2, 2)
        self.register_buffer("steps", torch.zeros(()))

    def training_step(self, batch):
        self.change(super().training_step(batch))
        return super().training_step(batch)


CHANGES = {
    "self.count": lambda self, loss: setattr(self, "count", self.count + 1),
    "self.last": lambda self, loss: setattr(self, "last", loss),
    "self.log": lambda self, loss: self.log["losses"].append(1),
    "self.inner.scale": lambda self, loss: setattr(self.inner, "scale", 2),
    "self.steps": lambda self, loss: setattr(self, "steps", self.steps + 1),
    "self.inner.weight": lambda self, loss: self.inner.weight.data.clamp_(-1, 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_step_that_changes_an_attribute_is_refused_when_compiled(blobs, name):
    model = type("Own", (Counting,), {"change": CHANGES[name]})()
    with pytest.raises((Untraceable, RuntimeError)) as error:
        d2l.Trainer(1, compile=True).fit(model, blobs)
    said = str(error.value)
    assert "leave compile=False" in said and "training_step" in said
    assert name in said or not isinstance(error.value, Untraceable)
    d2l.Trainer(1).fit(type("Own", (Counting,), {"change": CHANGES[name]})(), blobs)


@pytest.mark.parametrize("counter", ["epoch", "train_batch_idx", "val_batch_idx"])
def test_a_step_that_reads_a_counter_of_the_trainer_is_refused_when_compiled(blobs, counter):
    class Warming(d2l.MLPScratch):
        def training_step(self, batch):
            return super().training_step(batch) / (1 + getattr(self.trainer, counter))

    with pytest.raises(Untraceable, match=rf"trainer\.{counter}"):
        d2l.Trainer(1, compile=True).fit(Warming(6, 3, 5, 0.1), blobs)
    d2l.Trainer(1).fit(Warming(6, 3, 5, 0.1), blobs)


def test_backward_hooks_of_modules_are_refused_when_compiled(blobs):
    class Hooked(d2l.Classifier):
        def __init__(self):
            super().__init__()
            self.lr = 0.1
            self.net = nn.Sequential(nn.Linear(6, 3))
            self.net[0].register_full_backward_hook(lambda module, inward, outward: None)

    with pytest.raises(Untraceable, match=r"backward hooks of modules \(net\.0\)"):
        d2l.Trainer(1, compile=True).fit(Hooked(), blobs)
