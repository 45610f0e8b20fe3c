import hashlib
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from mlp_core.weights import LAYOUTS, Weights, WeightsError, initial, read_safetensors

widths = st.lists(st.integers(1, 6), min_size=2, max_size=12)


def random_weights(sizes, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:], strict=False), 1):
        arrays[f"W{i}"] = rng.standard_normal((inputs, outputs)).astype(np.float32)
        arrays[f"b{i}"] = rng.standard_normal(outputs).astype(np.float32)
    return Weights(arrays)


@given(sizes=widths, layout=st.sampled_from(sorted(LAYOUTS)))
def test_every_layout_round_trips_to_the_same_bits(sizes, layout):
    weights = random_weights(sizes)
    back = Weights(weights.to_layout(layout), sizes=sizes)
    assert list(back) == list(weights) and back.sizes == tuple(sizes)
    for name in weights:
        assert back[name].tobytes() == weights[name].tobytes()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_round_trip_to_the_same_bits(tmp_path, layout):
    weights = random_weights([5, 4, 4, 3])
    path = weights.save(tmp_path / "deep" / "w.safetensors", layout)
    back = Weights.load(path, sizes=[5, 4, 4, 3])
    assert all(back[name].tobytes() == weights[name].tobytes() for name in weights)
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]  # no temporary left


def test_torch_layout_is_out_by_in_and_square_kernels_are_turned_too():
    weights = random_weights([3, 3, 3])
    named = weights.to_layout("torch")
    assert list(named) == ["net.1.weight", "net.1.bias", "net.3.weight", "net.3.bias"]
    np.testing.assert_array_equal(named["net.3.weight"], weights["W2"].T)


def test_a_sequential_counted_from_zero_is_read_in_numeric_order():
    weights = random_weights([2] * 8)
    renamed = {}
    for i in range(7):
        renamed[f"{2 * i}.weight"] = weights[f"W{i + 1}"].T
        renamed[f"{2 * i}.bias"] = weights[f"b{i + 1}"]
    back = Weights(dict(sorted(renamed.items())))  # "10.bias" sorts before "2.bias"
    np.testing.assert_array_equal(back["W6"], weights["W6"])


def test_all_problems_are_listed_at_once(tmp_path):
    good = dict(random_weights([4, 3, 2]))
    good["b1"] = good["b1"].astype(np.float64)
    good["W2"][0, 1] = np.nan
    good["stray"] = good.pop("b2")
    with pytest.raises(WeightsError) as caught:
        Weights(good, where="file.safetensors")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for part in (
        "file.safetensors",
        "'b2' is missing",
        "'stray'",
        "'b1' is float64",
        "1 non-finite",
    ):
        assert part in text


def test_a_transposed_matrix_is_named_with_both_shapes_and_the_likely_cause():
    arrays = dict(random_weights([4, 3, 2]))
    arrays["W1"] = arrays["W1"].T.copy()
    with pytest.raises(
        WeightsError, match=r"'W1' has shape \(3, 4\), expected \(4, 3\); transposed"
    ):
        Weights(arrays, sizes=[4, 3, 2])


def test_shapes_in_errors_are_as_the_file_has_them():
    arrays = random_weights([4, 3, 2]).to_layout("torch")
    with pytest.raises(WeightsError, match=r"'net.1.weight' has shape \(3, 4\), expected \(3, 5\)"):
        Weights(arrays, sizes=[5, 3, 2])


def test_wrong_depth_is_refused():
    with pytest.raises(WeightsError, match="2 layers, expected 1"):
        Weights(random_weights([4, 3, 2]), sizes=[4, 2])


@pytest.mark.parametrize(
    "arrays", [{}, {"x": np.zeros(3, np.float32)}, {"W99999999": np.zeros((1, 1), np.float32)}]
)
def test_foreign_names_are_refused_quickly(arrays):
    with pytest.raises(WeightsError):
        Weights(arrays)


def test_half_precision_is_refused_from_the_header(tmp_path):
    path = tmp_path / "half.safetensors"
    save_file({"W1": np.zeros((2, 2), np.float16), "b1": np.zeros(2, np.float32)}, path)
    with pytest.raises(WeightsError, match="half.safetensors.*\n.*'W1' is F16, expected F32"):
        Weights.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="none.safetensors"):
        Weights.load(tmp_path / "none.safetensors")


@given(data=st.data())
def test_damaged_files_never_raise_anything_but_weights_error(data, tmp_path_factory):
    content = bytearray(save(dict(random_weights([3, 2]))))
    cut = data.draw(st.integers(0, len(content)))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "w.safetensors"
    path.write_bytes(content[:cut])
    try:
        assert Weights.load(path).sizes
    except WeightsError as error:
        assert str(path) in str(error)


def test_a_pickle_is_no_weights_file(tmp_path):
    path = tmp_path / "evil.safetensors"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(WeightsError):
        read_safetensors(path)


def test_initial_weights_are_fixed_bits_uniform_in_one_over_the_root_of_the_inputs():
    w = initial((784, 256, 10), seed=0)
    assert w.sizes == (784, 256, 10)
    for name, inputs in (("W1", 784), ("b1", 784), ("W2", 256)):
        spread = np.float32(inputs**-0.5)
        assert 0.95 * spread < np.abs(w[name]).max() <= spread
        assert abs(w[name].std() * 3**0.5 / spread - 1) < 0.1
    # Pinned: every published hash begins here, on every machine and NumPy version.
    digest = hashlib.sha256(b"".join(a.tobytes() for a in w.values())).hexdigest()
    assert digest.startswith("327c2ab5a0ee73a3")
    assert not np.array_equal(initial((784, 256, 10), seed=1)["W1"], w["W1"])


@pytest.mark.parametrize("shape", [[1] * 65, [2**32 - 1, 2**32 - 1, 0], [0, 3], [1] * 200])
def test_a_header_of_impossible_shapes_is_refused(tmp_path, shape):
    size = 0 if 0 in shape else 4
    head = json.dumps({"W1": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    (tmp_path / "w").write_bytes(struct.pack("<Q", len(head)) + head + bytes(size))
    with pytest.raises(WeightsError, match="'W1' has shape"):
        Weights.load(tmp_path / "w")
