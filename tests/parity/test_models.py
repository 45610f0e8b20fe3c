"""Every kind of model, of training and of mistake that a porter may bring to `check`."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from parity import check

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 5)).astype(np.float32)
y = rng.integers(0, 3, 20).astype(np.int32)
NAMES = {"a.W": "0.weight", "a.b": "0.bias", "c.W": "2.weight", "c.b": "2.bias"}
PARAMS = {
    "a": {"W": jnp.zeros((5, 4)), "b": jnp.zeros(4)},
    "c": {"W": jnp.zeros((4, 3)), "b": jnp.zeros(3)},
}


def apply(p, X):
    return jnp.tanh(X @ p["a"]["W"] + p["a"]["b"]) @ p["c"]["W"] + p["c"]["b"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def checked(model, other=(apply, PARAMS), data=(X, y), **options):
    levels = ("logits", "loss", "gradients", "step", "every step")
    asked = {"weights": NAMES, "batch_size": 8, "epochs": 1, "levels": levels}
    return check(model, other, data, **{**asked, **options})


def first_failed(verdict):
    return next((r.level.name for r in verdict.results if r.failed), None)


def halved(p):
    p.grad.mul_(0.5)


def test_gradient_hooks_are_judged_as_they_train():
    one, other = net(), net()
    one[0].weight.register_hook(lambda g: g * 0.5)
    other[0].weight.register_post_accumulate_grad_hook(halved)
    assert [first_failed(checked(m)) for m in (one, other)] == ["gradients"] * 2


def test_an_optimiser_that_steps_inside_the_backward_pass_agrees():
    model = net()
    for p in model.parameters():
        own = torch.optim.SGD([p], lr=0.1)

        def step(p, own=own):
            own.step()
            own.zero_grad()

        p.register_post_accumulate_grad_hook(step)
    assert (verdict := checked(model, lr=0.1)).ok, verdict


def test_a_layer_frozen_on_one_side_differs_at_the_step():
    model = net()
    model[0].requires_grad_(False)
    assert first_failed(verdict := checked(model)) == "step"
    assert any(n.startswith("frozen in Torch: 0.bias, 0.weight; JAX") for n in verdict.notes)
    labels = {"a": {"W": "no", "b": "no"}, "c": {"W": "yes", "b": "yes"}}
    masked = optax.partition({"yes": optax.adam(0.01), "no": optax.set_to_zero()}, labels)
    pair = (lambda p: torch.optim.Adam(p, 0.01)), masked
    assert (verdict := checked(model, optimizer=pair)).ok, verdict


def test_constants_among_the_parameters_are_no_parameters():
    assert checked(net(), (apply, PARAMS | {"n": 3})).ok


def test_softmax_regression_pairs_its_parameters_by_itself():
    model, other = nn.Linear(5, 3), nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    levels = ("weights", "masks", "step")
    verdict = checked(model, other, weights=None, levels=levels)
    assert verdict.ok, verdict
    assert {r.level.name for r in verdict.results if r.skipped} == {"masks"}


def test_a_momentum_of_zero_is_no_momentum():
    def plain(p):
        return torch.optim.SGD(p, lr=0.1)

    def told(beta):
        return checked(net(), optimizer=(plain, optax.sgd(0.1, momentum=beta)), levels=("step",))

    assert told(0.0).ok
    assert "optimizer.trace" in str(told(0.9)) and not told(0.9).ok


def test_runs_that_overflow_alike_are_one_story():
    data = X, rng.normal(size=(20, 3)).astype(np.float32)
    levels = "curve", "refit"
    verdict = checked(net(), data=data, loss="mse", lr=1e30, epochs=3, levels=levels)
    assert verdict.ok, verdict
    assert any("both float64 runs diverge at step" in note for note in verdict.notes)


def test_gradients_accumulate_over_batches():
    assert (verdict := checked(net(), accumulate=2)).ok, verdict


def test_a_schedule_counts_on_both_sides():
    def scheduled(parameters):
        made = torch.optim.Adam(parameters, 0.01)
        return made, torch.optim.lr_scheduler.LambdaLR(made, lambda k: 0.9**k)

    pair = scheduled, optax.adam(lambda k: 0.01 * 0.9**k)
    assert (verdict := checked(net(), optimizer=pair)).ok, verdict


def test_dropout_in_training_is_refused_with_the_remedy():
    model = nn.Sequential(*net(), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="torch: .* dropout.* mode='eval'"):
        checked(model)
    assert checked(model.eval()).ok


def sgd(p):
    return torch.optim.SGD(p, 0.1)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"optimizer": (optax.sgd(0.1), sgd)}, "optimizer: .* the other way round"),
        ({"optimizer": (sgd, optax.sgd)}, "optimizer: .*, expected a pair"),
        ({"optimizer": (torch.optim.LBFGS, optax.sgd(0.1))}, "torch: LBFGS"),
        ({"lr": float("nan")}, "lr: nan, expected a finite number"),
        ({"epochs": 0}, "epochs: 0, expected 1"),
        ({"levels": ()}, "levels: none"),
        ({"known": [("no such", "", "why")]}, "known: no level 'no such'"),
        ({"accumulate": 50}, "accumulate: 50 batches a step, and 3"),
        ({"data": (X[:0], y[:0])}, "data: no example"),
        ({"data": X}, "data: a numpy.ndarray, expected"),
        ({"data": (X, y, X, None)}, "validation targets are None"),
        ({"data": (X, np.full((20, 3), np.nan, "f")), "loss": "mse"}, "targets: 60 numbers are"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(options, says):
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        checked(net(), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", ["jax", "torch"])
def test_errors_of_a_model_name_side_and_level_and_keep_its_words(side):
    def fails(outputs, targets):
        raise RuntimeError("my own words")

    right = {
        "torch": nn.functional.cross_entropy,
        "jax": lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean(),
    }
    loss = right | {side: fails}
    with pytest.raises(ValueError, match=f"level 'loss', .*{side}: .*my own words") as caught:
        checked(net(), loss=(loss["torch"], loss["jax"]), levels=("loss",))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("ends", [None, RuntimeError, KeyboardInterrupt])
def test_the_torch_model_stays_as_it_was(ends):
    model = net()
    model.register_buffer("seen", torch.zeros(2))
    model[0].weight.grad = torch.ones(4, 5)
    model[1].eval()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def loss(outputs, targets):
        if ends is not None and len(calls) > 3:
            raise ends("stop")
        return nn.functional.cross_entropy(outputs, targets)

    def held():
        tensors = [*model.parameters(), *model.buffers(), model[0].weight.grad]
        flags = [(t.dtype, t.requires_grad) for t in tensors]
        modes = [m.training for m in model.modules()]
        hooks = [len(m._forward_hooks) for m in model.modules()]
        random = torch.get_rng_state().tolist(), str(np.random.get_state())
        return [t.tolist() for t in tensors], flags, modes, hooks, random, sorted(vars(model))

    before = held()
    right = lambda z, y: optax.softmax_cross_entropy_with_integer_labels(z, y).mean()  # noqa: E731
    options = {"loss": (loss, right), "levels": ("logits", "step", "every step", "curve")}
    if ends is None:
        assert checked(model, **options).ok
    else:
        with pytest.raises((ValueError, KeyboardInterrupt)):
            checked(model, **options)
    assert held() == before
