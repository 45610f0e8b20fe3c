"""Losses by name, in JAX. The same formulas as in torch_losses.py."""

from typing import Any

import jax.numpy as jnp

from jax_mlp.layers import softmax_cross_entropy


def cross_entropy(logits: Any, labels: Any) -> Any:
    """Mean over all labels of logsumexp(logits) - logits[label], in nats."""
    return softmax_cross_entropy(logits.reshape((-1, logits.shape[-1])), labels.reshape(-1))


def mse(outputs: Any, targets: Any) -> Any:
    """Mean of (output - target)^2."""
    return jnp.mean(jnp.square(outputs - targets))


def bce_with_logits(logits: Any, targets: Any) -> Any:
    """Mean of max(z, 0) - z t + log(1 + exp(-|z|)), in nats."""
    losses = jnp.maximum(logits, 0) - logits * targets + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return jnp.mean(losses)


LOSSES = {"cross_entropy": cross_entropy, "mse": mse, "bce_with_logits": bce_with_logits}
