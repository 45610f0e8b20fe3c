"""A whole training of one pair: every step certified, free runs, seeds."""
