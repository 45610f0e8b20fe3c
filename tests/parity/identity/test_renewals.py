"""Models so deep that exponentials use up all primes: what both sides have is drawn anew."""

import jax
import numpy as np
import torch
from small import Net, port, proven

from parity.identity.field import Algebra
from parity.identity.renewals import Renewals

DEEP = 9  # exponentials, one within the other; the longest chain of primes has room for five


def theirs(x):
    for _ in range(DEEP):
        x = x + torch.softmax(x, -1)
    return x


def ours(x, last=lambda x: x):
    for _ in range(DEEP):
        x = x + jax.nn.softmax(x)
    return last(x)


def test_exponentials_nested_deeper_than_any_chain_are_identical():
    proof = proven(port(ours), Net(theirs))
    assert proof.verdict == "identical" and proof.bits >= 60, proof


def test_a_difference_behind_them_is_found():
    proof = proven(port(lambda x: ours(x, lambda x: 1.0001 * x)), Net(theirs))
    assert proof.verdict == "different"


def test_what_only_one_side_has_is_not_renewed():
    of = Algebra(0, 2)
    shared, lone = (Algebra.draw(of, (3,)) for _ in range(2))
    for x in (shared, lone):
        del x.parts[0]
    renewals = Renewals()
    for side, line, x in (
        ("JAX", "a", shared), ("Torch", "b", shared), ("JAX", "c", lone), ("JAX", "c", shared),
    ):  # fmt: skip
        assert renewals.of(of, side, "add", lambda line=line: line, x) is x
    assert renewals.learn()
    assert renewals.kinds == {"JAX": {("add", "a")}, "Torch": {("add", "b")}}


def test_the_same_is_renewed_alike_and_keeps_its_sign():
    of = Algebra(0, 2)
    x = of.draw((50,))
    x.parts[1][:2] = 0
    low = of.moved(lambda v: v, type(x)({1: x.parts[1]}))
    renewals = Renewals({"JAX": {("add", "a")}, "Torch": {("mm", "b")}})
    one = renewals.of(of, "JAX", "add", lambda: "a", low)
    two = renewals.of(of, "Torch", "mm", lambda: "b", low)
    assert one.parts.keys() == {0, 1}
    for k, prime in enumerate(of.primes):
        assert np.array_equal(one.parts[k], two.parts[k])
        assert np.array_equal(prime.character(one.parts[k]), of.primes[1].character(low.parts[1]))
    assert of.degrees.passed > 0
