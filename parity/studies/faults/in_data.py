"""Faults of the pipeline: images, labels, batches, and the conversion of weights."""

from typing import Any

import numpy as np

from mlp_core.schedule import Schedule
from parity.studies.faults.fault import Fault
from parity.studies.faults.port import arrays, batches, drawn, images, labels, loaded

Arrays = dict[str, np.ndarray]


def _one_ulp(X: np.ndarray) -> np.ndarray:
    return np.nextafter(X, np.float32(9), where=X > 0, out=X.copy())


def _at(y: np.ndarray, where: Any, value: Any) -> np.ndarray:
    y = y.copy()
    y[where] = value
    return y


def _standardised(X: np.ndarray) -> np.ndarray:
    return (X - np.float32(0.2860)) / np.float32(0.3530)


def _swapped(right: Schedule, epoch: int) -> list[np.ndarray]:
    first, *rest = (b.copy() for b in right.batches(epoch))
    first[0], rest[-1][0] = rest[-1][0], first[0]
    return [first, *rest]


def _frozen(right: Schedule, epoch: int) -> list[np.ndarray]:
    unshuffled = Schedule(right.num_examples, right.batch_size, shuffle=False)
    formed = list(unshuffled.batches(0))
    return [formed[i] for i in Schedule(len(formed), 1, right.seed).epoch(epoch)]


def _frozen_later(right: Schedule, epoch: int) -> list[np.ndarray]:
    formed = list(right.batches(0))
    order = Schedule(len(formed), 1, right.seed).epoch(epoch) if epoch else range(len(formed))
    return [formed[i] for i in order]


def _padded(right: Schedule, epoch: int) -> list[np.ndarray]:
    cut = list(right.batches(epoch))
    return [*cut[:-1], np.resize(cut[-1], right.batch_size)]


def _replaced(right: Schedule, epoch: int) -> list[np.ndarray]:
    rng = np.random.default_rng([right.seed, epoch])
    return [rng.integers(0, right.num_examples, len(b)) for b in right.batches(epoch)]


def _other(**changed: Any) -> Any:
    def cut(right: Schedule, epoch: int) -> list[np.ndarray]:
        own = {"batch_size": right.batch_size, "seed": right.seed, "shuffle": right.shuffle}
        return list(Schedule(right.num_examples, **{**own, **changed}).batches(epoch))

    return cut


def _bfloat16(a: np.ndarray) -> np.ndarray:
    bits = a.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _bumped(params: Arrays) -> Arrays:
    W1 = params["W1"].copy()
    W1[1, 2] = np.nextafter(W1[1, 2], np.float32(9))
    return params | {"W1": W1}


