"""parity.sides.weights: which parameter is which, and how it lies on the other side."""

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from parity import check
from parity.sides.weights import Rearrangement, pair_names


class ConvNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(1, 3, (2, 3), padding="SAME", rngs=rngs)
        self.out = nnx.Linear(3 * 1 * 2, 4, rngs=rngs)

    def __call__(self, X):
        H = nnx.relu(self.conv(X.transpose(0, 2, 3, 1)))
        H = nnx.max_pool(H, (2, 2), (2, 2))
        return self.out(H.transpose(0, 3, 1, 2).reshape(len(X), -1))


def conv_net():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, (2, 3), padding="same"), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(6, 4),
    )  # fmt: skip


def moved(t):
    kernel = t["0.weight"].transpose(2, 3, 1, 0)
    return {
        "conv": {"kernel": kernel, "bias": t["0.bias"]},
        "out": {"kernel": t["4.weight"].T, "bias": t["4.bias"]},
    }


LEVELS = ("weights", "logits", "gradients", "step", "every step", "curve")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_a_function_turns_the_kernels_of_a_convolution(digits):
    verdict = check(
        conv_net(), ConvNet(), digits, weights=moved, batch_size=32, epochs=1, levels=LEVELS
    )
    assert verdict.ok, verdict
    assert [r.level.name for r in verdict.results if r.skipped] == []

    def upside_down(t):
        return moved(t) | {
            "conv": {"kernel": moved(t)["conv"]["kernel"][::-1], "bias": t["0.bias"]}
        }

    wrong = check(
        conv_net(), ConvNet(), digits, weights=upside_down, batch_size=32, levels=LEVELS[:2]
    )
    assert [r.ok for r in wrong.results] == [True, False, False]


