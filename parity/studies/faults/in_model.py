"""Faults of the model: the forward pass, the loss, gradients, and what is called accuracy."""

from functools import cache
from typing import Any

import numpy as np

from parity.studies.faults.changes import (
    accuracy,
    forward,
    gradient,
    half_at_ties,
    loss,
    nll,
    pulled,
    regularised,
)
from parity.studies.faults.fault import Fault
from parity.studies.faults.port import Layers, Tensor


def _with(i: int, W: Any = lambda W: W, b: Any = lambda b: b) -> Any:
    """Layer i (counted from 1) with its kernel or bias changed."""
    return lambda layers: [(W(w), b(v)) if k == i else (w, v) for k, (w, v) in enumerate(layers, 1)]


def _swapped(layers: Layers) -> Layers:
    return [layers[1], layers[0], *layers[2:]]


def _biases_swapped(layers: Layers) -> Layers:
    (W1, b1), (W2, b2), *rest = layers
    return [(W1, b2), (W2, b1), *rest]


def _first(change: Any) -> Any:
    """A change of the first hidden layer's activations."""
    return lambda H, i: change(H) if i == 1 else H


@cache
def _mask(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, columns)) < 0.9


def dropout(H: Tensor, i: int) -> Tensor:
    return H * H.new_tensor(_mask(i, *H.shape)) / 0.9


def _unit(value: float) -> Any:
    """The first unit of the first hidden layer becomes `value`."""

    def change(H: Tensor) -> Tensor:
        first = H.new_zeros(H.shape[1])
        first[0] = 1.0
        return H.masked_fill(first.bool(), value)

    return _first(change)


def _rounded(bits: int, only: str = "") -> Any:
    """A product whose operands are rounded to so many bits; gradients use them too."""

    def short(x: Tensor) -> Tensor:
        size = 24 if str(x.dtype).endswith("float32") else 53
        with_more = x.detach() * (2.0 ** (size - bits) + 1)  # Veltkamp's splitting
        high = with_more - (with_more - x.detach())
        return x + (high - x.detach())

    def product(H: Tensor, W: Tensor) -> Tensor:
        return H @ W if not str(H.dtype).endswith(only) else short(H) @ short(W)

    return product


def gelu(H: Tensor) -> Tensor:
    return H * 0.5 * (1 + (H * 2**-0.5).erf())


def gelu_by_tanh(H: Tensor, cube: float = 0.044715) -> Tensor:
    return H / 2 * (1 + ((2 / np.pi) ** 0.5 * (H + cube * H**3)).tanh())


def slope_of_input(H: Tensor) -> Tensor:
    return (H - H**3 / 3) + (H.tanh() - H + H**3 / 3).detach()


def _smoothed(z: Tensor, y: Tensor, by: float = 1e-6) -> Tensor:
    return ((1 - by) * nll(z, y) - by * z.log_softmax(1).mean(1)).mean()


def _squares(z: Tensor, y: Tensor) -> Tensor:
    target = z.new_zeros(z.shape).scatter(1, y[:, None], 1.0)
    return ((z.softmax(1) - target) ** 2).sum(1).mean()


def _last_of_ties(z: Tensor, y: Tensor) -> Tensor:
    return z.shape[1] - 1 - z.flip(1).argmax(1) == y


FULL = 32  # examples in a whole batch of the small pair

