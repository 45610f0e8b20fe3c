"""Rounding bounds: what rounding can do to any JAX function, primitive by primitive."""
