"""parity.sides.guess: which parameter is which, where it is clear, and never where it isn't."""

import sys
from pathlib import Path

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parity import check
from parity.problem import Examples, Problem
from parity.sides.guess import guess
from parity.sides.pairs import JaxSide, guessed
from parity.sides.torch_layers import layer_kinds
from parity.trees import leaves

sys.path.insert(0, str(Path(__file__).parents[2] / "ports"))
from catalogue import FAMILIES

DENSE = "linear"


def numbered(shapes):
    """Arrays of these shapes in which no two elements are equal."""
    ends = np.cumsum([0, *map(np.prod, shapes.values())])
    return {
        name: np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)
        for (name, shape), start in zip(shapes.items(), ends[:-1], strict=True)
    }


def pasted(text):
    scope = {}
    exec(text if text.startswith("def") else f"weights = {text}", scope)
    return scope["weights"]


def linear(shapes):
    return {n: DENSE for n, shape in shapes.items() if len(shape) == 2}


def layers(widths, names):
    """(JAX's shapes, Torch's) of linear layers, called by (JAX's, Torch's) names."""
    jax, theirs = {}, {}
    for (a, b), inputs, outputs in zip(names, widths, widths[1:], strict=False):
        jax |= {f"{a}.kernel": (inputs, outputs), f"{a}.bias": (outputs,)}
        theirs |= {f"{b}.weight": (outputs, inputs), f"{b}.bias": (outputs,)}
    return jax, theirs


def table(names):
    return {
        f"{a}.{ours}": f"{b}.{theirs}"
        for a, b in names
        for ours, theirs in (("kernel", "weight"), ("bias", "bias"))
    }


@given(st.permutations(range(2, 9)), st.permutations("abcdef"), st.permutations("uvwxyz"))
def test_layers_of_distinct_widths_are_found_whatever_they_are_called(widths, ours, theirs):
    names = [*zip(ours, theirs, strict=True)]
    jax, torchs = layers(widths, names)
    found = guess(dict(sorted(jax.items())), torchs, linear(torchs))
    assert pasted(found.text) == table(names)


@given(st.permutations("abcd"))
def test_layers_of_one_shape_with_unrelated_names_are_refused(ours):
    jax, torchs = layers([5] * 4 + [3], [*zip(ours, "uvwx", strict=True)])
    with pytest.raises(ValueError, match="cannot guess") as refused:
        guess(jax, torchs, linear(torchs))
    text = str(refused.value)
    assert f'"{ours[3]}.kernel": t["x.weight"].T' in text
    for name in ours[:3]:
        assert f'jax \'{name}.kernel\' (5, 5) fits t["u.weight"].T or t["v.weight"].T' in text
        assert f'"{name}.kernel": ...' in text


def test_layers_of_one_shape_are_told_by_the_order_of_their_numbers():
    names = [(f"Dense_{i}", str(2 * i)) for i in range(12)]
    jax, torchs = layers([4] * 13, names)
    found = guess(dict(sorted(jax.items())), torchs, linear(torchs))
    assert pasted(found.text) == table(names)


def test_names_tell_layers_of_one_shape():
    ours = [f"attention.{name}" for name in ("query", "key", "value", "out")]
    names = [*zip(ours, (f"self_attn.{letter}_proj" for letter in "qkvo"), strict=True)]
    jax, torchs = layers([4] * 5, names)
    assert pasted(guess(jax, torchs, linear(torchs)).text) == table(names)


def test_two_numbers_in_another_place_are_no_order():
    names = [(f"norm{j}.{i}", f"layers.{i}.norm{j}") for i in range(2) for j in range(2)]
    jax, torchs = layers([4] * 5, names)
    with pytest.raises(ValueError, match="cannot guess"):
        guess(jax, torchs, linear(torchs))


