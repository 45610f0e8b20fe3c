"""Operations by what they do, under both frameworks' names."""

from parity.sides.tensors import Traced

# The same operation by its names on both sides. Without settings, or with the same, it gives of the
# same operands the same numbers, if these lie alike.
_KINDS = {"mul": "mul", "add": "add", "sub": "sub", "div": "div", "tanh": "tanh", "exp": "exp",
          "log": "log", "sigmoid": "sigmoid", "logistic": "sigmoid", "mm": "product",
          "bmm": "product", "matmul": "product", "dot_general": "product",
          "max": "relu", "relu": "relu", "convolution": "convolution",
          "conv_general_dilated": "convolution", "sum": "sum", "mean": "sum", "prims.sum": "sum",
          "var": "sum", "prims.var": "sum", "reduce_sum": "sum", "select_n": "select",
          "where": "select", "masked_fill": "select", "reduce_max": "largest",
          "amax": "largest"}  # fmt: skip
EACH = {"mul", "add", "sub", "div"}


def kind(t: Traced) -> str | None:
    return _KINDS.get(t.op.removesuffix("_"))


def factors(t: Traced) -> set[float]:
    """Its literal numbers, up to their signs, but for 1."""
    return {abs(x) for x in t.scalars} - {1.0}


def size(t: Traced) -> int:
    found = 1
    for n in t.shape:
        found *= n
    return found
