"""The JAX and the Torch run of one training have the same bits, however each is computed.

As a program, `test_same_bits.py SIDE [DEVICES]` trains one side and prints its hashes: so that a
variant that must be chosen before the frameworks start gets a process of its own.
"""

import contextlib
import hashlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

EXAMPLES, BATCH, STEPS = 904, 96, 40  # the last of ten batches has 40 examples
SIZES = (784, 64, 10)
LR, MOMENTUM, CLIP = 0.05, 0.9, 1.5
ROOT = Path(__file__).parents[3]


def uniform(key: int, *shape: int) -> np.ndarray:
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape)))
    return ((bits >> 40).astype(np.float32) * 2.0**-23 - 1).reshape(shape).astype(np.float32)


def problem() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Weights of a network, blurred class patterns as bytes (one image blank), labels."""
    params = {}
    for i, (rows, columns) in enumerate(zip(SIZES, SIZES[1:], strict=False), start=1):
        params[f"W{i}"] = uniform(i, rows, columns) * np.float32(rows**-0.5)
        params[f"b{i}"] = np.zeros(columns, np.float32)
    labels = np.arange(EXAMPLES, dtype=np.int32) * 7 % 10
    patterns, noise = uniform(20, 10, 784), uniform(21, EXAMPLES, 784)
    images = np.clip(patterns[labels] * 160 + noise * 120, 0, 255).astype(np.uint8)
    images[3] = 0
    return params, images, labels


def batches(reverse: bool) -> Iterator[np.ndarray]:
    for step in range(STEPS):
        start = BATCH * step % (EXAMPLES + BATCH - EXAMPLES % BATCH)
        indices = np.arange(start, min(start + BATCH, EXAMPLES))
        yield indices[::-1].copy() if reverse else indices


def digest(params: dict[str, np.ndarray], losses: list[np.ndarray]) -> str:
    """SHA-256 over the bytes of the weights in the order of their names, then of the losses."""
    arrays = [np.asarray(params[name]) for name in sorted(params)] + [np.asarray(x) for x in losses]
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def loss(ops, params, X, y):
    hidden = ops.relu(ops.linear(X, params["W1"], params["b1"]), 0.5)
    return ops.softmax_cross_entropy(ops.linear(hidden, params["W2"], params["b2"]), y)


def train_jax(reverse: bool = False, devices: int = 0) -> str:
    import jax

    from jax_mlp import reproducible as ops

    @jax.jit
    def step(params, velocity, X, y):
        value, grads = jax.value_and_grad(lambda params: loss(ops, params, X, y))(params)
        return *ops.sgd(params, grads, LR, momentum=MOMENTUM, velocity=velocity, clip=CLIP), value

    params, images, labels = problem()
    velocity = {name: np.zeros_like(value) for name, value in params.items()}
    place = whole = None
    if devices:
        mesh = jax.make_mesh(
            (devices,), ("batch",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:devices]
        )
        whole, place = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((), ("batch",)))
    params, velocity = jax.device_put((params, velocity), whole)
    losses = []
    for indices in batches(reverse):
        batch = jax.device_put((images[indices], labels[indices]), place)
        params, velocity, value = step(params, velocity, *batch)
        losses.append(value)
    if devices == 8:  # or the devices did not share the work, and the test shows nothing
        assert "all-reduce" in step.lower(params, velocity, *batch).compile().as_text()
    return digest(params, losses)


def train_torch(reverse: bool = False) -> str:
    import torch

    from torch_mlp import reproducible as ops

    arrays, images, labels = problem()
    params = {name: torch.from_numpy(value) for name, value in arrays.items()}
    X, y = torch.from_numpy(images), torch.from_numpy(labels)
    velocity, losses = None, []
    for indices in batches(reverse):
        leaves = {name: value.requires_grad_() for name, value in params.items()}
        value = loss(ops, leaves, X[indices], y[indices])
        grads = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
        params, velocity = ops.sgd(
            leaves, grads, LR, momentum=MOMENTUM, velocity=velocity, clip=CLIP
        )
        losses.append(value.detach().numpy())
    return digest({name: value.numpy() for name, value in params.items()}, losses)


def in_a_process(*arguments: str, **environment: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-W", "error", __file__, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """On shared cores the threads of small operations wait for each other: seconds, not bits."""
    import torch

    threads = torch.get_num_threads()
    yield torch.set_num_threads(1)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def jax_hash() -> str:
    return train_jax()


def test_jax_and_torch_train_to_the_same_bits(jax_hash: str) -> None:
    assert train_torch() == jax_hash


@pytest.mark.parametrize("train", [train_jax, train_torch])
def test_the_order_of_examples_in_a_batch_changes_no_bit(train, jax_hash: str) -> None:
    assert train(reverse=True) == jax_hash


@pytest.mark.slow
def test_jax_without_float64_trains_to_the_same_bits(jax_hash: str) -> None:
    from jax_mlp.exact import integers_alone

    with integers_alone():
        assert train_jax() == jax_hash


@pytest.mark.slow
def test_eager_and_jitted_jax_agree() -> None:
    import jax

    from jax_mlp import reproducible as ops

    params, images, labels = jax.tree.map(jax.numpy.asarray, problem())
    value_and_grad = jax.value_and_grad(lambda *batch: loss(ops, *batch))
    batch = (params, images[:9], labels[:9])
    eager, jitted = value_and_grad(*batch), jax.jit(value_and_grad)(*batch)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)


@pytest.mark.parametrize(
    "flags",
    [
        "--xla_cpu_max_isa=AVX2",
        pytest.param("--xla_cpu_multi_thread_eigen=false", marks=pytest.mark.slow),
    ],
)
def test_jax_has_one_result_on_every_code_path(flags: str, jax_hash: str) -> None:
    assert in_a_process("jax", XLA_FLAGS=flags) == [jax_hash]


@pytest.mark.slow
def test_a_batch_over_2_4_8_devices_gives_the_same_bits(jax_hash: str) -> None:
    flags = "--xla_force_host_platform_device_count=8"
    assert in_a_process("jax", "2", "4", "8", XLA_FLAGS=flags) == [jax_hash] * 3


@pytest.mark.parametrize(
    "environment",
    [
        {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "OMP_NUM_THREADS": "1"},
        pytest.param(
            {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}, marks=pytest.mark.slow
        ),
    ],
    ids=["AVX2", "two threads"],
)
def test_torch_has_one_result_on_every_code_path(
    environment: dict[str, str], jax_hash: str
) -> None:
    assert in_a_process("torch", **environment) == [jax_hash]


def wild(key: int, *shape: int) -> np.ndarray:
    """float32 of every magnitude: subnormals, -0, numbers near the largest; now and then a NaN."""
    bits = np.random.Philox(key=key).random_raw(int(np.prod(shape))).astype(np.uint32)
    values = bits.view(np.float32).reshape(shape).copy()
    if key % 3:  # mostly finite, since one NaN spoils the row that it is in
        values[~np.isfinite(values)] = -0.0
    with np.errstate(invalid="ignore"):
        return values * np.float32(2.0**-40) if key % 2 else values


def wild_operands(key: int, batch: int, inputs: int, classes: int) -> tuple[np.ndarray, ...]:
    X, W, dY = wild(key, batch, inputs), wild(key, inputs, classes), wild(key, batch, classes)
    b, logits = wild(key, classes), uniform(key, batch, classes) * np.float32(10.0 ** (key % 4))
    labels = (np.arange(batch, dtype=np.int32) + key) % classes
    return X, (X.view(np.uint32) >> 24).astype(np.uint8), W, b, dY, logits, labels


def operations_jax(X, X_bytes, W, b, dY, logits, labels) -> list:
    import jax

    from jax_mlp.reproducible import linear, relu, sgd, softmax_cross_entropy

    Y, pull = jax.vjp(linear, X, W, b)
    Y_bytes, pull_bytes = jax.vjp(lambda W, b: linear(X_bytes, W, b), W, b)
    hidden = [jax.vjp(lambda Y, tie=tie: relu(Y, tie), dY) for tie in (0.0, 0.5)]
    loss, dlogits = jax.value_and_grad(softmax_cross_entropy)(logits, labels)
    state, grads, velocity = {"W": W, "b": b}, {"W": W[::-1], "b": dY[0]}, {"W": -W, "b": dY[-1]}
    updates = [
        sgd(state, grads, 0.1, momentum=momentum, velocity=velocity, clip=clip)[0]
        for momentum, clip in ((0.0, None), (0.9, None), (0.9, 2.0))
    ]
    result = [Y, *pull(dY), Y_bytes, *pull_bytes(dY), loss, dlogits]
    result += [x for H, pull in hidden for x in (H, *pull(Y))]
    return result + [x for update in updates for x in update.values()]


def operations_torch(X, X_bytes, W, b, dY, logits, labels) -> list:
    import torch

    from torch_mlp.reproducible import linear, relu, sgd, softmax_cross_entropy

    arrays = (X, X_bytes, W, b, dY, logits, labels)
    X, X_bytes, W, b, dY, logits, labels = map(torch.from_numpy, arrays)

    def vjp(function, dY, *leaves):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        Y = function(*leaves)
        return [Y.detach(), *torch.autograd.grad(Y, leaves, dY)]

    result = vjp(linear, dY, X, W, b)
    Y = result[0]
    result += vjp(lambda W, b: linear(X_bytes, W, b), dY, W, b)
    result += vjp(lambda x: softmax_cross_entropy(x, labels), torch.tensor(1.0), logits)
    for tie in (0.0, 0.5):
        result += vjp(lambda x, tie=tie: relu(x, tie), Y, dY)
    state, grads = {"W": W, "b": b}, {"W": W.flip(0), "b": dY[0]}
    velocity = {"W": -W, "b": dY[-1]}
    for momentum, clip in ((0.0, None), (0.9, None), (0.9, 2.0)):
        options = {"momentum": momentum, "velocity": velocity, "clip": clip}
        result += sgd(state, grads, 0.1, **options)[0].values()
    return result


@pytest.mark.parametrize(
    "way", ["float64", pytest.param("integers alone", marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 1, 1), (9, 2**13 + 3, 2)], ids=str)
def test_each_operation_agrees_on_numbers_of_every_magnitude(
    shape: tuple[int, ...], way: str
) -> None:
    import jax

    from jax_mlp.exact import integers_alone

    jitted = jax.jit(lambda *operands: operations_jax(*operands))
    with integers_alone() if way == "integers alone" else contextlib.nullcontext():
        jitted = jitted.lower(*wild_operands(0, *shape)).compile()
    for key in range(24):
        operands = wild_operands(key, *shape)
        pairs = zip(jitted(*operands), operations_torch(*operands), strict=True)
        for place, (ours, theirs) in enumerate(pairs):
            # A NaN has no agreed bits, only an agreed place.
            ours, theirs = (np.nan_to_num(np.asarray(x), nan=7.0) for x in (ours, theirs))
            same = ours.view(np.uint32) == theirs.view(np.uint32)
            assert same.all(), (key, place, ours[~same], theirs[~same])


@pytest.mark.parametrize(
    ("lr", "expected"), [(2.0**-24, 0.0), (1.5 * 2.0**-25, 0.0), (2.0**-25, 2.0**-126)]
)
def test_what_rounds_into_the_subnormals_is_zero_on_both_sides(lr: float, expected: float) -> None:
    """2^-126 - 2^-150 has 24 bits, and is a tie on the grid of subnormals."""
    import jax.numpy as jnp
    import torch

    from jax_mlp.reproducible import sgd as jax_sgd
    from torch_mlp.reproducible import sgd as torch_sgd

    for array, sgd in ((jnp.float32, jax_sgd), (torch.tensor, torch_sgd)):
        w = {"w": array([2.0**-126])}
        assert float(sgd(w, w, lr)[0]["w"][0]) == expected


def float32_product(A, B, inner=1):
    import jax.numpy as jnp

    A = A if inner else A.T
    scale = 1 / 255 if A.dtype == jnp.uint8 else 1.0
    return (A.astype(jnp.float32) @ B).astype(jnp.float64) * scale


def one_slice(x, axis, bits):
    high, low, unit = ORIGINAL["_slices"](x, axis, bits)
    return high, 0 * low, unit


def library_exp(z):
    import jax.numpy as jnp

    return jnp.exp(z.astype(jnp.float32)).astype(jnp.float64)


def update_without_fma(params, grads, lr, **options):
    """lr * v rounded before it is subtracted; the real update is one fused multiply-add."""
    import jax

    from jax_mlp.exact import narrow, widen

    # Rounded out of float64: a float32 product XLA would fuse, and so undo the fault.
    with jax.enable_x64(True):
        _, v = ORIGINAL["sgd"](params, grads, lr, **options)
        products = {k: narrow(widen(v[k]) * float(np.float32(lr))) for k in params}
    return {k: params[k] - products[k] for k in params}, v


ORIGINAL = {}
PLANTED = [
    ("reproducible", "product", float32_product),
    ("exact", "_slices", one_slice),
    ("reproducible", "exp", library_exp),
    ("reproducible", "sgd", update_without_fma),
]


@pytest.mark.parametrize(
    ("module", "name", "planted"), PLANTED, ids=[f.__name__ for *_, f in PLANTED]
)
def test_a_planted_change_changes_the_hash(
    module: str, name: str, planted: Callable, monkeypatch: pytest.MonkeyPatch, jax_hash: str
) -> None:
    home = importlib.import_module(f"jax_mlp.{module}")
    monkeypatch.setitem(ORIGINAL, name, getattr(home, name))
    monkeypatch.setattr(home, name, planted)
    assert train_jax() != jax_hash


if __name__ == "__main__":
    side, *counts = sys.argv[1:]
    if side == "torch":
        print(train_torch())
    else:
        for count in counts or ["0"]:
            print(train_jax(devices=int(count)))