@pytest.mark.parametrize(
    "name, choices", [("kernel", 1), ("W", 1), ("w", 1), ("q", 2), ("q.weight", 2)]
)
def test_a_square_matrix_is_turned_where_its_name_says_so_and_else_refused(name, choices):
    def found():
        return guess({name: (4, 4)}, {"weight": (4, 4)}, {"weight": DENSE})

    if choices == 1:
        assert pasted(found().text) == {name: "weight"}
    else:
        with pytest.raises(ValueError, match=r'fits t\["weight"\].T or t\["weight"\]\n'):
            found()


def test_a_matrix_that_fits_as_torch_has_it_is_taken_so():
    found = guess({"W": (3, 4)}, {"weight": (3, 4)}, {"weight": DENSE})
    array = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(found({"weight": array})["W"], array)
    assert found.text.startswith("def")  # a table would turn it


def test_a_torch_parameter_that_no_one_takes_is_refused():
    torchs = {"weight": (3, 4), "lone": (7,)}
    with pytest.raises(ValueError, match=r"these of Torch's have none:\s+torch, left: lone"):
        guess({"kernel": (4, 3)}, torchs, {"weight": DENSE})


def test_a_kernel_with_a_head_axis_is_the_turned_matrix_cut():
    torchs = {"q_proj.weight": (6, 4), "q_proj.bias": (6,)}
    found = guess(
        {"query.kernel": (4, 3, 2), "query.bias": (3, 2)}, torchs, {"q_proj.weight": DENSE}
    )
    given = numbered(torchs)
    moved = found(given)
    assert np.array_equal(moved["query.kernel"], given["q_proj.weight"].T.reshape(4, 3, 2))
    assert np.array_equal(moved["query.bias"], given["q_proj.bias"].reshape(3, 2))


def test_a_transposed_convolution_lies_as_its_shape_says():
    torchs = {"weight": (2, 5, 3, 4)}
    given = numbered(torchs)["weight"]
    for shape, expected in (
        ((3, 4, 5, 2), given.transpose(2, 3, 1, 0)),
        ((3, 4, 2, 5), given.transpose(2, 3, 0, 1)[::-1, ::-1]),
    ):
        found = guess({"kernel": shape}, torchs, {"weight": "transposed"})
        assert np.array_equal(found({"weight": given})["kernel"], expected)
        assert np.array_equal(pasted(found.text)({"weight": given})["kernel"], expected)
    with pytest.raises(ValueError, match="cannot guess"):
        guess({"kernel": (3, 3, 3, 3)}, {"weight": (3, 3, 3, 3)}, {"weight": "transposed"})


TWO = {"0.weight": (8, 6), "0.bias": (8,), "2.weight": (4, 8), "2.bias": (4,)}


@pytest.mark.parametrize(
    "ours",
    [
        {"0.0": (6, 8), "0.1": (8,), "1.0": (8, 4), "1.1": (4,)},
        {"0.1": (6, 8), "0.0": (8,), "1.1": (8, 4), "1.0": (4,)},
        {"0": (6, 8), "1": (8,), "2": (8, 4), "3": (4,)},
        {"p": (6, 8), "q": (8,), "r": (8, 4), "s": (4,)},
        {"0.0": (6, 8), "0.1": (8,), "out.W": (8, 4), "out.b": (4,)},
        {"x": (6, 8), "b1": (8,), "y": (8, 4), "b2": (4,)},
    ],
)
def test_names_without_a_role_are_told_by_their_shapes(ours):
    arrays = numbered(TWO)
    expected = (arrays[n].T for n in TWO)
    for name, right in zip(ours, expected, strict=True):
        assert np.array_equal(guessed_arrays(ours, TWO)[name], right)


def guessed_arrays(ours, theirs):
    found = guess(ours, theirs, linear(theirs))
    return found(numbered(theirs))


def test_equal_layers_in_a_list_are_told_by_their_order_but_for_how_a_square_lies():
    theirs = {f"{i}.{n}": s for i in (0, 2) for n, s in (("weight", (4, 4)), ("bias", (4,)))}
    ours = {f"{i}.{j}": s for i in (0, 1) for j, s in ((0, (4, 4)), (1, (4,)))}
    with pytest.raises(
        ValueError, match=r"'0.0' \(4, 4\) fits t\[\"0.weight\"\].T or t\[\"0.w"
    ) as e:
        guess(ours, theirs, linear(theirs))
    assert '"1.1": t["2.bias"]' in str(e.value)


