"""The contestants: what the ladder asks of a framework, and the models behind it."""
