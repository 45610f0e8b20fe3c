"""What `mlp-parity data` takes."""

from dataclasses import dataclass

from parity.config import numbers


@dataclass(frozen=True)
class DataConfig:
    """Find or fetch Fashion-MNIST, check every byte, and say what was found.

    Examples:

    mlp-parity data

    mlp-parity data --data /usr/share/datasets/fashion-mnist
    """

    data: str | None = None
    """A folder of Fashion-MNIST, or "sample"; by default every known place is tried in turn."""

    def __post_init__(self) -> None:
        numbers.check(self)