FAULTS = (
    # The forward pass.
    Fault("transposed square kernel", "layout", "probes",
          "A square kernel is used transposed.", forward(_with(2, W=lambda W: W.T))),
    Fault("swapped layers", "layout", "probes",
          "Two layers of one shape change places.", forward(_swapped)),
    Fault("swapped biases", "layout", "probes",
          "Two biases of one shape change places.", forward(_biases_swapped)),
    Fault("column-major flatten", "layout", "probes",
          "Images are flattened column by column, [H, W] for [W, H].",
          forward(inputs=lambda H: H.reshape(len(H), 3, 3).mT.reshape(len(H), -1))),
    Fault("reversed units", "layout", "probes",
          "The next layer reads the hidden units in reverse order.",
          forward(hidden=_first(lambda H: H.flip(1)))),
    Fault("missing bias", "arithmetic", "probes",
          "A layer is built without its bias.", forward(_with(2, b=lambda b: b * 0))),
    Fault("doubled bias", "arithmetic", "probes",
          "The bias is added by the layer and once more by hand.",
          forward(_with(2, b=lambda b: 2 * b))),
    Fault("layer left out", "arithmetic", "probes",
          "The loop over layers ends one too early.", forward(lambda L: [L[0], *L[2:]])),
    Fault("layer twice", "arithmetic", "probes",
          "The loop over layers runs through one of them twice.",
          forward(lambda L: [L[0], L[1], *L[1:]])),
    Fault("no activation", "arithmetic", "probes",
          "Layers follow each other without a ReLU.", forward(activate=lambda H: H)),
    Fault("ReLU on the logits", "arithmetic", "probes",
          "The last layer has a ReLU too.", forward(logits=lambda z: z.relu())),
    Fault("leaky ReLU", "arithmetic", "probes",
          "Negative inputs pass with slope 0.01.",
          forward(activate=lambda H: H.where(H > 0, 0.01 * H))),
    Fault("ReLU6", "arithmetic", "probes",
          "The ReLU is cut off at 6.", forward(activate=lambda H: H.clamp(0, 6))),
    Fault("ReLU that opens late", "arithmetic", "logits",
          "Units are active above 0.01, not above 0.",
          forward(activate=lambda H: half_at_ties(H).masked_fill((H > 0) & (H <= 0.01), 0.0))),
    Fault("GELU for ReLU", "arithmetic", "probes",
          "The activation is a GELU.", forward(activate=gelu)),
    Fault("GELU by tanh", "arithmetic", "logits",
          "jax.nn.gelu's default, the approximation by tanh, where Torch's is exact.",
          forward(activate=gelu_by_tanh), pair="gelu"),
    Fault("GELU by sigmoid", "arithmetic", "logits",
          "The approximation x sigmoid(1.702 x), as CLIP has it.",
          forward(activate=lambda H: H * (1.702 * H).sigmoid()), pair="gelu"),
    Fault("SiLU for GELU", "arithmetic", "logits",
          "x sigmoid(x), of another library's name for it.",
          forward(activate=lambda H: H * H.sigmoid()), pair="gelu"),
    Fault("exact GELU", "arithmetic", "logits",
          "nn.GELU's default, the exact one, where the original approximates by tanh.",
          forward(activate=gelu), pair="gelu_tanh"),
    Fault("GELU's cube by another constant", "arithmetic", "logits",
          "0.0447 for 0.044715.",
          forward(activate=lambda H: gelu_by_tanh(H, 0.0447)), pair="gelu_tanh"),
    Fault("sigmoid for tanh", "arithmetic", "logits",
          "The activation is a sigmoid.", forward(activate=lambda H: H.sigmoid()), pair="tanh"),
    Fault("hard tanh", "arithmetic", "logits",
          "The tanh of small devices: x, cut off at 1.",
          forward(activate=lambda H: H.clamp(-1, 1)), pair="tanh"),
    Fault("tanh's slope at its input", "gradient", "gradients",
          "The backward pass takes 1 - x^2 of the input, where it is 1 - y^2 of the output.",
          forward(activate=slope_of_input), pair="tanh"),
    Fault("residual connection", "arithmetic", "probes",
          "Layers that keep the width have skip connections.",
          forward(product=lambda H, W: H @ W + (H if W.shape[0] == W.shape[1] else 0))),
    Fault("softmax in the model", "arithmetic", "probes",
          "The model ends in a softmax; the loss has another.",
          forward(logits=lambda z: z.softmax(1))),
    Fault("clipped logits", "arithmetic", "probes",
          "Logits are cut off at +-10, for stability.", forward(logits=lambda z: z.clamp(-10, 10))),
    Fault("temperature", "arithmetic", "probes",
          "Logits are divided by 1 + 1e-6.", forward(logits=lambda z: z / (1 + 1e-6))),
    Fault("epsilon in the activation", "arithmetic", "probes",
          "1e-7 is added to activations, for stability.", forward(hidden=lambda H, i: H + 1e-7)),
    Fault("dropout left on", "arithmetic", "probes",
          "A tenth of the units is dropped in every step.", forward(hidden=dropout)),
    Fault("NaN for one unit", "arithmetic", "probes",
          "A hidden unit is NaN.", forward(hidden=_unit(float("nan")))),
    Fault("infinity", "arithmetic", "probes",
          "A hidden unit is infinite.", forward(hidden=_unit(float("inf")))),
    Fault("float16 activation", "precision", "precision",
          "One activation goes through float16.",
          forward(hidden=_first(lambda H: H.half().to(H.dtype)))),
    Fault("bfloat16 activation", "precision", "precision",
          "One activation goes through bfloat16.",
          forward(hidden=_first(lambda H: H.bfloat16().to(H.dtype)))),
    Fault("TF32 operands", "precision", "precision",
          "Products in float32 round their operands to 11 bits, as GPUs do by default.",
          forward(product=_rounded(11, only="float32"))),
    Fault("bfloat16 operands", "precision", "precision",
          "Products in float32 round their operands to 8 bits, as TPUs do by default.",
          forward(product=_rounded(8, only="float32"))),
    Fault("float32 in the float64 run", "precision", "logits",
          "x64 is not on, so that products of the float64 run have float32's 24 bits.",
          forward(product=_rounded(24, only="float64"))),
    Fault("inputs in float16", "precision", "precision",
          "Autocast rounds the images to float16.", forward(inputs=lambda H: H.half().to(H.dtype))),
    # Gradients that the forward pass does not show.
    Fault("stopped gradient", "gradient", "probes",
          "A detach cuts off the layers below.", forward(hidden=_first(lambda H: H.detach()))),
    Fault("detached bias", "gradient", "probes",
          "A bias is read as an array, not as a parameter.",
          forward(_with(1, b=lambda b: b.detach()))),
    Fault("tie 0 for 1/2", "gradient", "probes",
          "ReLU's gradient at 0 is 0 where the original has 1/2.",
          forward(activate=lambda H: H.relu())),
    Fault("tie 1 for 1/2", "gradient", "probes",
          "ReLU by clamp: its gradient at 0 is 1.", forward(activate=lambda H: H.clamp_min(0))),
    Fault("tie 1/2 for 0", "gradient", "probes",
          "max(X, 0) where the original has nn.ReLU.", forward(), pair="mlp"),
    Fault("straight-through ReLU", "gradient", "probes",
          "The backward pass forgets the ReLU's mask.",
          forward(activate=lambda H: H + (H.relu() - H).detach())),
    Fault("bias gradient over the wrong axis", "gradient", "probes",
          "A bias's gradient is summed over units too.",
          gradient(lambda g: g.sum().expand_as(g), lambda name: name == "b1")),
    Fault("kernel gradient transposed", "gradient", "probes",
          "A square kernel's gradient comes transposed.",
          gradient(lambda g: g.T, lambda name: name == "W2")),
    Fault("gradient of a sum", "gradient", "gradients",
          "The backward pass forgets the 1/N of the mean.", pulled(lambda g: g * len(g))),
    Fault("eight times the gradient", "gradient", "gradients",
          "A mean over devices of gradients that were summed already.", pulled(lambda g: 8 * g)),
    Fault("gradient reduced in bfloat16", "gradient", "gradients",
          "Gradients pass through bfloat16 on their way between devices.",
          pulled(lambda g: g.bfloat16().to(g.dtype))),
    Fault("label's gradient left out", "gradient", "gradients",
          "The softmax's gradient without its minus one: the label's logit is detached.",
          loss(lambda z, y: (z.logsumexp(1) - z.detach().gather(1, y[:, None])[:, 0]).mean())),
    # The loss.
    Fault("sum for mean", "loss", "loss", "The loss is summed.",
          loss(lambda z, y: nll(z, y).sum())),
    Fault("1/N of the wrong N", "loss", "loss",
          "The partial batch's sum is divided by the batch size.",
          loss(lambda z, y: nll(z, y).sum() / FULL)),
    Fault("mean over classes too", "loss", "loss",
          "The mean is taken over examples and classes.",
          loss(lambda z, y: nll(z, y).mean() / z.shape[1])),
    Fault("label smoothing", "loss", "loss", "Labels are smoothed by 1e-6.", loss(_smoothed)),
    Fault("softmax twice", "loss", "loss",
          "The loss expects logits and gets probabilities.",
          loss(lambda z, y: nll(z.softmax(1), y).mean())),
    Fault("log-softmax over the batch", "loss", "loss",
          "The softmax runs over the wrong axis.",
          loss(lambda z, y: -z.log_softmax(0).gather(1, y[:, None]).mean())),
    Fault("epsilon in the log", "loss", "loss",
          "log(p + 1e-8), for stability.",
          loss(lambda z, y: -(z.softmax(1).gather(1, y[:, None]) + 1e-8).log().mean())),
    Fault("loss in bits", "loss", "loss",
          "Logarithms are to the base 2.", loss(lambda z, y: nll(z, y).mean() / np.log(2))),
    Fault("a class ignored", "loss", "loss",
          "Label 0 is taken for padding and skipped.",
          loss(lambda z, y: (nll(z, y) * (y != 0)).sum() / (y != 0).sum())),
    Fault("first example left out", "loss", "loss",
          "The mean begins at the second example.", loss(lambda z, y: nll(z, y)[1:].mean())),
    Fault("squared error", "loss", "loss",
          "The loss is the squared error of the probabilities.", loss(_squares)),
    Fault("labels shifted in the loss", "loss", "loss",
          "One-hot vectors are built one class too far.",
          loss(lambda z, y: nll(z, (y + 1) % z.shape[1]).mean())),
    Fault("L2 penalty", "loss", "loss", "The loss has a penalty of 1e-8 |w|^2.",
          regularised(lambda p: 1e-8 * (p * p).sum())),
    Fault("float16 loss", "precision", "loss", "The loss is computed from float16 logits.",
          loss(lambda z, y: nll(z.half().to(z.dtype), y).mean())),
    # Accuracy.
    Fault("last of tied logits", "evaluation", "accuracy",
          "argmax takes the last of equal logits.", accuracy(_last_of_ties)),
    Fault("every tie is a hit", "evaluation", "accuracy",
          "The label's logit is compared with the largest.",
          accuracy(lambda z, y: z.gather(1, y[:, None])[:, 0] == z.amax(1))),
    Fault("accuracy of the two best", "evaluation", "accuracy",
          "A label among the two largest logits is a hit.",
          accuracy(lambda z, y: (z.topk(2, 1).indices == y[:, None]).any(1))),
    Fault("accuracy over the batch size", "evaluation", "accuracy",
          "Hits are divided by the batch size, also on a partial batch.",
          accuracy(lambda z, y: z.argmax(1) == y, mean=lambda hits: hits.sum() / FULL)),
)  # fmt: skip
