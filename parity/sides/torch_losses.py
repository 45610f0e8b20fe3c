"""Losses by name, in Torch. The same formulas as in jax_losses.py."""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all labels of logsumexp(logits) - logits[label], in nats."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of (output - target)^2."""
    return F.mse_loss(outputs, targets)


def bce_with_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of max(z, 0) - z t + log(1 + exp(-|z|)), in nats."""
    return F.binary_cross_entropy_with_logits(logits, targets)


LOSSES = {"cross_entropy": cross_entropy, "mse": mse, "bce_with_logits": bce_with_logits}
