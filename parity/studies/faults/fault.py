"""What a planted fault is: data."""

from dataclasses import dataclass
from typing import Literal

from parity.studies.faults.port import Plant

Kind = Literal[
    "data",
    "layout",
    "arithmetic",
    "precision",
    "loss",
    "gradient",
    "optimiser",
    "schedule",
    "evaluation",
    "state",
    "initialisation",
]


@dataclass(frozen=True)
class Fault:
    """A mistake that porters make. level: the first one that can show it. says: what was done
    wrong. plant: how it is put into the Torch side. pair: "scratch" (ReLU's gradient at a tie is
    1/2; clipped SGD with momentum), "mlp" (Torch's layers; the gradient at a tie is 0), "bits"
    (plain SGD, so that it can train in reproducible arithmetic), or an activation with plain SGD,
    whose initial weights have a spread sigma.
    """

    name: str
    kind: Kind
    level: str
    says: str
    plant: Plant
    pair: Literal["scratch", "mlp", "bits", "tanh", "gelu", "gelu_tanh"] = "scratch"
