"""NumPy where a rule's operands are NumPy's, JAX where one of them is traced or lies in JAX.

    from .backend import jnp, lax          in place of jax.numpy and jax.lax

Rules are written once. `bound` evaluates them in NumPy, which takes milliseconds where compiling
takes seconds; `bounded` traces them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy
import numpy as np
from jax.extend import core

from . import primitives

_PLAIN = {np.ndarray, np.float64, np.bool_, np.int32, np.float32, float, int, bool, str, type(None)}


def in_jax(operands: Iterable[Any]) -> bool:
    """Whether any of them is JAX's, traced or not."""
    for x in operands:
        kind = type(x)
        if kind in _PLAIN:
            continue
        if kind is list or kind is tuple:
            if in_jax(x):
                return True
        elif isinstance(x, jax.Array):
            return True
    return False


class _Either:
    """The functions of one module, each by its twin in NumPy where no operand is JAX's."""

    def __init__(self, module: Any, twins: dict[str, Any], numpy: bool) -> None:
        self.module, self.twins, self.numpy = module, twins, numpy

    def __getattr__(self, name: str) -> Any:
        found: Any = self.choose(name)
        setattr(self, name, found)
        return found

    def choose(self, name: str) -> Any:
        theirs = getattr(self.module, name)
        ours = self.twins.get(name) or (getattr(np, name, None) if self.numpy else None)
        if ours is None or isinstance(ours, type) or not callable(theirs) or name in _OF_TYPES:
            return theirs if ours is None or name in _OF_TYPES else ours

        def either(*args: Any, **kwargs: Any) -> Any:
            for x in args:
                if type(x) not in _PLAIN:
                    break
            else:
                if not kwargs:  # nearly always, and hundreds of thousands of times
                    return ours(*args)
            jax_ = in_jax(args) or (kwargs and in_jax(kwargs.values()))
            return theirs(*args, **kwargs) if jax_ else ours(*args, **kwargs)

        return either


_OF_TYPES = {"issubdtype", "finfo", "iinfo", "floating", "integer", "number"}


def _zeros(shape: Any, dtype: Any = float) -> np.ndarray:
    return np.broadcast_to(np.zeros((), dtype), shape)  # traced, it stays one number


def _ones(shape: Any, dtype: Any = float) -> np.ndarray:
    return np.broadcast_to(np.ones((), dtype), shape)


jnp: Any = _Either(jax.numpy, {"zeros": _zeros, "ones": _ones}, numpy=True)
lax: Any = _Either(
    jax.lax,
    {
        "integer_pow": primitives.integer_pow,
        "rsqrt": primitives.rsqrt,
        "logistic": primitives.logistic,
        "erf": primitives.erf,
        "erfc": primitives.erfc,
        "select_n": primitives.select_n,
        "dot_general": primitives.dot_general,
        "pad": primitives.pad,
        "scatter_add": primitives.scatter_add,
        "scatter_mul": primitives.scatter_mul,
        "scatter_min": primitives.scatter_min,
        "scatter_max": primitives.scatter_max,
        "cumsum": primitives.cumsum,
        "cummax": primitives.cummax,
        "erf_inv": primitives.erf_inv,
        "lgamma": primitives.lgamma,
        "digamma": primitives.digamma,
    },
    numpy=False,
)


def evaluate(primitive: core.Primitive, params: dict[str, Any], *operands: Any) -> Any:
    """The primitive itself, of operands of any type that it takes: a value or a list of them."""
    if in_jax(operands):
        return primitive.bind(*operands, **params)
    ours = primitives.NUMPY.get(primitive.name)
    found = ours(params, *operands) if ours else None
    return found if found is not None else settled(_compiled(primitive, params)(*operands))


def add_at(x: Any, places: tuple[slice, ...], y: Any) -> Any:
    """x with y added at places."""
    if in_jax((x, y)):
        return jax.numpy.asarray(x).at[places].add(y)
    made = np.array(x)
    made[places] += y
    return made


def settled(found: Any) -> Any:
    """In NumPy, except for random keys."""
    if type(found) in (np.ndarray, np.float64):  # nearly always; a walk through a tree takes longer
        return found
    return jax.tree.map(_settled, found)


def _settled(x: Any) -> Any:
    plain = isinstance(x, np.ndarray | np.generic)
    if plain or jax.numpy.issubdtype(x.dtype, jax.dtypes.extended):
        return x
    return np.asarray(x)


def _compiled(primitive: core.Primitive, params: dict[str, Any]) -> Callable[..., Any]:
    """Of one primitive: kept, as the value and both its bounds need the same program."""
    try:
        return _kept(primitive, tuple(sorted(params.items())))
    except TypeError:  # parameters that can't be hashed
        return partial(primitive.bind, **params)


@lru_cache(maxsize=512)
def _kept(primitive: core.Primitive, params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(partial(primitive.bind, **dict(params)))
