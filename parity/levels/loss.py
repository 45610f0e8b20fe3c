"""The mean loss of a batch."""

from parity.levels.evaluated import level_of

LEVEL = level_of("loss", "Same mean loss?")
