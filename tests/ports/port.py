"""What a port is: a small Torch model, its honest JAX port, and the errors that porters make."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch


@dataclass(frozen=True)
class Wrong:
    """One error. level: the first where it can show: inputs, weights, initial weights, logits,
    loss, gradients, step, every step, state, curve.

    says: what the porter did. leaf: a text that the failure must contain: the tensor. change: the
    fields of the family that it replaces; options are merged.
    """

    name: str
    level: str
    says: str
    leaf: str
    change: dict[str, Any]


@dataclass(frozen=True)
class Port:
    """A family. torch, jax, data: make the models, and (inputs, targets), the same each time.

    weights, options: those of `check`. needs: a package without which the family is left out.
    """

    name: str
    torch: Callable[[], torch.nn.Module]
    jax: Callable[[], Any]
    data: Callable[[], tuple[Any, ...]]
    wrong: tuple[Wrong, ...]
    weights: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    needs: str = ""

    def wrongly(self, wrong: Wrong) -> "Port":
        """This family with one error in it."""
        change = dict(wrong.change)
        options = self.options | change.pop("options", {})
        if "state" in change:
            options["state"] = change.pop("state")
        return replace(self, options=options, **change)
