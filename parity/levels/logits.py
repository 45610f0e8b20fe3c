"""Logits, or whatever a model puts out."""

from parity.levels.evaluated import level_of

LEVEL = level_of("logits", "Same outputs for the same batch?")
