"""What `mlp-parity init` takes."""

from dataclasses import dataclass
from pathlib import Path

from parity.config import numbers


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Write a parity test for two models of your own, with the guessed table of weights in it.

    Examples:

    mlp-parity init --torch shop.models:Theirs --jax shop.models:Ours --out test_parity.py

    mlp-parity init --torch shop:theirs --jax shop:ours --data shop:batch --out tests/test_shop.py
    """

    torch: str
    """The Torch model, as module:name: a class or a function without arguments, or an object."""
    jax: str
    """The JAX model, likewise; a class that asks for rngs gets them."""
    data: str | None = None
    """What parity.check takes, likewise; the default is random, of a shape that both take."""
    out: Path = Path("test_parity.py")
    """The file; one that exists is not overwritten."""

    def __post_init__(self) -> None:
        numbers.check(self)
