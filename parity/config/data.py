"""What `mlp-parity data` takes."""

from dataclasses import dataclass

from parity.config.network import Source


@dataclass(frozen=True, kw_only=True)
class DataConfig(Source):
    """Find or fetch Fashion-MNIST, check every byte, and say what was found.

    Examples:

    mlp-parity data

    mlp-parity data --data /usr/share/datasets/fashion-mnist
    """