def test_names_that_tell_nothing_are_refused_with_all_that_fits():
    theirs = {f"{i}.{n}": s for i in (0, 2) for n, s in (("weight", (4, 4)), ("bias", (4,)))}
    with pytest.raises(ValueError) as error:
        guess({"p": (4, 4), "q": (4, 4), "r": (4,), "s": (4,)}, theirs, linear(theirs))
    both = (f't["{i}.weight"]{turn}' for i in (0, 2) for turn in (".T", ""))
    assert f"'p' (4, 4) fits {' or '.join(both)}" in str(error.value)
    assert """'r' (4,) fits t["0.bias"] or t["2.bias"]""" in str(error.value)


def test_a_scale_and_a_shift_without_names_are_refused():
    for ours in ({"0.0": (4,), "0.1": (4,)}, {"p": (4,), "q": (4,)}, {"0": (4,), "1": (4,)}):
        with pytest.raises(ValueError, match=r'fits t\["n.weight"\] or t\["n.bias"\]'):
            guess(ours, {"n.weight": (4,), "n.bias": (4,)}, {})


# Guessed, a gate order or a permutation inside a matrix would be a claim that nothing bears out.
REFUSED = {
    "transposed convolution", "LSTM", "LSTM both ways, two layers", "GRU", "residual block",
    "rotary embedding, interleaved", "rotary embedding, in halves with permuted weights",
}  # fmt: skip


def expected_arrays(port, arrays, kinds):
    how = port.weights
    if callable(how):
        return leaves(how({name: array.copy() for name, array in arrays.items()}))
    turned = {n: a.T if kinds.get(n) == "linear" else a for n, a in arrays.items()}
    return {ours: turned[theirs] for ours, theirs in how.items()}


def outcome(port):
    """ "right", "wrong" or "refused"."""
    model = port.torch()
    problem = Problem(model, port.jax(), Examples(tuple(port.data()), 4), weights="guess")
    arrays = numbered({name: tuple(p.shape) for name, p in model.named_parameters()})
    try:
        found = guessed(problem).weights
    except ValueError as error:
        assert "cannot guess" in str(error)
        return "refused"
    kinds = layer_kinds(model)
    expected, paste = expected_arrays(port, arrays, kinds), pasted(found.text)
    if not callable(paste):
        tabled = {n: a.T if kinds.get(n) == "linear" else a for n, a in arrays.items()}
        ours = JaxSide(port.jax(), problem.examples)
        there = {a: tabled[b].T if a in ours.turned else tabled[b] for a, b in paste.items()}
    else:
        there = paste(arrays)
    moved = found(arrays)
    assert moved.keys() == there.keys()
    assert all(np.array_equal(moved[n], there[n]) for n in moved), found.text
    same = moved.keys() == expected.keys() and all(
        np.array_equal(moved[n], expected[n]) for n in moved
    )
    return "right" if same else "wrong"


@pytest.mark.slow
def test_of_all_ports_none_is_guessed_wrongly_and_most_are_guessed():
    found = {
        port.name: outcome(port)
        for port in FAMILIES
        if not port.needs or pytest.importorskip(port.needs)
    }
    assert "wrong" not in found.values(), found
    refused = {name for name, how in found.items() if how == "refused"}
    assert refused == REFUSED, f"{len(found) - len(refused)} of {len(found)} guessed: {refused}"


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, X):
        return self.last(jnp.tanh(self.first(X)))


def test_check_guesses_once_says_so_and_agrees(capsys):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(6, 4)).astype("float32"), rng.integers(0, 3, 6)
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    verdict = check(theirs, Net(), data, weights="guess", levels=("logits",), batch_size=6)
    assert verdict.ok, verdict
    said = capsys.readouterr().err
    assert said.count('"first.kernel": "0.weight"') == 1
    assert any(note.startswith("weights were guessed:") for note in verdict.notes)
    assert '"last.bias": "2.bias"' in verdict.about["weights were guessed"]
