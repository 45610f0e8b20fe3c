"""LSTM and GRU as scans of JAX: an LSTM as (function, params), both ways and two layers deep as
well, and a GRU as an NNX module."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from drawn import BATCH, CLASSES, classified, seeded
from flax import nnx
from port import Port, Wrong
from torch import nn

INPUTS, HIDDEN, LENGTH = 3, 4, 5


class Last(nn.Module):
    """The linear layer of what a recurrent one, with the batch first, gives at the last step."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(width, CLASSES)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(X)[0][:, -1])


@seeded
def torch_lstm() -> nn.Module:
    return Last(nn.LSTM(INPUTS, HIDDEN, batch_first=True), HIDDEN)


def split_ifgo(gates: jax.Array) -> list[jax.Array]:
    """Input, forget, cell, output: Torch's order."""
    return jnp.split(gates, 4, axis=-1)


def split_ifog(gates: jax.Array) -> list[jax.Array]:
    i, f, o, g = jnp.split(gates, 4, axis=-1)
    return [i, f, g, o]


def lstm_steps(
    params: Any,
    X: jax.Array,
    *,
    split: Callable[[jax.Array], list[jax.Array]] = split_ifgo,
    biases: int = 2,
    forget: float = 0.0,
    start: float = 0.0,
    squash: Callable[[jax.Array], jax.Array] = jnp.tanh,
) -> tuple[jax.Array, jax.Array]:
    """Hidden and cell states of all steps, [steps, batch, hidden], of X [batch, steps, inputs]."""

    def step(carry: tuple[jax.Array, jax.Array], x: jax.Array) -> Any:
        h, c = carry
        gates = x @ params["input"]["kernel"] + params["input"]["bias"]
        gates += h @ params["hidden"]["kernel"]
        if biases == 2:
            gates += params["hidden"]["bias"]
        i, f, g, o = split(gates)
        c = jax.nn.sigmoid(f + forget) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * squash(c)
        return (h, c), (h, c)

    first = jnp.full((len(X), HIDDEN), start, X.dtype)
    return jax.lax.scan(step, (first, first), X.swapaxes(0, 1))[1]


def dense(params: Any, X: jax.Array) -> jax.Array:
    return X @ params["kernel"] + params["bias"]


def lstm(params: Any, X: jax.Array, *, last: int = -1, cell: bool = False, **how: Any) -> jax.Array:
    hidden, cells = lstm_steps(params["lstm"], X, **how)
    return dense(params["out"], (cells if cell else hidden)[last])


def zeros(inputs: int, outputs: int) -> dict[str, np.ndarray]:
    shapes = {"kernel": (inputs, outputs), "bias": (outputs,)}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def cell_zeros(inputs: int) -> dict[str, Any]:
    return {"input": zeros(inputs, 4 * HIDDEN), "hidden": zeros(HIDDEN, 4 * HIDDEN)}


def jax_lstm(**how: Any) -> Any:
    params = {"lstm": cell_zeros(INPUTS), "out": zeros(HIDDEN, CLASSES)}
    return partial(lstm, **how), params


def cell_weights(torchs: dict[str, Any], suffix: str = "l0") -> dict[str, Any]:
    return {
        name: {
            "kernel": torchs[f"layer.weight_{short}_{suffix}"].T,
            "bias": torchs[f"layer.bias_{short}_{suffix}"],
        }
        for name, short in (("input", "ih"), ("hidden", "hh"))
    }


def out_weights(torchs: dict[str, Any]) -> dict[str, Any]:
    return {"kernel": torchs["out.weight"].T, "bias": torchs["out.bias"]}


def lstm_weights(torchs: dict[str, Any]) -> dict[str, Any]:
    return {"lstm": cell_weights(torchs), "out": out_weights(torchs)}


# --- both ways, and two layers deep ------------------------------------------------------------


@seeded
def torch_both_ways() -> nn.Module:
    layer = nn.LSTM(INPUTS, HIDDEN, num_layers=2, bidirectional=True, batch_first=True)
    return Last(layer, 2 * HIDDEN)


SUFFIXES = {
    "forward0": "l0",
    "backward0": "l0_reverse",
    "forward1": "l1",
    "backward1": "l1_reverse",
}


def both_ways(
    params: Any,
    X: jax.Array,
    *,
    turned_back: bool = True,
    order: int = 1,
    ends: bool = False,
) -> jax.Array:
    """turned_back: the backward states lie beside those of the same step. order: 1 or -1, which
    half comes first. ends: each direction's own last state is taken."""
    for layer in "01":
        ahead = lstm_steps(params["forward" + layer], X)[0]
        back = lstm_steps(params["backward" + layer], X[:, ::-1])[0]
        last = jnp.concatenate([ahead[-1], back[-1]], axis=-1)
        back = back[::-1] if turned_back else back
        X = jnp.concatenate([ahead, back][::order], axis=-1).swapaxes(0, 1)
    return dense(params["out"], last if ends else X[:, -1])


