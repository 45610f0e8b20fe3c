"""The gradient of the loss by each parameter."""

from parity.levels.evaluated import level_of

LEVEL = level_of("gradients", "Same gradient of the loss, leaf by leaf?")
