"""What rounding can do to the primitives of a JAX function: the machinery of `parity.bounds`."""