def test_a_function_splits_and_joins(digits):
    """One matrix of Torch's, two of JAX's; two vectors of Torch's, one of JAX's."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.W = torch.nn.Parameter(torch.randn(12, 8))
            self.a, self.b = (torch.nn.Parameter(torch.randn(4)) for _ in range(2))

        def forward(self, X):
            left, right = (X.flatten(1) @ self.W).chunk(2, 1)
            return left * self.a + right * self.b

    def function(params, X):
        X, (a, b) = X.reshape(len(X), -1), params["scale"]
        return (X @ params["W"][0]) * a + (X @ params["W"][1]) * b

    params = {"W": [np.zeros((12, 4), np.float32)] * 2, "scale": np.zeros((2, 4), np.float32)}

    def weights(t):
        return {"W": np.split(t["W"], 2, axis=1), "scale": np.stack([t["a"], t["b"]])}

    verdict = check(
        Two(), (function, params), digits, weights=weights, batch_size=32, epochs=1, levels=LEVELS
    )
    assert verdict.ok, verdict
    swapped = check(
        Two(), (function, params), digits, batch_size=32, levels=["logits"],
        weights=lambda t: weights(t) | {"scale": np.stack([t["b"], t["a"]])},
    )  # fmt: skip
    assert not swapped.ok


@given(array_shapes(max_dims=3), array_shapes(max_dims=2), st.randoms(use_true_random=False))
def test_there_and_back_is_where_it_was(one, two, random):
    rng = np.random.default_rng(random.randrange(2**32))
    arrays = {"a": rng.random(one, np.float32), "b": rng.random(two, np.float32)}
    axes = rng.permutation(len(one))

    def function(t):
        return {"x": [t["a"].transpose(axes)], "y": {"z": jnp.asarray(t["b"])[::-1]}}

    moves = Rearrangement(function, arrays)
    there = moves.there(arrays)
    assert list(there) == ["x.0", "y.z"]
    np.testing.assert_array_equal(there["x.0"], arrays["a"].transpose(axes))
    back = moves.back(there)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


def test_more_elements_than_float32_counts_are_told_apart():
    arrays = {"a": np.zeros(2**24 + 9, np.float32)}
    moves = Rearrangement(lambda t: {"x": t["a"][::-1]}, arrays)
    arrays["a"][-1] = 1
    assert moves.there(arrays)["x"][0] == 1 and moves.there(arrays)["x"].sum() == 1


W = {"a": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "b": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    "function, words",
    [
        (lambda t: {"x": t["a"]}, "'b' comes out nowhere"),
        (lambda t: {"x": t["a"][:, 1:], "y": t["b"]}, "'a' comes out only in part"),
        (lambda t: {"x": t["a"], "y": t["b"], "z": t["b"]}, "'b' comes out more than once"),
        (lambda t: {"x": t["a"] * 0.5, "y": t["b"]}, "'x' has numbers that are no elements"),
        (lambda t: {"x": t["a"], "y": -t["b"]}, "'y' has numbers that are no elements"),
        (lambda t: {"x": t["a"], "y": np.append(t["b"], 0.25)}, "'y' has numbers that are no"),
        (lambda t: {"x": np.where(t["a"] < 1, -t["a"], t["a"]), "y": t["b"]}, "'x'"),
        (lambda t: {"x": t["a"].astype(np.float16), "y": t["b"]}, "changes the values of 'x'"),
        (lambda t: {"x": t["a"], "y": t["b"] * 0}, "'y' has numbers .* Torch's; 'b' comes out now"),
        (lambda t: {"x": t["a"], "y": t["b"] * 0 + 0.25}, "'y' has numbers that are no elements"),
        (
            lambda t: {"x": t["kernel"]},
            "^weights: the function fails: KeyError: 'kernel'; it is given a, b, NumPy arrays$",
        ),
        (lambda t: {"x": t["a"].permute(1, 0)}, "fails: AttributeError: .*permute.*NumPy arrays$"),
        (lambda t: {"x": "a", "y": "b"}, "function's 'x' is no array of numbers"),
        (lambda t: None, "'a' comes out nowhere; 'b' comes out nowhere"),
    ],
)
def test_a_function_that_does_more_than_move_elements_is_refused(function, words):
    with pytest.raises(ValueError, match=words):
        Rearrangement(function, W)


def test_arrays_of_other_shapes_are_not_brought_back():
    moves = Rearrangement(lambda t: {"x": t["a"].T, "y": t["b"]}, W)
    with pytest.raises(ValueError, match=r"\(2, 3\).*expected.*\(3, 2\)"):
        moves.back({"x": W["a"], "y": W["b"]})
    with pytest.raises(ValueError, match="expected"):
        moves.back({"x": W["a"].T})


def test_a_table_that_cannot_help_points_to_a_function():
    jax_params = {"kernel": np.zeros((2, 3, 1, 4))}
    with pytest.raises(ValueError, match=r"has shape \(2, 3, 1, 4\).*pass weights=function"):
        pair_names(jax_params, {"weight": np.zeros((4, 1, 2, 3))}, {"kernel": "weight"})


@pytest.mark.parametrize(
    "table, words",
    [
        ({"w": "a.weight"}, "partner; without one in jax: b; without one in torch: a.bias; pass"),
        ({"a.weight": "w"}, "partner; without one in jax: b; without one in torch: a.bias; pass"),
        ({"w": "a.weight", "b": "a.biass"}, "in torch: a.bias; of this name .* in torch: a.biass"),
        ({"v": "a.weight", "b": "a.bias"}, "one in jax: w; of this name there is none in jax: v"),
        ({}, "partner; pass"),
    ],
)
def test_a_table_with_a_gap_says_what_lacks_a_partner(table, words):
    theirs = {"a.weight": np.zeros((2, 3)), "a.bias": np.zeros(3)}
    with pytest.raises(ValueError, match=words):
        pair_names({"w": np.zeros((2, 3)), "b": np.zeros(3)}, theirs, table)


def test_the_names_of_a_function_must_be_those_of_the_jax_model(digits):
    with pytest.raises(ValueError, match=r"not every parameter has a partner.*\n.*conv.bias"):
        check(conv_net(), ConvNet(), digits, weights=lambda t: t, levels=["weights"])


def test_the_function_of_a_model_can_take_any_tree_of_parameters(digits):
    theirs = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    tree = [(np.zeros((12, 4), np.float32), {"b": jax.numpy.zeros(4)})]

    def function(params, X):
        ((W, rest),) = params
        return X.reshape(len(X), -1) @ W + rest["b"]

    table = {"0.0": "1.weight", "0.1.b": "1.bias"}
    levels = ("weights", "logits", "step")
    assert check(theirs, (function, tree), digits, weights=table, levels=levels).ok
