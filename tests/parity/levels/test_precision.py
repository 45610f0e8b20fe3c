import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jax_mlp
import torch_mlp
from parity.levels.level import Result
from parity.levels.pair import Pair
from parity.levels.precision import LEVEL, bits_used, judge_precision, measure
from parity.problem import Problem
from parity.sides.pairs import Examples, JaxSide, TorchSide, book_pair

NAMES = {f"{kind}{i}": f"{kind}{i}" for i in (1, 2, 3) for kind in "Wb"}


class LowTorch(torch_mlp.MLPScratch):
    """Operands of the second product rounded to bfloat16, as a matrix unit would."""

    def forward(self, X):
        def low(T):
            return T.to(torch.bfloat16).to(torch.float32)

        H = torch_mlp.relu(X.reshape((-1, 12)) @ self.W1 + self.b1)
        H = torch_mlp.relu(low(H) @ low(self.W2) + self.b2)
        return H @ self.W3 + self.b3


class LowJax(jax_mlp.MLPScratch):
    """All operands rounded to TF32's 11 bits."""

    def forward(self, X):
        def low(T):
            scale = jnp.exp2(jnp.floor(jnp.log2(jnp.abs(T) + 1e-30)) - 10)
            return jnp.round(T / scale) * scale

        H = jax_mlp.relu(low(X.reshape((-1, 12))) @ low(self.W1) + self.b1)
        H = jax_mlp.relu(low(H) @ low(self.W2) + self.b2)
        return low(H) @ low(self.W3) + self.b3


def pair_of(digits, ours, theirs):
    examples = Examples(digits, 32, 0)
    return Pair.of(Problem(theirs, ours, examples, epochs=1), precisions=["float32"])


ARGUMENTS = (12, 4, (6, 5), 0.1)


@pytest.mark.parametrize("kind", ["scratch", "mlp"])
def test_full_float32_shows_24_bits_in_every_product_of_both_sides(digits, kind):
    examples = Examples(digits, 32, 0)
    ours, theirs = book_pair(kind, (6, 5), 0.1, 0, inputs=12, outputs=4)
    for side in (JaxSide(ours, examples), TorchSide(theirs, examples)):
        params = side.params()
        matrices = sorted(n for n, a in params.items() if a.ndim == 2)
        vectors = sorted(n for n, a in params.items() if a.ndim == 1)
        names = {f"W{i}": n for i, n in enumerate(matrices, 1)}
        names |= {f"b{i}": n for i, n in enumerate(vectors, 1)}
        products = measure(side, names, (1, 3, 4))
        assert {p.name for p in products} == {
            *(f"{kind} {i}" for kind in ("forward", "weight gradient") for i in (1, 2, 3)),
            "input gradient",
        }
        assert all(p.bits == 24 for p in products), [(p.name, p.bits) for p in products]


def test_a_silent_bfloat16_is_named_with_the_product_and_the_cure(digits):
    pair = pair_of(digits, jax_mlp.MLPScratch(*ARGUMENTS), LowTorch(*ARGUMENTS))
    failed = [c for c in judge_precision(pair, "float32") if not c.ok]
    assert failed and all("torch" in c.name and "bfloat16" in c.problem for c in failed)
    assert "set_float32_matmul_precision('highest')" in failed[0].problem
    # The third product is whole, so the second is the one that a reader is led to.
    assert {c.name.split(":")[0] for c in failed if "forward" in c.name} == {
        "torch product forward 1",
        "torch product forward 2",
    }


def test_the_report_says_how_many_bits_each_side_used(digits):
    pair = pair_of(digits, jax_mlp.MLPScratch(*ARGUMENTS), LowTorch(*ARGUMENTS))
    results = [Result(LEVEL, "float32", tuple(judge_precision(pair, "float32")), 0.0)]
    assert bits_used("jax", results) == "24" and bits_used("torch", results) == "8"
    assert bits_used("jax", []) == "not measured"


def test_tf32_is_told_from_bfloat16(digits):
    pair = pair_of(digits, LowJax(*ARGUMENTS), torch_mlp.MLPScratch(*ARGUMENTS))
    bits = {p.name: p.bits for p in measure(pair.jax["float32"], NAMES, (1, 3, 4))}
    assert [bits[f"forward {i}"] for i in (1, 2, 3)] == [11, 11, 11]


def test_nan_never_passes_as_precise(digits):
    class Broken(torch_mlp.MLPScratch):
        def forward(self, X):
            return super().forward(X) * np.nan

    pair = pair_of(digits, jax_mlp.MLPScratch(*ARGUMENTS), Broken(*ARGUMENTS))
    failed = [c for c in judge_precision(pair, "float32") if not c.ok]
    assert any("torch product forward 1" in c.name for c in failed)


class Scaled(torch_mlp.MLPScratch):
    """The first matrix's gradient, the inputs' or all outputs times a factor."""

    def __init__(self, what, factor):
        super().__init__(*ARGUMENTS)
        self.what, self.factor = what, factor
        if what == "weight gradient 1":
            self.W1.register_hook(lambda g: g * factor)

    def forward(self, X):
        if self.what == "input gradient" and X.requires_grad:
            X = X * 1
            X.register_hook(lambda g: g * self.factor)
        out = super().forward(X)
        return out * self.factor if self.what == "forward" else out


@pytest.mark.parametrize(
    ("what", "factor"),
    [("weight gradient 1", f) for f in (0.5, 2.0, 0.0, np.nan, 1e30, 1e38)]
    + [("forward", 1.001), ("input gradient", 2.0)],
)
def test_other_numbers_are_not_fewer_bits(digits, what, factor):
    pair = pair_of(digits, jax_mlp.MLPScratch(*ARGUMENTS), Scaled(what, factor))
    failed = [c for c in judge_precision(pair, "float32") if not c.ok]
    assert failed and all(f"torch product {what}" in c.name or what == "forward" for c in failed)
    for c in failed:
        assert "other numbers, not fewer bits" in c.problem and "cure" not in str(c)
        assert ("trains nothing here" in c.problem) == ("input gradient" in c.name)


def test_a_frozen_matrix_has_no_gradient_to_measure(digits):
    theirs = torch_mlp.MLPScratch(*ARGUMENTS)
    theirs.W1.requires_grad_(False)
    judged = judge_precision(pair_of(digits, jax_mlp.MLPScratch(*ARGUMENTS), theirs), "float32")
    assert all(c.ok for c in judged) and not any("weight gradient 1" in c.name for c in judged)
