"""The rows of the benchmark that run on XLA."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

import jax_mlp
from jax_mlp.exact import integers_alone
from mlp_core import fashion_mnist
from mlp_core.schedule import Schedule
from parity.device import Device
from parity.studies.bench.pace import Pace
from parity.studies.bench.timing import Size

PRECISIONS = {"highest": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}


class Training(jax_mlp.FashionMNIST):
    """The first examples of Fashion-MNIST, without validation."""

    def __init__(self, size: Size, data: str | None) -> None:
        super().__init__(size.batch, data=data, seed=0)
        images, labels = (np.resize(a, (size.examples, *a.shape[1:])) for a in self.train)
        self.train = type(self.train)(images, labels)

    def get_dataloader(self, train: bool) -> Any:
        return super().get_dataloader(train) if train else None


def device_bytes() -> int | None:
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def about() -> tuple[dict[str, str], str]:
    return {n: version(n) for n in ("jax", "flax", "numpy")}, jax.devices()[0].device_kind


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Rows, or columns, of length 1 at right angles: repeated products neither grow nor vanish."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    return (q if rows >= columns else q.T).astype(np.float32)


def floor(size: Size, data: str | None, pace: Pace) -> None:
    """The large products of each step and nothing else: no bias, no loss, no batches, no data.

        H = X W1, ...; W1 <- W1 - lr X^T H, ...

    All layers but the narrow last one; the update is what carries one step's weights to the next.
    """
    rng = np.random.default_rng(0)
    X = jnp.asarray(orthogonal(rng, size.batch, 784))
    widths = (784, *size.hiddens)
    weights = [jnp.asarray(orthogonal(rng, a, b)) for a, b in zip(widths, widths[1:], strict=False)]
    steps = -(-size.examples // size.batch)

    def step(weights: list, _: Any) -> tuple[list, None]:
        inputs = [X]
        for W in weights:
            inputs.append(inputs[-1] @ W)
        back = inputs.pop()
        new = []
        for W, H in zip(reversed(weights), reversed(inputs), strict=True):
            new.append(W - 1e-9 * (H.T @ back))
            back = back @ W.T if H is not X else back
        return new[::-1], None

    epoch = jax.jit(lambda weights: lax.scan(step, weights, length=steps)[0])
    pace.run(lambda: jax.block_until_ready(epoch(weights)), *about())


def peak(size: Size, data: str | None, pace: Pace) -> None:
    """The largest square product: 2 n^3 operations, n = 2048 on a CPU, 8192 on an accelerator."""
    n = size.width
    A = jnp.asarray(np.random.default_rng(0).standard_normal((n, n)), jnp.float32)
    product = jax.jit(lambda A: A @ A)
    pace.run(lambda: jax.block_until_ready(product(A)), *about())


def scratch(size: Size, data: str | None, pace: Pace, **options: Any) -> None:
    model = jax_mlp.MLPScratch(784, 10, size.hiddens, lr=0.1)
    pace.train(jax_mlp.Trainer, model=model, data=Training(size, data), **options)


def integers(size: Size, data: str | None, pace: Pace) -> None:
    """Reproducible arithmetic without float64: what a TPU computes."""
    with integers_alone():
        scratch(size, data, pace, arithmetic="reproducible")


def concise(size: Size, data: str | None, pace: Pace) -> None:
    model = jax_mlp.MLP(10, size.hiddens, lr=0.1)
    pace.train(jax_mlp.Trainer, model=model, data=Training(size, data))


def fused(size: Size, data: str | None, pace: Pace, **options: Any) -> None:
    """The Pallas kernels, on what they were written for."""
    if jax.default_backend() == "cpu":
        raise ValueError("fused kernels are for GPUs and TPUs, a CPU only interprets them")
    scratch(size, data, pace, kernel="fused", **options)


def batches(size: Size, data: str | None) -> Callable[[], Any]:
    """An iterator over an epoch of shuffled batches, made by NumPy: floats in [0, 1], labels."""
    train = fashion_mnist.load(data).train
    images = np.resize(train.images, (size.examples, 784))
    labels = np.resize(train.labels, size.examples).astype(np.int32)
    schedule = Schedule(size.examples, size.batch)
    return lambda: (
        (images[rows].astype(np.float32) / np.float32(255), labels[rows])
        for rows in schedule.batches(0)
    )


def stepwise(size: Size, data: str | None, pace: Pace) -> None:
    """The NNX model with nnx.jit around each step, as Flax's own tutorials train."""
    model = jax_mlp.MLP(10, size.hiddens, lr=0.1).net
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, X: Any, y: Any) -> Any:
        def loss_of(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(X), y).mean()

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    epoch = batches(size, data)

    def run() -> None:
        jax.block_until_ready([step(model, optimizer, X, y) for X, y in epoch()])

    pace.run(run, *about())


def keras(size: Size, data: str | None, pace: Pace) -> None:
    """Keras on JAX: model.fit on arrays in memory."""
    import keras as k  # KERAS_BACKEND is set for this process

    X, y = (np.concatenate(part) for part in zip(*batches(size, data)(), strict=True))
    hidden = [k.layers.Dense(width, activation="relu") for width in size.hiddens]
    model = k.Sequential([k.Input((784,)), *hidden, k.layers.Dense(10)])
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(k.optimizers.SGD(0.1), loss)
    versions, device = about()
    versions["keras"] = version("keras")
    pace.run(lambda: model.fit(X, y, batch_size=size.batch, verbose=0), versions, device)


def sklearn(size: Size, data: str | None, pace: Pace) -> None:
    """scikit-learn's MLPClassifier, plain SGD; always on the CPU."""
    import warnings

    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # it says after each epoch that it hasn't converged
    X, y = (np.concatenate(part) for part in zip(*batches(size, data)(), strict=True))
    options: dict[str, Any] = dict(solver="sgd", alpha=0, momentum=0, learning_rate_init=0.1)
    model = MLPClassifier(
        size.hiddens, batch_size=size.batch, max_iter=1, warm_start=True, **options
    )
    versions = {name: version(name) for name in ("scikit-learn", "numpy")}
    pace.run(lambda: model.fit(X, y), versions, "cpu")


ROWS: dict[str, Callable[..., None]] = {
    "floor": floor,
    "peak": peak,
    "jax scratch": scratch,
    "jax mlp": concise,
    "jax scratch, bytes": partial(scratch, images="bytes"),
    "jax fused": fused,
    "jax fused, bytes": partial(fused, images="bytes"),
    "jax reproducible": partial(scratch, arithmetic="reproducible"),
    "jax reproducible, integers": integers,
    "jax nnx.jit a step": stepwise,
    "keras on jax": keras,
    "scikit-learn": sklearn,
}


def main(
    name: str, size: Size, data: str | None, precision: str, device: Device | None, pace: Pace
) -> None:
    """device: the process was started with JAX on it, see parity.studies.bench.workers."""
    pace.device_bytes = device_bytes
    with jax.default_matmul_precision(PRECISIONS[precision]):
        ROWS[name](size, data, pace)