def jax_both_ways(**how: Any) -> Any:
    sizes = {name: 2 * HIDDEN if "1" in name else INPUTS for name in SUFFIXES}
    params = {name: cell_zeros(size) for name, size in sizes.items()}
    return partial(both_ways, **how), params | {"out": zeros(2 * HIDDEN, CLASSES)}


def both_ways_weights(torchs: dict[str, Any]) -> dict[str, Any]:
    cells = {name: cell_weights(torchs, suffix) for name, suffix in SUFFIXES.items()}
    return cells | {"out": out_weights(torchs)}


# --- GRU ---------------------------------------------------------------------------------------


@seeded
def torch_gru() -> nn.Module:
    return Last(nn.GRU(INPUTS, HIDDEN, batch_first=True), HIDDEN)


class GRU(nnx.Module):
    """reset_after: as in Torch, of the product and its bias; otherwise of the state before it.

    inverted: the update gate says how much is new. order: of the three gates. new_bias: whether
    the hidden bias of the new state is used.
    """

    def __init__(
        self,
        reset_after: bool = True,
        inverted: bool = False,
        order: tuple[int, int, int] = (0, 1, 2),
        new_bias: bool = True,
    ) -> None:
        rngs = nnx.Rngs(0)
        self.input = nnx.Linear(INPUTS, 3 * HIDDEN, rngs=rngs)
        self.hidden = nnx.Linear(HIDDEN, 3 * HIDDEN, rngs=rngs)
        self.out = nnx.Linear(HIDDEN, CLASSES, rngs=rngs)
        self.reset_after, self.inverted, self.order = reset_after, inverted, order
        self.new_bias = new_bias

    def __call__(self, X: jax.Array) -> jax.Array:
        kernel, bias = self.hidden.kernel[...], self.hidden.bias[...]
        new = slice(2 * HIDDEN, None)

        def split(gates: jax.Array) -> list[jax.Array]:
            parts = jnp.split(gates, 3, axis=-1)
            return [parts[i] for i in self.order]

        def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            (xr, xz, xn), (hr, hz, hn) = split(x), split(h @ kernel + bias)
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            if not self.new_bias:
                hn = h @ kernel[:, new]
            n = xn + (r * hn if self.reset_after else (r * h) @ kernel[:, new] + bias[new])
            z = 1 - z if self.inverted else z
            return (1 - z) * jnp.tanh(n) + z * h, None

        inputs = self.input(X).swapaxes(0, 1)
        start = jnp.zeros((len(X), HIDDEN), inputs.dtype)
        return self.out(jax.lax.scan(step, start, inputs)[0])


def gru_weights(torchs: dict[str, Any]) -> dict[str, Any]:
    return cell_weights(torchs) | {"out": out_weights(torchs)}


def wrong(make: Callable[..., Any], name: str, says: str, **how: Any) -> Wrong:
    return Wrong(name, "logits", says, "logits", {"jax": partial(make, **how)})


FAMILIES = (
    Port(
        "LSTM",
        torch_lstm,
        jax_lstm,
        classified(LENGTH, INPUTS),
        weights=lstm_weights,
        options=BATCH,
        wrong=(
            wrong(jax_lstm, "gates ifog", "the order of other libraries", split=split_ifog),
            wrong(jax_lstm, "one bias", "the hidden bias is left out, as in Flax", biases=1),
            wrong(jax_lstm, "forget gate plus 1", "as Haiku's and TensorFlow's", forget=1.0),
            wrong(jax_lstm, "first step's state", "the scan's outputs are read backwards", last=0),
            wrong(jax_lstm, "cell for hidden", "Flax carries (c, h), Torch (h, c)", cell=True),
            wrong(jax_lstm, "states start at 1", "not at 0", start=1.0),
            wrong(jax_lstm, "cell not squashed", "a tanh is missing", squash=lambda c: c),
        ),
    ),
    Port(
        "LSTM both ways, two layers",
        torch_both_ways,
        jax_both_ways,
        classified(LENGTH, INPUTS),
        weights=both_ways_weights,
        options=BATCH,
        wrong=(
            wrong(
                jax_both_ways,
                "backward states not turned back",
                "each lies beside another step's",
                turned_back=False,
            ),
            wrong(jax_both_ways, "backward half first", "the halves change places", order=-1),
            wrong(
                jax_both_ways,
                "each direction's own last state",
                "h_n is taken for the output of the last step",
                ends=True,
            ),
        ),
    ),
    Port(
        "GRU",
        torch_gru,
        GRU,
        classified(LENGTH, INPUTS),
        weights=gru_weights,
        options=BATCH,
        wrong=(
            wrong(GRU, "reset before the product", "Keras's reset_after=False", reset_after=False),
            wrong(GRU, "update gate inverted", "as in the paper of 2014", inverted=True),
            wrong(GRU, "gates zrn", "Keras's order", order=(1, 0, 2)),
            wrong(
                GRU,
                "no hidden bias of the new state",
                "as flax.nnx.GRUCell has none (google/flax issue 5594)",
                new_bias=False,
            ),
        ),
    ),
)
