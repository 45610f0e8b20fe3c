"""Weights and the optimiser's own state after one step from the shared weights."""

from parity.levels.evaluated import level_of

LEVEL = level_of("step", "Same weights, and same optimiser's state, after one step?")
