"""The activations that every model takes, by name: one formula each, the same on both sides.

    relu       max(x, 0)
    tanh       (e^x - e^-x) / (e^x + e^-x)
    sigmoid    1 / (1 + e^-x)
    gelu       x/2 (1 + erf(x / sqrt 2))
    gelu_tanh  x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))

The frameworks mean different ones by "GELU": torch.nn.GELU() is exact, jax.nn.gelu approximates.
Source: d2l 5.1.2; Hendrycks & Gimpel, *Gaussian Error Linear Units* (2016).
"""

from typing import Literal, get_args

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "gelu_tanh"]
NAMES: tuple[str, ...] = get_args(Activation)


def check_activation(activation: str) -> None:
    """Refuse a name that stands for none: ValueError."""
    if activation not in NAMES:
        expected = ", ".join(map(repr, NAMES))
        raise ValueError(f"activation = {activation!r}, expected one of {expected}")


def not_reproducible(activation: str) -> list[str]:
    """Why a model with this activation can't train in reproducible arithmetic; empty if it can."""
    if activation == "relu":
        return []
    return [f"activation = {activation!r}, expected 'relu': no other has a reproducible form"]
