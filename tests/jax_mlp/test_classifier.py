import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_mlp as d2l


def model():
    return d2l.MLP(num_inputs=6, num_outputs=10, num_hiddens=4, lr=0.1)


@pytest.mark.parametrize("batch, classes", [(1, 10), (7, 3), (5, 1)])
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([0, 1e-3, 1, 30]))
def test_loss_is_the_mean_of_softmax_cross_entropy_in_both_models(seed, size, batch, classes):
    rng = np.random.default_rng(seed)
    logits = (size * rng.standard_normal((batch, classes))).astype(np.float32)
    labels = rng.integers(0, classes, batch).astype(np.int32)
    exact = np.log(np.exp(logits.astype(float)).sum(1)) - logits[np.arange(batch), labels]
    # Half a unit of twice the largest logit where that is subtracted, and half a unit of the loss,
    # which may be as large; exp and log a few units more.
    bound = (2 * np.abs(logits).max() + classes + 10) * 2**-23
    for loss in (d2l.Classifier().loss, d2l.MLPScratch(6, 3, 4, lr=0.1).loss):
        each = loss(jnp.asarray(logits), jnp.asarray(labels), averaged=False)
        assert each.shape == (batch,)
        assert np.abs(each - exact).max() <= bound
        mean = float(loss(jnp.asarray(logits), jnp.asarray(labels)))
        assert abs(mean - exact.mean()) <= bound + batch * 2**-22


def test_accuracy_counts_the_largest_logit_averaged_or_each():
    logits = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    labels = jnp.array([1, 0, 0, 1])
    assert model().accuracy(logits, labels) == 0.5
    assert model().accuracy(logits, labels, averaged=False).tolist() == [1, 1, 0, 0]


def test_leading_axes_are_examples():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 10))
    labels = jax.random.randint(jax.random.key(1), (2, 3), 0, 10)
    flat = logits.reshape(6, 10), labels.reshape(6)
    for method in (model().loss, model().accuracy, d2l.MLPScratch(6, 10, 4, lr=0.1).loss):
        assert method(logits, labels) == method(*flat)
        each = method(logits, labels, averaged=False)
        assert jnp.array_equal(each, method(*flat, averaged=False))


def test_layer_summary_prints_the_shape_behind_each_layer(capsys):
    d2l.MLP(3, [5, 4], lr=0.1, num_inputs=6).layer_summary((2, 1, 2, 3))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["flatten", "Linear", "relu", "Linear", "relu", "Linear"]
    assert [line[-1] for line in lines] == ["6)", "5)", "5)", "4)", "4)", "3)"]


def test_hyperparameters_are_kept_but_for_generators():
    own = d2l.MLP(3, [5, 4], lr=0.1, num_inputs=6, rngs=nnx.Rngs(0))
    given = {
        "num_outputs": 3,
        "num_hiddens": [5, 4],
        "lr": 0.1,
        "num_inputs": 6,
        "init": "torch",
        "arithmetic": "native",
    }
    assert own.hparams | given == own.hparams and "rngs" not in own.hparams


def test_a_model_without_net_or_forward_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="Classifier: .*forward.*net"):
        d2l.Classifier()(jnp.zeros((1, 6)))
    with pytest.raises(NotImplementedError, match=r"Module\.loss"):
        d2l.Module().loss(jnp.zeros(1), jnp.zeros(1))


# A class as the book's newer edition writes them for JAX: generators from outside, or its own.
class Ported(d2l.Classifier):
    def __init__(self, num_inputs, num_outputs, num_hiddens, lr, sigma=0.01, rngs=None):
        super().__init__()
        self.save_hyperparameters(ignore=["rngs"])
        rngs = nnx.Rngs(d2l.get_key()) if rngs is None else rngs
        self.W1 = nnx.Param(rngs.params.normal((num_inputs, num_hiddens)) * sigma)
        self.b1 = nnx.Param(jnp.zeros(num_hiddens))
        self.W2 = nnx.Param(rngs.params.normal((num_hiddens, num_outputs)) * sigma)
        self.b2 = nnx.Param(jnp.zeros(num_outputs))


@d2l.add_to_class(Ported)
def forward(self, X):
    X = d2l.reshape(X, (-1, self.num_inputs))
    H = d2l.relu(d2l.matmul(X, self.W1) + self.b1)
    return d2l.matmul(H, self.W2) + self.b2


@pytest.mark.parametrize("rngs", [None, 3])
def test_a_class_of_the_users_own_trains_as_it_is(blobs, rngs):
    own = Ported(6, 3, 5, lr=0.5, sigma=1, rngs=rngs and nnx.Rngs(rngs))
    before = own.W1[...]
    history = d2l.Trainer(max_epochs=3).fit(own, blobs)
    assert len(history.train_loss) == 27
    assert history.val("loss")[-1] < history.val("loss")[0]
    assert isinstance(own.W1, nnx.Param) and not jnp.array_equal(own.W1[...], before)


def test_a_class_of_the_users_own_equals_the_finished_one(blobs):
    own, finished = Ported(6, 3, 5, lr=0.5), d2l.MLPScratch(6, 3, 5, lr=0.5, sigma=1)
    for name, array in finished.params.items():
        getattr(own, name)[...] = array
    losses = []
    for each in (own, finished):
        d2l.manual_seed(1)
        losses.append(d2l.Trainer(max_epochs=2).fit(each, blobs).train_loss)
    # optax subtracts the largest logit in another way than logsumexp: a few units of rounding.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_keys_and_rngs_inside_the_constructor_train_too(blobs):
    class Own(d2l.Classifier):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.W = nnx.Param(jax.random.normal(d2l.get_key(), (6, 3)))

        def forward(self, X):
            return X @ self.W

    history = d2l.Trainer(max_epochs=2).fit(Own(lr=0.5), blobs)
    assert history.val("loss")[1] < history.val("loss")[0]


@pytest.mark.parametrize("of", [jnp, np])
def test_plain_arrays_as_attributes_train_as_well(blobs, of):
    class Plain(d2l.Classifier):
        def __init__(self, lr):
            super().__init__()
            self.save_hyperparameters()
            self.W = of.zeros((6, 3), of.float32)
            self.steps = of.zeros(2, of.int32)

        def forward(self, X):
            return X @ self.W

    plain = Plain(lr=0.5)
    history = d2l.Trainer(max_epochs=2).fit(plain, blobs)
    assert history.val("loss")[1] < history.val("loss")[0] < np.log(3)
    assert plain.W.any() and plain.W.dtype == np.float32
    assert not plain.steps.any()


def test_reshape_and_matmul_take_params_and_both_ways_of_naming_a_shape():
    param = nnx.Param(jnp.arange(6.0))
    assert d2l.reshape(param, (2, 3)).shape == d2l.reshape(param, 2, 3).shape == (2, 3)
    assert d2l.matmul(param, nnx.Param(jnp.ones(6))) == 15
