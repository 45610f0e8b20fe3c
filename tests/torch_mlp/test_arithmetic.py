"""The option arithmetic="reproducible": on models, on the Trainer, and where it is refused."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import torch_mlp as d2l
from mlp_core.arithmetic import NotReproducible
from torch_mlp import reproducible
from torch_mlp.tracing import Tracer


def own(arithmetic="reproducible", kind=d2l.MLPScratch):
    torch.manual_seed(3)
    return kind(6, 3, [5, 4], lr=0.1, sigma=0.5, arithmetic=arithmetic)


def concise(arithmetic="reproducible"):
    torch.manual_seed(3)
    return d2l.MLP(3, [5, 4], lr=0.1, arithmetic=arithmetic)


def assert_same(model, other):
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


class WithMomentum(d2l.MLPScratch):
    def configure_optimizers(self):
        return self.ops.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@pytest.mark.parametrize("momentum, clip", [(0.0, 0), (0.9, 0.5)])
def test_the_trainer_has_the_bits_of_the_functions(blobs, momentum, clip):
    model = own(kind=WithMomentum if momentum else d2l.MLPScratch)
    params = {n: p.detach().clone() for n, p in model.named_parameters()}
    velocity, losses = None, []
    torch.manual_seed(4)
    for X, y in blobs.train_dataloader():
        leaves = {n: p.requires_grad_() for n, p in params.items()}
        H = X
        for i in (1, 2):
            linear = reproducible.linear(H, leaves[f"W{i}"], leaves[f"b{i}"])
            H = reproducible.relu(linear, 0.5)
        logits = reproducible.linear(H, leaves["W3"], leaves["b3"])
        loss = reproducible.softmax_cross_entropy(logits, y)
        grads = dict(zip(leaves, torch.autograd.grad(loss, [*leaves.values()]), strict=True))
        options = {"momentum": momentum, "velocity": velocity, "clip": clip or None}
        params, velocity = reproducible.sgd(leaves, grads, 0.1, **options)
        losses.append(loss.item())
    torch.manual_seed(4)
    history = d2l.Trainer(1, gradient_clip_val=clip).fit(model, blobs)
    assert history.train_loss == losses
    for name, p in model.named_parameters():
        assert torch.equal(p, params[name])


@pytest.mark.parametrize("build", [own, concise])
def test_the_trainer_overrides_the_model_for_its_own_run(blobs, build):
    asked = build()
    history = d2l.Trainer(1).fit(asked, blobs)
    given = build("native")
    overridden = d2l.Trainer(1, arithmetic="reproducible").fit(given, blobs)
    assert history.train_loss == overridden.train_loss
    assert history.epochs[0].val == overridden.epochs[0].val
    assert_same(asked, given)
    for run in (history, overridden):
        assert run.about["hyperparameters"]["arithmetic"] == "reproducible"
    d2l.Trainer(1, arithmetic="native").prepare_model(asked)
    assert asked.ops is asked.native
    d2l.Trainer(1).prepare_model(asked)
    assert asked.ops is not asked.native


def test_lazy_layers_draw_the_weights_that_they_draw_natively():
    X = torch.ones(2, 6)
    models = concise(), concise("native")
    for model in models:
        torch.manual_seed(5)
        model(X)
    assert_same(*models)


def test_scratch_keeps_a_half_at_a_tie_and_the_concise_model_nothing():
    for build, share in ((own, 0.5), (concise, 0.0)):
        x = torch.zeros((), requires_grad=True)
        build().ops.relu(x).backward()
        assert x.grad.item() == share


def test_an_unknown_arithmetic_is_refused_at_once():
    for make in (own, concise, functools.partial(d2l.Trainer, 1)):
        with pytest.raises(ValueError, match="'exact', expected 'native' or 'reproducible'"):
            make(arithmetic="exact")


class OwnForward(d2l.MLPScratch):
    def forward(self, X):
        return super().forward(X)


class OwnLoss(d2l.MLPScratch):
    def loss(self, Y_hat, Y, averaged=True):
        return super().loss(Y_hat, Y, averaged)


class OwnOptimizer(d2l.MLPScratch):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@pytest.mark.parametrize(
    "kind, reason",
    [(OwnForward, "'forward' is not"), (OwnLoss, "'loss' is not"), (OwnOptimizer, "SGD")],
)
def test_a_model_that_computes_by_other_means_is_refused_with_the_reason(blobs, kind, reason):
    with pytest.raises(NotReproducible, match=reason):
        d2l.Trainer(1, arithmetic="reproducible").fit(own("native", kind), blobs)
    d2l.Trainer(1).fit(own("native", kind), blobs)


def test_a_net_of_known_layers_needs_no_change_and_others_are_named(blobs):
    class Net(d2l.Classifier):
        def __init__(self, *layers):
            super().__init__()
            self.lr, self.net = 0.1, nn.Sequential(*layers)

    def train(*layers):
        return d2l.Trainer(1, arithmetic="reproducible").fit(Net(*layers), blobs)

    assert np.isfinite(train(nn.LazyLinear(3), nn.ReLU()).train_loss).all()
    assert np.isfinite(train(nn.Linear(6, 3, bias=False)).train_loss).all()
    with pytest.raises(NotReproducible, match=r"'net\.1' is Tanh"):
        train(nn.Linear(6, 3), nn.Tanh())
    hooked = nn.Linear(6, 3)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(NotReproducible, match=r"'net\.0' has forward hooks"):
        train(hooked)


def test_a_marked_model_of_ones_own_trains_reproducibly(blobs):
    class Own(d2l.MLPScratch):
        @d2l.any_arithmetic
        def forward(self, X):
            return self.ops.linear(X, self.W1, self.b1)

    model = Own(6, 3, [], lr=0.1, arithmetic="reproducible")
    assert np.isfinite(d2l.Trainer(1).fit(model, blobs).train_loss).all()


def test_each_examples_loss_and_its_gradient_are_those_of_a_batch_of_one():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(5) % 4
    each = reproducible.softmax_cross_entropy(logits, labels, averaged=False)
    (grads,) = torch.autograd.grad(each.sum(), [logits])
    for i in range(5):
        row = logits[i : i + 1].detach().requires_grad_()
        one = reproducible.softmax_cross_entropy(row, labels[i : i + 1])
        one.backward()
        assert each[i] == one and torch.equal(grads[i : i + 1], row.grad)


def test_the_optimiser_leaves_parameters_without_a_gradient_and_calls_its_closure():
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in "ab")
    optimizer = reproducible.SGD([a, b], lr=0.5, momentum=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (a * a).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    assert a.tolist() == [0, 0] and b.tolist() == [1, 1]
    optimizer.step(closure)
    assert a.tolist() == [-0.5, -0.5]


def test_the_tracer_takes_the_trainers_steps(blobs):
    model, traced = own(), own()
    tracer = Tracer(traced)
    torch.manual_seed(0)
    shown = [tracer.step(*batch) for batch in blobs.train_dataloader()]
    torch.manual_seed(0)
    history = d2l.Trainer(1).fit(model, blobs)
    assert [float(step["loss"]) for step in shown] == history.train_loss
    assert_same(model, traced)
    hidden = [f"layer {i} {op}" for i in (1, 2) for op in ("linear", "relu")]
    assert list(shown[0])[:8] == ["inputs", "labels", *hidden, "layer 3 linear", "loss"]
    assert list(shown[0])[-1] == "update of b3"
