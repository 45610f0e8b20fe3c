"""Both graphs over finite fields: honest pairs are identical, faults that no data show differ."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from small import LABELS, SHAPES, Net, X, port, proven

import parity
from mlp_core.activations import NAMES
from parity.sides.pairs import book_pair


def first_difference(proof):
    return next(a.name for a in proof.answers if a.verdict == "different")


@pytest.mark.parametrize("kind", ["scratch", "mlp"])
@pytest.mark.parametrize("activation", NAMES)
def test_the_books_pairs_are_identical_in_every_activation(kind, activation):
    ours, theirs = book_pair(kind, [4, 4], 0.1, 0, 5, 3, activation=activation)
    proof = proven(ours, theirs, weights=False)
    assert proof.verdict == "identical" and proof.bits >= 60, proof
    assert len(proof.answers) == 2 + 6 + 6  # logits, loss; gradients and step of six leaves


def torch_loss(z, y):
    return torch.nn.functional.cross_entropy(z, y)


def picked(z, y):
    return jnp.take_along_axis(z, y[:, None], 1)[:, 0]


def onehot(y):
    return jax.nn.one_hot(y, 3)


LOSSES = {
    "log_softmax": lambda z, y: -picked(jax.nn.log_softmax(z), y).mean(),
    "logsumexp": lambda z, y: (jax.scipy.special.logsumexp(z, axis=-1) - picked(z, y)).mean(),
    "by optax": lambda z, y: optax.softmax_cross_entropy(z, onehot(y)).mean(),
    "log of softmax": lambda z, y: -jnp.log(picked(jax.nn.softmax(z), y)).mean(),
    "no maximum": lambda z, y: (jnp.log(jnp.exp(z).sum(-1)) - (z * onehot(y)).sum(-1)).sum() / 3,
}


@pytest.mark.parametrize("name", LOSSES)
def test_cross_entropy_may_be_written_in_many_ways(name):
    proof = proven(port(), loss=(torch_loss, LOSSES[name]))
    assert proof.verdict == "identical", proof


def smoothed(z, y):
    return optax.softmax_cross_entropy(z, optax.smooth_labels(onehot(y), 1e-12)).mean()


def one_class(z, y):
    each = optax.softmax_cross_entropy_with_integer_labels(z, y)
    return (each * jnp.where(y == 2, 1 + 1e-9, 1.0)).mean()


def detached(z):
    return z.at[:, 0].set(jax.lax.stop_gradient(z[:, 0]))


def by_adam(epsilon):
    return partial(torch.optim.Adam, lr=1e-3, eps=1e-8), optax.adam(1e-3, eps=epsilon)


DECAYED = (
    partial(torch.optim.SGD, lr=0.1),
    optax.chain(optax.add_decayed_weights(1e-12), optax.sgd(0.1)),
)
GELU = Net(torch.nn.functional.gelu)
FAULTS = {
    "a clip at 50": ("logits", {"jax_model": port(after=lambda z: jnp.clip(z, -50, 50))}),
    "a leak of 1e-7": ("logits", {"jax_model": port(lambda x: jnp.where(x > 0, x, 1e-7 * x))}),
    "a branch above 1e6": (
        "logits",
        {"jax_model": port(before=lambda x: jnp.where(x > 1e6, 2 * x, x))},
    ),
    "a branch for a large sum": (
        "logits",
        {"jax_model": port(after=lambda z: jnp.where(z.sum() > 1e6, 2 * z, z))},
    ),
    "tanh for erf": ("logits", {"jax_model": port(jax.nn.gelu), "torch_model": GELU}),
    "a tie of 1/2": ("gradients.a.bias", {"jax_model": port(lambda x: jnp.maximum(x, 0))}),
    "a logit detached": ("gradients.a.bias", {"jax_model": port(after=detached)}),
    "labels smoothed by 1e-12": ("loss", {"jax_model": port(), "loss": (torch_loss, smoothed)}),
    "one class apart": ("loss", {"jax_model": port(), "loss": (torch_loss, one_class)}),
    "a decay of 1e-12": ("step.a.bias", {"jax_model": port(), "optimizer": DECAYED}),
    "epsilon 1e-7": ("step.a.bias", {"jax_model": port(), "optimizer": by_adam(1e-7)}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_no_data_show_is_different(name):
    where, models = FAULTS[name]
    proof = proven(**models)
    assert proof.verdict == "different" and first_difference(proof) == where, proof


@pytest.mark.parametrize(
    "models",
    [
        {"jax_model": port(partial(jax.nn.gelu, approximate=False)), "torch_model": GELU},
        {"jax_model": port(), "optimizer": by_adam(1e-8)},
    ],
    ids=["gelu", "Adam with its count"],
)
def test_the_same_without_the_fault_is_identical(models):
    proof = proven(**models)
    assert proof.verdict == "identical", proof


def test_a_momentum_shows_in_the_second_step():
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    proof = proven(port(), optimizer=(sgd, optax.sgd(0.1, momentum=0.99)))
    assert proof.verdict == "different" and "second step" in str(proof)
    assert proven(port(), optimizer=(sgd, optax.sgd(0.1, momentum=0.9))).verdict == "identical"


def test_an_operation_without_a_rule_is_undecided_and_named():
    proof = proven(port(lambda x: jax.lax.lgamma(x)))
    assert proof.verdict == "undecided" and "'lgamma'" in proof.why
    proof = proven(port(), Net(torch.special.gammaln))
    assert proof.verdict == "undecided" and "lgamma" in proof.why


def test_python_that_reads_a_number_is_undecided():
    proof = proven(port(), Net(lambda x: x if x.sum().item() > 0 else -x))
    assert proof.verdict == "undecided" and "Python reads" in proof.why


def variance(x, form):
    mean = x.mean(-1, keepdims=True)
    if form == "of squares":
        return (x**2).mean(-1, keepdims=True) - mean**2
    return ((x - mean) ** 2).mean(-1, keepdims=True)


@pytest.mark.parametrize("form", ["of squares", "centred"])
def test_the_variance_may_be_written_in_two_forms(form):
    def normalised(x):
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(variance(x, form) + 1e-5)

    net = Net(lambda x: torch.nn.functional.layer_norm(x, (4,)))
    assert proven(port(normalised), net).verdict == "identical"


def test_prove_takes_what_check_takes_and_needs_no_more_than_a_few_rows():
    names = {name: name for name in SHAPES}
    assert parity.prove(Net(), port(), (X[:3], LABELS[:3]), weights=names).verdict == "identical"
    asked = parity.prove(port(), Net(), (X[:3], None), weights=names)
    assert [a.name for a in asked.answers] == ["logits"] and asked.verdict == "identical"


def test_the_level_agrees_differs_and_is_skipped_where_it_is_undecided():
    def result(model):
        asked = {"weights": {name: name for name in SHAPES}, "levels": ["identity"]}
        return parity.check(model, Net(), (X, LABELS), batch_size=8, epochs=1, **asked).results[0]

    same, apart, unknown = map(result, (port(), FAULTS["a clip at 50"][1]["jax_model"],
                                        port(jax.lax.lgamma)))  # fmt: skip
    assert (same.verdict, apart.verdict, unknown.verdict) == ("ok", "FAILED", "skipped")
    assert "2^-" in same.note and apart.failed[0].name == "logits"
    assert "lgamma" in unknown.skipped


def _expression(rng, depth, leaves):
    """The same polynomial twice: as a tree, and with sums turned, products distributed."""
    if depth == 0:
        x = leaves[rng.integers(len(leaves))]
        return x, x
    (a, a2), (b, b2), (c, c2) = (_expression(rng, depth - 1, leaves) for _ in range(3))
    kind = rng.integers(4)
    if kind == 0:
        return (lambda v: (a(v) + b(v)) + c(v)), (lambda v: c2(v) + (b2(v) + a2(v)))
    if kind == 1:
        return (lambda v: a(v) * (b(v) + c(v))), (lambda v: c2(v) * a2(v) + a2(v) * b2(v))
    if kind == 2:
        return (lambda v: a(v) - b(v) / 4), (lambda v: (4 * a2(v) - b2(v)) * 0.25)
    return (lambda v: (a(v) * b(v)) * c(v)), (lambda v: b2(v) * (c2(v) * a2(v)))


def test_a_number_compares_with_a_constant_as_its_negative_does():
    theirs = Net(lambda v: torch.maximum(v.clamp(-1, 2), torch.zeros(())))
    proof = proven(port(lambda v: -jnp.minimum(-jnp.clip(v, -1, 2), 0)), theirs)
    assert proof.verdict == "identical", proof


@pytest.mark.parametrize("seed", range(12))
def test_a_formula_written_in_another_way_is_never_different(seed):
    rng = np.random.default_rng(seed)
    one, other = _expression(rng, 2, [lambda v: v, lambda v: v * v, lambda v: v + 1])
    proof = proven(port(one), Net(other))
    assert proof.verdict == "identical", proof
