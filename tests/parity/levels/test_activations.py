"""The ladder on models with other activations and spreads: bounds, levels, faults, commands."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_mlp.scratch
import torch_mlp
from mlp_core.activations import NAMES
from mlp_core.history import History
from parity.checking import check
from parity.cli import main
from parity.comparison import compare_trees
from parity.levels.ladder import LEVELS
from parity.problem import Examples, Problem
from parity.rounding.bound import bound
from parity.sides.pairs import book_pair, sides_of
from parity.sides.reference import ROUNDOFF, Reference
from parity.sides.side import SIDES

SMALL = {"epochs": 2, "batch_size": 32, "seed": 5}
FORMS = {
    "scratch": (jax_mlp.scratch.NATIVE, torch_mlp.MLPScratch.native),
    "concise": (jax_mlp.layers.NATIVE, torch_mlp.layers.NATIVE),
    "mixed": (jax_mlp.scratch.NATIVE, torch_mlp.layers.NATIVE),  # as a port of one's own may be
}
CURVED = NAMES[1:]


def pair(kind, activation, hiddens=(6, 6)):
    return book_pair(kind, hiddens, 0.1, 1, 12, 4, 0.5, activation)


def levels(*names):
    return [level for level in LEVELS if level.name in names]


# --- bounds ----------------------------------------------------------------------------------


def points(kind):
    """20,000 of them: dense around 0, and of every size up to 10^4, with cotangents of any size."""
    rng = np.random.default_rng(0)
    small = 10 ** rng.uniform(-42 if kind == np.float32 else -60, 4, 10_000)
    x = np.concatenate([rng.uniform(-12, 12, 10_000), small * rng.choice([-1, 1], 10_000)])
    return x.astype(kind), (rng.normal(size=20_000) * 10 ** rng.uniform(-3, 3, 20_000)).astype(kind)


def both_ways(f):
    def run(x, g):
        y, back = jax.vjp(f, x)
        return y, back(g)[0]

    return run


def torch_both_ways(f, x, g):
    leaf = torch.tensor(x, requires_grad=True)
    y = f(leaf)
    y.backward(torch.tensor(g))
    return y.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CURVED)
def test_an_activation_and_its_gradient_stay_within_their_bounds_at_any_size(name, form, dtype):
    ours, theirs = (getattr(ops, name) for ops in FORMS[form])
    x, g = points(np.dtype(dtype))
    run = both_ways(ours)
    found = bound(run, x, g, roundoff=ROUNDOFF[dtype])
    with jax.enable_x64(dtype == "float64"):
        mine = jax.device_get(jax.jit(run)(x, g))
    other = torch_both_ways(theirs, x, g)
    used = []
    for a, b, value, room in zip(mine, other, found.value, found.bound, strict=True):
        assert np.isfinite(room).all()
        if dtype == "float32":
            for computed in (a, b):
                used.append(np.max(np.abs(computed - value) / np.maximum(room, 1e-300)))
        else:
            used.append(np.max(np.abs(a - b) / np.maximum(2 * room, 1e-300)))
    assert max(used) <= 1, used
    assert min(used) > 0.01, used  # not vacuous


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_gelus_lie_outside_each_others_bounds(dtype):
    x = np.linspace(0.5, 3, 100).astype(dtype)
    x = np.concatenate([-x, x])
    g = np.ones_like(x)
    runs = {n: both_ways(getattr(jax_mlp.layers.NATIVE, n)) for n in ("gelu", "gelu_tanh")}
    for name, other in (("gelu", "gelu_tanh"), ("gelu_tanh", "gelu")):
        found = bound(runs[name], x, g, roundoff=ROUNDOFF[dtype])
        wrong = torch_both_ways(getattr(torch_mlp.layers.NATIVE, other), x, g)
        for computed, value, room in zip(wrong, found.value, found.bound, strict=True):
            outside = np.abs(computed - value) > room
            assert outside.mean() > 0.9  # the formulas cross here and there


@pytest.mark.parametrize(("kind", "dtype"), [("scratch", "float64"), ("mlp", "float32")])
@pytest.mark.parametrize("name", CURVED)
def test_random_networks_with_any_activation_stay_within_their_bounds(name, kind, dtype):
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 5).astype(np.int32)
    ours, theirs = book_pair(kind, (9,), 0.1, 0, 4, 3, activation=name)
    examples = Examples((np.zeros((5, 4), np.float32), y), 5)
    side, port = sides_of(Problem(theirs, ours, examples), dtype)
    reference, used = Reference(side), []
    for _ in range(40):
        size = 10 ** rng.uniform(-1.5, 1)
        params = {n: size * rng.normal(size=a.shape) for n, a in side.params().items()}
        side.load(params)
        port.load(params)
        X = rng.normal(size=(5, 4)) * 10 ** rng.uniform(-3, 1)
        X = X.astype(np.float32)
        expected = reference.evaluate(X, y)
        mine, other = (leaves(s.evaluate(X, y)) for s in (side, port))
        value, room = (leaves(e) for e in (expected.value, expected.bound))
        if dtype == "float32":
            room = {n: (1 + 2.0**-28) * r for n, r in room.items()}
            found = [c for one in (mine, other) for c in compare_trees(one, value, room)]
        else:
            found = compare_trees(mine, other, {n: 2 * r for n, r in room.items()})
        assert all(c.ok for c in found), "\n".join(str(c) for c in found if not c.ok)
        used.append(max(c.margin for c in found))
    assert np.median(used) > 1e-3  # not vacuous


def leaves(one):
    flat = {"logits": one.logits, "loss": one.loss}
    for part in ("gradients", "step"):
        flat |= {f"{part} {n}": leaf for n, leaf in getattr(one, part).items()}
    return flat


# --- levels ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_faithful_port_passes_every_level_that_can_be_asked(digits):
    verdict = check(*pair("mlp", "gelu"), data=digits, **SMALL)
    assert verdict.ok, verdict
    skipped = {r.level.name: r.skipped for r in verdict.results if r.skipped}
    assert set(skipped) == {"initial weights", "probes", "masks", "state", "same bits"}
    assert "ReLU perceptrons" in skipped["probes"] and "gelu" in skipped["same bits"]


@pytest.mark.parametrize(
    ("kind", "name", "other"),
    [("mlp", "gelu", "gelu_tanh"), ("mlp", "gelu_tanh", "gelu"), ("scratch", "tanh", "sigmoid")],
)
def test_another_activation_is_caught_at_the_logits_in_float32_too(digits, kind, name, other):
    ours, theirs = pair(kind, name, (6,))[0], pair(kind, other, (6,))[1]
    X, y, *validation = digits
    asked = [replace(*levels("logits"), precisions=("float32",))]
    data = X[:32], y[:32], *validation  # one batch, so one bound to compile
    verdict = check(ours, theirs, data=data, levels=[*levels("weights"), *asked], **SMALL)
    assert [r.ok for r in verdict.results] == [True, False], verdict


@pytest.mark.parametrize("kind", ["scratch", "mlp"])
@pytest.mark.parametrize("name", NAMES)
def test_bits_are_counted_wherever_numbers_pass_the_activation(digits, kind, name):
    (result,) = check(*pair(kind, name), data=digits, levels=levels("precision"), **SMALL).results
    if name == "sigmoid":
        assert "no number passes" in result.skipped
    else:
        assert result.ok and len(result.comparisons) == 2 * 7
        assert all("24.0 effective bits" in c.name for c in result.comparisons)


@pytest.mark.parametrize("name", ["tanh", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("low, bits", [(torch.bfloat16, 8), (torch.float32, 24)])
def test_a_product_of_few_bits_is_counted_through_an_activation(
    digits, monkeypatch, name, low, bits
):
    def linear(X, W, b):
        return X.to(low).to(X.dtype) @ W.to(low).to(X.dtype) + b

    native = torch_mlp.MLPScratch.native._replace(linear=linear)
    monkeypatch.setattr(torch_mlp.MLPScratch, "native", native)
    ours, theirs = pair("scratch", name)
    (result,) = check(ours, theirs, data=digits, levels=levels("precision"), **SMALL).results
    assert result.ok == (bits == 24)
    counted = {c.name.split(": ")[1] for c in result.comparisons if c.sides[0] == "torch"}
    assert f"{bits}.0 effective bits" in counted


@pytest.mark.parametrize("kind", ["scratch", "mlp"])
def test_the_book_pair_draws_by_sigma_and_by_its_models_own_ways_without(kind):
    def spread(sigma):
        ours, theirs = book_pair(kind, (64,), 0.1, 0, sigma=sigma)
        first = theirs.W1 if kind == "scratch" else theirs.net[1].weight
        mine = ours.W1 if kind == "scratch" else ours.net.layers[1].kernel[...]
        return float(jnp.std(mine)), float(first.detach().std())

    own = 0.01 if kind == "scratch" else 1 / np.sqrt(3 * 784)
    for sigma, expected in ((0.2, 0.2), (None, own)):
        # Of n draws the spread is known to 1 / sqrt(2n): five times that.
        assert spread(sigma) == pytest.approx((expected,) * 2, rel=5 / np.sqrt(2 * 784 * 64))


# --- commands --------------------------------------------------------------------------------

QUICK = ["--data", "sample", "--epochs", "1", "--hiddens", "8"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("model", ["scratch", "mlp"])
def test_train_takes_activation_and_sigma_and_writes_them_down(tmp_path, side, model):
    options = ["--activation", "gelu", "--sigma", "0.1", "--side", side, "--model", model]
    assert main(["train", *QUICK, *options, "--out", str(tmp_path)]) == 0
    about = History.load(tmp_path / "history.json").about["hyperparameters"]
    assert about["activation"] == "gelu" and about["sigma"] == 0.1


@pytest.mark.slow
def test_check_and_trajectory_take_activation_and_sigma(tmp_path, capsys):
    options = ["--model", "scratch", "--activation", "tanh", "--sigma", "0.1"]
    assert main(["check", *QUICK, *options, "--out", str(tmp_path / "check")]) == 0
    out = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    assert "AGREE" in out and "'probes' skipped: this level is for ReLU" in out
    where = ["--copies", "0", "--out", str(tmp_path / "trajectory")]
    assert main(["trajectory", *QUICK, *options, *where]) == 0
    assert "24 steps, all certified" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--activation", "swish"], ["--sigma", "-1"]])
def test_an_activation_or_a_sigma_that_is_none_is_a_usage_error(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["check", *options])
    assert caught.value.code == 2 and capsys.readouterr().err
