"""The products in a jaxpr, each as a function of other operands."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

from jax_mlp import images
from parity.rounding.jaxpr import frames_to_user
from parity.sides.bilinear import Bilinear, Operand, Products

# Kernels that hold products which no equation shows.
OPAQUE = ("custom_call", "ffi_call", "pallas_call", "triton_call", "dot_product_attention")
# XLA adds them by atomic operations on a GPU, unless --xla_gpu_deterministic_ops is set.
UNORDERED = ("scatter-add", "scatter_add", "scatter-mul", "scatter_mul", "select_and_scatter_add")


def products_of(jaxpr: core.Jaxpr, settings: Callable[[], AbstractContextManager]) -> Products:
    """settings: under which the side computes."""
    found: dict[Any, Bilinear] = {}
    unknown, unordered = dict[str, None](), dict[str, None]()
    for eqn in _equations(jaxpr):
        name = eqn.primitive.name
        if any(part in name for part in OPAQUE):
            unknown[_shown(eqn)] = None
        elif name in UNORDERED and not eqn.params.get("unique_indices"):
            unordered[_shown(eqn)] = None
        elif name in ("dot_general", "conv_general_dilated", "by_bytes"):
            given: Any = [v.aval for v in eqn.invars]
            shapes = tuple((aval.shape, aval.dtype.name) for aval in given)
            key = name, shapes, str(eqn.params)
            if key not in found and all(np.prod(shape) for shape, _ in shapes):
                found[key] = _bilinear(eqn, settings)
    kept = tuple(one for one in found.values() if one.dtype in ("float32", "float16", "bfloat16"))
    return Products(kept, (), tuple(unknown), tuple(unordered))


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for eqn in jaxpr.eqns:
        yield eqn
        if eqn.primitive.name not in OPAQUE:
            for inner in core.jaxprs_in_params(eqn.params):
                yield from _equations(inner)


def _bilinear(eqn: core.JaxprEqn, settings: Callable[[], AbstractContextManager]) -> Bilinear:
    given: Any = [v.aval for v in eqn.invars]
    left, right = (tuple(aval.shape) for aval in given)
    kinds = [aval.dtype for aval in given]
    if eqn.primitive.name == "by_bytes":
        return _of_bytes(eqn, settings)
    if eqn.primitive.name == "dot_general":
        contracted = eqn.params["dimension_numbers"][0]
        kept = [
            tuple(i for i in range(len(shape)) if i not in over)
            for shape, over in zip((left, right), contracted, strict=True)
        ]
    else:  # a sum runs over an image and its channels; a kernel's own axis is that of its results
        numbers = eqn.params["dimension_numbers"]
        kept = [(numbers.lhs_spec[0],), (numbers.rhs_spec[0],)]
    own = jax.jit(partial(eqn.primitive.bind, **eqn.params))
    wide = eqn.params | {"precision": lax.Precision.HIGHEST, "preferred_element_type": np.float64}
    in_float64 = jax.jit(partial(eqn.primitive.bind, **wide))

    def compute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with settings():
            return np.asarray(own(a.astype(kinds[0]), b.astype(kinds[1])).astype(np.float32))

    def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
            return np.asarray(in_float64(a.astype(np.float64), b.astype(np.float64)))

    narrowest = min(kinds, key=lambda kind: jax.numpy.finfo(kind).bits if _floats(kind) else 0)
    operands = Operand(left, kept[0]), Operand(right, kept[1])
    return Bilinear(_shown(eqn), *operands, compute, exact, narrowest.name)


def _of_bytes(eqn: core.JaxprEqn, settings: Callable[[], AbstractContextManager]) -> Bilinear:
    """Without its division by 255, which rounds each result once more."""
    given: Any = [v.aval for v in eqn.invars]
    (left, right), axis = (tuple(aval.shape) for aval in given), eqn.params["axis"]
    own = jax.jit(partial(images.in_passes, axis=axis))

    def compute(K: np.ndarray, B: np.ndarray) -> np.ndarray:
        with settings():
            return np.asarray(own(K.astype(np.uint8), B))

    def exact(K: np.ndarray, B: np.ndarray) -> np.ndarray:
        K = K.astype(np.float64)
        return (K if axis else K.T) @ B.astype(np.float64)

    operands = Operand(left, (1 - axis,), bits=8), Operand(right, (1,))
    return Bilinear(_shown(eqn), *operands, compute, exact)


def _floats(kind: Any) -> bool:
    return jax.numpy.issubdtype(kind, jax.numpy.floating)


def _shown(eqn: core.JaxprEqn) -> str:
    shapes = " x ".join(str([*v.aval.shape]) for v in eqn.invars[:2] if hasattr(v.aval, "shape"))
    line = frames_to_user((eqn,))[1]
    where = f" at {line.rpartition('/')[2]}" if line else ""
    return f"{eqn.primitive.name} {shapes}{where}"
