"""Identities that hold among the reals and not in the field, or the reverse: what is said of them.

The table of docs/identity.md.
"""

import jax
import jax.numpy as jnp
import pytest
import torch
from small import Net, port, proven

TRUE = {  # of all real numbers
    "sqrt(x^2) = |x|": (torch.abs, lambda x: jnp.sqrt(x * x)),
    "sin^2 + cos^2 = 1": (lambda x: x, lambda x: x * (jnp.sin(x) ** 2 + jnp.cos(x) ** 2)),
    "|tanh| < 1": (torch.tanh, lambda x: jnp.clip(jnp.tanh(x), -1, 1)),
    "exp(x) > x": (torch.exp, lambda x: jnp.maximum(jnp.exp(x), x)),
    "x > 1 means x > 0": (lambda x: x, lambda x: jnp.where(x > 1, jax.nn.relu(x), x)),
    "(x - 1)^2 >= 0, written out": (
        lambda x: (x - 1) ** 2, lambda x: jnp.maximum(x * x - 2 * x + 1, 0)),
    "log(x^2) = 2 log|x|": (lambda x: (x * x).log(), lambda x: 2 * jnp.log(jnp.abs(x))),
}  # fmt: skip
DECIDED = {"|tanh| < 1", "(x - 1)^2 >= 0, written out", "x > 1 means x > 0", "log(x^2) = 2 log|x|"}
FALSE = {
    "sqrt(x^2) = x": (lambda x: x, lambda x: jnp.sqrt(x * x)),
    "|x + 1| = |x| + 1": (lambda x: x.abs() + 1, lambda x: jnp.abs(x + 1)),
    "x^3 >= 0": (lambda x: x**3, lambda x: jnp.maximum(x**3, 0)),
    "x + 1e-11 = x": (lambda x: x, lambda x: x + 1e-11),
    "exp(x)^1.000001 = exp(x)": (torch.exp, lambda x: jnp.exp(1.000001 * x)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUE)
def test_what_is_true_is_never_called_different(name):
    theirs, ours = TRUE[name]
    proof = proven(port(ours), Net(theirs))
    assert proof.verdict == ("identical" if name in DECIDED else "undecided"), proof


@pytest.mark.slow
@pytest.mark.parametrize("name", FALSE)
def test_what_is_false_is_different(name):
    theirs, ours = FALSE[name]
    assert proven(port(ours), Net(theirs)).verdict == "different"
