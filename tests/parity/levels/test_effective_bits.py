"""parity.levels.effective_bits: what decides where no rounding bound can be had."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity import check
from parity.levels import evaluated
from parity.levels.effective_bits import same_bits, same_in_float64


class Transformed(torch.nn.Module):
    def __init__(self, off=0.0):
        super().__init__()
        self.a, self.b, self.off = torch.nn.Linear(12, 6), torch.nn.Linear(6, 4), off

    def forward(self, X):
        return self.b(torch.fft.fft(self.a(X.flatten(1))).real * (1 + self.off))


def transformed_model(params, X):
    H = X.reshape(len(X), -1) @ params["a.kernel"] + params["a.bias"]
    return jnp.fft.fft(H).real @ params["b.kernel"] + params["b.bias"]


PARAMS = {
    f"{name}.{part}": np.zeros(shape, np.float32)
    for name, sizes in (("a", (12, 6)), ("b", (6, 4)))
    for part, shape in (("kernel", sizes), ("bias", sizes[1:]))
}
TABLE = {name: name.replace("kernel", "weight") for name in PARAMS}


@pytest.fixture(scope="module")
def verdict(digits):
    torch.manual_seed(0)
    options = dict(weights=TABLE, batch_size=32, epochs=1)
    return check(Transformed(), (transformed_model, PARAMS), digits, **options)


def test_a_model_without_a_rounding_bound_is_judged_all_the_same(verdict):
    assert verdict.ok, verdict
    judged = [r.level.name for r in verdict.results if not r.skipped]
    assert {"logits", "loss", "gradients", "step", "curve"} <= set(judged)


def test_the_notes_say_why(verdict):
    notes = {r.level.name: r.note or r.skipped for r in verdict.results}
    for level in ("logits", "gradients", "step", "every step"):
        assert "of complex numbers has no rounding rule" in notes[level]
        assert "test_effective_bits.py" in notes[level]


@pytest.mark.parametrize("off", [1e-11, 1e-4])
def test_it_is_caught_where_it_computes_something_else(digits, off):
    torch.manual_seed(0)
    levels = ("logits", "gradients")
    options = dict(weights=TABLE, batch_size=32, levels=levels)
    verdict = check(Transformed(off), (transformed_model, PARAMS), digits, **options)
    found = {(r.level.name, r.precision): r.ok for r in verdict.results}
    assert not found["logits", "float64"] and not found["gradients", "float64"]
    assert found["logits", "float32"] == (off < 1e-7)


def draw(bits, seed=0, n=4000):
    """(values, the same with errors of one rounding to so many bits)"""
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=n)
    return exact, exact * (1 + rng.uniform(-1, 1, n) * 2.0**-bits)


def test_float32_on_both_sides_has_the_same_bits():
    exact, own = draw(24)
    _, other = draw(24, 0)
    assert all(c.ok for c in same_bits(exact, {"jax": own, "torch": other[:]}, "x"))


@pytest.mark.parametrize("side", ["jax", "torch"])
def test_tf32_on_one_side_is_named(side):
    exact, own = draw(24)
    _, short = draw(11)
    sides = {"jax": own, "torch": own} | {side: short}
    assert [c.sides[0] for c in same_bits(exact, sides, "x") if not c.ok] == [side]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_fails(wrong):
    exact, own = draw(24)
    bad = own.copy()
    bad[7] = wrong
    assert not all(c.ok for c in same_bits(exact, {"jax": bad, "torch": bad}, "x"))
    both = {"jax": bad, "torch": bad}
    assert not same_in_float64(both, both, "x").ok


def test_other_shapes_fail():
    exact, own = draw(24)
    assert not all(c.ok for c in same_bits(exact, {"jax": own, "torch": own[:-1]}, "x"))
    sides = {"jax": exact, "torch": exact[:-1]}
    assert not same_in_float64(sides, {"jax": own, "torch": own}, "x").ok


def test_float64_may_differ_by_what_rounding_does_there_and_no_more():
    exact, own = draw(24)
    floats = {"jax": own, "torch": own}
    honest = exact * (1 + 2.0**-52)
    assert same_in_float64({"jax": exact, "torch": honest}, floats, "x").ok
    wrong = exact.copy()
    wrong[5] *= 1 + 1e-11
    found = same_in_float64({"jax": exact, "torch": wrong}, floats, "x")
    assert not found.ok and found.index == (5,)


class Rectified(torch.nn.Module):
    """off: what is added to the hidden units and taken off again, which only rounds them."""

    def __init__(self, off=0.0):
        super().__init__()
        self.a, self.b, self.off = torch.nn.Linear(12, 6), torch.nn.Linear(6, 4), off

    def forward(self, X):
        H = torch.fft.fft(torch.relu(self.a(X) + self.off - self.off)).real
        return self.b(H)


def rectified(params, X, slip=0.0):
    H = jax.nn.relu(X @ params["a.kernel"] + params["a.bias"])
    H = jnp.fft.fft(H).real * (1 + slip * (H.dtype == np.float32))
    return H @ params["b.kernel"] + params["b.bias"]


def judged_beside_a_kink(theirs, ours):
    """One example, whose first hidden unit is 3e-6: the rest of 1.0 and of the bias."""
    torch.manual_seed(0)
    model, rng = theirs, np.random.default_rng(0)
    with torch.no_grad():
        model.a.weight[0, 1:], model.a.weight[0, 0], model.a.bias[0] = 0, 1, -1 + 3e-6
    X, y = rng.normal(size=(4, 12)).astype("float32"), rng.integers(0, 4, 4)
    X[:, 0] = 1
    options = {"weights": TABLE, "batch_size": 4, "levels": ("gradients",)}
    verdict = check(model, (ours, PARAMS), (X, y), **options)
    noted = verdict.results[-1].note.endswith("weights off by up to 91 roundings of float32")
    assert noted or verdict.results[-1].ok
    return {r.precision: r.ok for r in verdict.results}


@pytest.mark.parametrize("further", [evaluated.FURTHER, 0])
def test_a_sign_that_rounding_turns_on_one_side_is_no_difference(further, monkeypatch):
    monkeypatch.setattr(evaluated, "FURTHER", further)
    found = judged_beside_a_kink(Rectified(128.0), rectified)
    assert found == {"float64": True, "float32": bool(further)}


def test_a_float32_run_of_fewer_bits_is_one_beside_a_turned_sign_too():
    found = judged_beside_a_kink(Rectified(128.0), partial(rectified, slip=2.0**-6))
    assert found == {"float64": True, "float32": False}
