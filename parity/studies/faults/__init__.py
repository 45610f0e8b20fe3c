"""Faults on purpose, and honest networks: how sharp and how sound the ladder is."""
