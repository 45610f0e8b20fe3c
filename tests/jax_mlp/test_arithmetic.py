"""The option arithmetic="reproducible": on models, on the Trainer, and where it is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mlp as d2l
from jax_mlp import layers, reproducible, scratch
from jax_mlp.checkpoint import named_params
from jax_mlp.sharding import DevicesError, simulate
from jax_mlp.tracing import Tracer
from mlp_core.arithmetic import NotReproducible

HALF = reproducible.REPRODUCIBLE._replace(relu=functools.partial(reproducible.relu, tie=0.5))


def own(arithmetic="reproducible", **options):
    d2l.manual_seed(3)
    return d2l.MLPScratch(6, 3, [5, 4], lr=0.1, sigma=0.5, arithmetic=arithmetic, **options)


def concise(arithmetic="reproducible"):
    d2l.manual_seed(3)
    return d2l.MLP(3, [5, 4], lr=0.1, num_inputs=6, arithmetic=arithmetic)


def assert_same(params, others):
    assert set(params) == set(others)
    for name in params:
        np.testing.assert_array_equal(params[name], others[name], err_msg=name)


@pytest.fixture
def blobs(blobs):
    blobs.batch_size = 32  # three batches, the last of 6 examples
    return blobs


class WithMomentum(d2l.MLPScratch):
    def configure_optimizers(self):
        return self.ops.SGD(self.lr, momentum=0.9)


@pytest.mark.slow
def test_the_compiled_trainer_has_the_bits_of_eager_functions_with_momentum_and_clipping(blobs):
    blobs.batch_size = 35  # two batches of one shape: what is eager is compiled shape by shape
    model = WithMomentum(6, 3, 5, lr=0.1, sigma=0.5, arithmetic="reproducible")
    params, velocity, losses = dict(model.params), None, []
    d2l.manual_seed(4)
    for batch in blobs.train_dataloader():
        loss, grads = jax.value_and_grad(scratch.loss)(params, *batch, HALF)
        options = {"momentum": 0.9, "velocity": velocity, "clip": 0.5}
        params, velocity = reproducible.sgd(params, grads, model.lr, **options)
        losses.append(float(loss))
    d2l.manual_seed(4)
    history = d2l.Trainer(1, gradient_clip_val=0.5).fit(model, blobs)
    assert history.train_loss == losses
    assert_same(model.params, params)


@pytest.mark.parametrize("build", [own, concise])
def test_the_trainer_overrides_the_model_for_its_own_run(blobs, build):
    given = build("native")
    overridden = d2l.Trainer(1, arithmetic="reproducible").fit(given, blobs)
    asked = build()
    history = d2l.Trainer(1).fit(asked, blobs)
    assert history.train_loss == overridden.train_loss
    assert history.epochs[0].val == overridden.epochs[0].val
    assert_same(named_params(asked), named_params(given))
    for run in (history, overridden):
        assert run.about["hyperparameters"]["arithmetic"] == "reproducible"
    d2l.Trainer(1, arithmetic="native").prepare_model(asked)
    assert asked.ops is asked.native
    d2l.Trainer(1).prepare_model(asked)
    assert asked.ops is not asked.native


def test_scratch_keeps_a_half_at_a_tie_and_the_concise_model_nothing():
    for build, share in ((own, 0.5), (concise, 0.0)):
        relu = build().ops.relu
        assert float(jax.grad(lambda x, relu=relu: relu(x))(jnp.float32(0))) == share


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
        return optax.adam(self.lr)


@pytest.mark.parametrize(
    "kind, reason",
    [(OwnForward, "'forward' is not"), (OwnLoss, "'loss' is not"), (OwnOptimizer, "SGD")],
)
def test_a_model_that_computes_by_other_means_is_refused_with_the_reason(blobs, kind, reason):
    model = kind(6, 3, 4, lr=0.1)
    with pytest.raises(NotReproducible, match=reason):
        d2l.Trainer(1, arithmetic="reproducible").fit(model, blobs)
    d2l.Trainer(1).fit(model, blobs)


def test_a_net_of_known_layers_needs_no_change_and_others_are_named(blobs):
    class Net(d2l.Classifier):
        def __init__(self, *layers):
            super().__init__()
            self.lr, self.net = 0.1, nnx.Sequential(*layers)

    def linear(**options):
        return nnx.Linear(6, 3, rngs=nnx.Rngs(0), **options)

    net = Net(linear(use_bias=False), nnx.relu)
    history = d2l.Trainer(1, arithmetic="reproducible").fit(net, blobs)
    assert np.isfinite(history.train_loss).all()
    with pytest.raises(NotReproducible, match=r"net\.layers\.1' is tanh"):
        d2l.Trainer(1, arithmetic="reproducible").fit(Net(linear(), jnp.tanh), blobs)
    assert "expected an nnx.Sequential" in next(iter(layers.problems(linear())))


def test_a_marked_model_of_ones_own_trains_reproducibly(blobs):
    class Own(d2l.MLPScratch):
        @d2l.any_arithmetic
        def forward(self, X):
            return self.ops.linear(X, self.W1, self.b1)

    model = Own(6, 3, [], lr=0.1, arithmetic="reproducible")
    assert np.isfinite(d2l.Trainer(1).fit(model, blobs).train_loss).all()


@pytest.mark.slow
def test_a_platform_without_float64_trains_to_the_same_bits(blobs, monkeypatch):
    losses = []
    for platform in (jax.default_backend(), "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        d2l.manual_seed(1)  # of the weights and of the order of examples
        model = d2l.MLPScratch(6, 3, [], lr=0.1, arithmetic="reproducible")
        losses.append(d2l.Trainer(1).fit(model, blobs).train_loss)
    assert losses[0] == losses[1]


def test_each_examples_loss_and_its_gradient_are_those_of_a_batch_of_one():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
    labels = jnp.arange(5) % 4
    loss = reproducible.softmax_cross_entropy
    each, pull = jax.vjp(lambda z: loss(z, labels, False), logits)
    (grads,) = pull(jnp.ones(5))
    for i in range(5):
        one = jax.value_and_grad(loss)(logits[i : i + 1], labels[i : i + 1])
        assert each[i] == one[0]
        np.testing.assert_array_equal(grads[i : i + 1], one[1])


def test_the_tracer_takes_the_trainers_steps(blobs):
    model = own()
    tracer = Tracer(model)
    d2l.manual_seed(0)
    shown = [tracer.step(*batch) for batch in blobs.train_dataloader()]
    d2l.manual_seed(0)
    history = d2l.Trainer(1).fit(model, blobs)
    assert [float(step["loss"]) for step in shown] == history.train_loss
    assert_same(model.params, tracer.params)
    hidden = [f"layer {i} {op}" for i in (1, 2) for op in ("linear", "relu")]
    assert list(shown[0])[:8] == ["inputs", "labels", *hidden, "layer 3 linear", "loss"]
    assert list(shown[0])[-1] == "update of b3"


def test_devices_that_are_not_there_are_refused():
    jax.devices()
    with pytest.raises(DevicesError, match="64 devices were asked for, but JAX has started"):
        simulate(64)
    with pytest.raises(DevicesError, match="devices = 64, expected 1 to"):
        d2l.Trainer(1, devices=64)