FAULTS = (
    Fault("/256 for /255", "data", "inputs",
          "Bytes are divided by 256.", images(lambda X: X * np.float32(255 / 256))),
    Fault("one-ulp inputs", "data", "inputs",
          "Pixels are one ulp off, as by multiplying with a rounded 1/255.", images(_one_ulp)),
    Fault("unscaled images", "data", "inputs",
          "Pixels stay in 0..255.", images(lambda X: X * np.float32(255))),
    Fault("standardised images", "data", "inputs",
          "Images are normalised by mean and spread of the set; the original doesn't.",
          images(_standardised)),
    Fault("inverted images", "data", "inputs",
          "White on black becomes black on white.", images(lambda X: 1 - X)),
    Fault("transposed images", "data", "inputs",
          "Rows and columns of the images change places.", images(lambda X: X.swapaxes(2, 3))),
    Fault("flipped images", "data", "inputs",
          "An augmentation that mirrors images is left on.", images(lambda X: X[..., ::-1].copy())),
    Fault("float16 images", "data", "inputs",
          "Images are cached in float16.",
          images(lambda X: X.astype(np.float16).astype(np.float32))),
    Fault("labels shifted by one", "data", "inputs",
          "Classes are counted from 1 on one side.", labels(lambda y: (y + 1) % (y.max() + 1))),
    Fault("one wrong label", "data", "inputs",
          "A single label of the set differs.",
          labels(lambda y: _at(y, 0, (y[0] + 1) % (y.max() + 1)))),
    Fault("images without their labels", "data", "inputs",
          "The images are shuffled, the labels aren't.", images(lambda X: X[::-1].copy())),
    Fault("validation set for training set", "data", "inputs",
          "The two sets change places.", arrays(lambda X, y, Xv, yv: (Xv, yv, X, y))),
    Fault("two examples swapped", "data", "inputs",
          "Two examples lie in each other's batch.", batches(_swapped)),
    Fault("dropped partial batch", "data", "inputs",
          "The last, partial batch of an epoch is left out.",
          batches(lambda right, e: list(right.batches(e))[:-1])),
    Fault("padded partial batch", "data", "inputs",
          "The partial batch is filled up by repeating its examples.", batches(_padded)),
    Fault("frozen batch composition", "schedule", "inputs",
          "Batches are formed before the shuffle, as in d2l's JAX tab: only their order changes.",
          batches(_frozen)),
    Fault("batches frozen after the first epoch", "schedule", "every step",
          "The first epoch's batches come again, in another order.", batches(_frozen_later)),
    Fault("same permutation each epoch", "schedule", "every step",
          "Every epoch repeats the order of the first.",
          batches(lambda right, e: list(right.batches(0)))),
    Fault("shuffling off", "schedule", "inputs",
          "Examples come in the order of the file.", batches(_other(shuffle=False))),
    Fault("wrong seed", "schedule", "inputs",
          "The shuffles are drawn from another seed.", batches(_other(seed=6))),
    Fault("epochs counted from one", "schedule", "inputs",
          "The first epoch gets the order of the second.",
          batches(lambda right, e: list(right.batches(e + 1)))),
    Fault("wrong batch size", "schedule", "inputs",
          "Batches hold one example less.", batches(_other(batch_size=31))),
    Fault("drawn with replacement", "schedule", "inputs",
          "Examples are drawn with replacement.", batches(_replaced)),
    Fault("validation set shuffled", "schedule", "inputs",
          "The validation set is shuffled too.", batches(_other(shuffle=True), train=False)),
    Fault("partial validation batch dropped", "evaluation", "inputs",
          "The validation loader leaves out its last batch.",
          batches(lambda right, e: list(right.batches(e))[:-1], train=False)),
    Fault("checkpoint in float16", "precision", "weights",
          "Weights went through a file in float16.",
          loaded(lambda p: {k: a.astype(np.float16) for k, a in p.items()})),
    Fault("checkpoint in bfloat16", "precision", "weights",
          "Weights went through a file in bfloat16.",
          loaded(lambda p: {k: _bfloat16(a) for k, a in p.items()})),
    Fault("one weight off by an ulp", "precision", "weights",
          "One weight was printed with a digit too few.", loaded(_bumped)),
    Fault("square kernel loaded transposed", "layout", "weights",
          "[out, in] is taken for [in, out]; the shape fits.",
          loaded(lambda p: p | {"W2": p["W2"].T})),
    Fault("layers loaded in each other's place", "layout", "weights",
          "The name table swaps two layers of one shape.",
          loaded(lambda p: p | {"W1": p["W2"], "W2": p["W1"]})),
    Fault("kernel loaded in column order", "layout", "weights",
          "A flat buffer is read in Fortran's order.",
          loaded(lambda p: p | {"W3": p["W3"].ravel().reshape(p["W3"].shape, order="F")})),
    Fault("one layer not loaded", "state", "weights",
          "A name isn't found, and the layer keeps its initial weights.",
          loaded(lambda p: p | {"W3": p["W3"][:, ::-1]})),
    Fault("LeCun for uniform", "initialisation", "initial weights",
          "Weights start from Flax's normal of variance 1/fan_in, biases at zero.",
          drawn(lambda n, a, fan, rng: rng.normal(0, fan**-0.5, a.shape) if n[0] == "W"
                else np.zeros(a.shape))),
    Fault("He for uniform", "initialisation", "initial weights",
          "The uniform's limit is sqrt(6 / fan_in), Kaiming's for ReLU.",
          drawn(lambda n, a, fan, rng: a * 6**0.5 if n[0] == "W" else a)),
    Fault("Glorot for uniform", "initialisation", "initial weights",
          "The uniform's limit is sqrt(6 / (fan_in + fan_out)), Keras's default.",
          drawn(lambda n, a, fan, rng: a * (6 * fan / sum(a.shape)) ** 0.5 if n[0] == "W" else a)),
    Fault("normal of the same spread", "initialisation", "initial weights",
          "Weights start from a normal with the uniform's standard deviation.",
          drawn(lambda n, a, fan, rng: rng.normal(0, (3 * fan) ** -0.5, a.shape) if n[0] == "W"
                else a)),
    Fault("zero biases", "initialisation", "initial weights",
          "Biases start at zero; Torch draws them.",
          drawn(lambda n, a, fan, rng: a if n[0] == "W" else np.zeros(a.shape))),
    Fault("variance for spread", "initialisation", "initial weights",
          "sigma, 1/2 here, is taken for the variance.",
          drawn(lambda n, a, fan, rng: a * 2**0.5), pair="tanh"),
    Fault("sigma over the root of fan_in", "initialisation", "initial weights",
          "The spread is scaled by fan_in, as that of other initialisations is.",
          drawn(lambda n, a, fan, rng: a / fan**0.5), pair="tanh"),
    Fault("sigma left to the default", "initialisation", "initial weights",
          "sigma doesn't reach the layers, which draw their uniforms.",
          drawn(lambda n, a, fan, rng: rng.uniform(-1, 1, a.shape) * fan**-0.5), pair="tanh"),
)  # fmt: skip
