"""A program over several devices as one for a single device: the same sums, written out.

A `shard_map` becomes its body for all devices at once: every value gets a leading axis, one entry a
device, and a sum over devices is a sum along it. So every reader of jaxprs reads parallel programs
too, and a gradient that is added up once too often is added up here as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend import core

from .jaxpr import called, primitives_of

NAME = "shard_map"


def on_one_device(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The same program without shard_map; the very same one where there is none.

    Raises NotImplementedError for a shard_map within a loop or a branch, and for a collective that
    isn't a sum, a maximum, a minimum, a gathering or a permutation.
    """
    if NAME not in primitives_of(closed.jaxpr):
        return closed

    def run(*args: Any) -> list[Any]:
        return _run(closed.jaxpr, closed.consts, args)

    specs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jax.make_jaxpr(run)(*specs)


def _run(jaxpr: core.Jaxpr, consts: Any, args: Any) -> list[Any]:
    return _walk(jaxpr, consts, args, _outside)


def _walk(jaxpr: core.Jaxpr, consts: Any, args: Any, equation: Callable[..., list[Any]]) -> list:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(v: Any) -> Any:
        return np.asarray(v.val, _dtype(v)) if isinstance(v, core.Literal) else known[v]

    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        inner = called(eqn)
        with jax._src.source_info_util.user_context(eqn.source_info.traceback):
            if inner is None:
                results = equation(eqn, operands)
            elif isinstance(inner, core.ClosedJaxpr):
                results = _walk(inner.jaxpr, inner.consts, operands, equation)
            else:
                results = _walk(inner, [], operands, equation)
        known.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _outside(eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    if eqn.primitive.name in ("reshard", "mesh_cast", "sharding_constraint"):
        return operands  # where a value lies, not what it is
    if eqn.primitive.name != NAME:
        if any(NAME in primitives_of(j) for j in core.jaxprs_in_params(eqn.params)):
            raise NotImplementedError(f"{NAME} within {eqn.primitive.name}")
        return bind_again(eqn, operands)
    grid = _Grid(dict(eqn.params["mesh"].shape))
    given = [grid.cut(x, spec) for x, spec in zip(operands, eqn.params["in_specs"], strict=True)]
    found = _walk(eqn.params["jaxpr"], [], given, grid.equation)
    return [grid.joined(x, s) for x, s in zip(found, eqn.params["out_specs"], strict=True)]


def _dtype(v: Any) -> Any:
    return v.aval.dtype


def bind_again(eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
    """The results of an equation for other operands, on one device."""
    lies = {name: None for name in ("sharding", "out_sharding") if name in eqn.params}
    params = eqn.primitive.get_bind_params(eqn.params | lies)
    functions, params = params if isinstance(params, tuple) else ((), params)  # as versions have it
    found = eqn.primitive.bind(*functions, *operands, **params)
    return list(found) if eqn.primitive.multiple_results else [found]


@dataclass(frozen=True)
class _Each:
    """A value on each device: [devices, ...], in the order of the mesh."""

    stack: Any


@dataclass(frozen=True)
class _Grid:
    """The devices of a mesh: {axis: how many}. What isn't an _Each is the same on all of them."""

    axes: Mapping[str, int]

    def places(self, names: tuple[str, ...]) -> list[dict[str, int]]:
        return [
            dict(zip(names, place, strict=True))
            for place in product(*(range(self.axes[name]) for name in names))
        ]

    def cut(self, x: Any, spec: Any) -> Any:
        """Each device's block of an array."""
        if not any(spec):
            return x

        def block(place: dict[str, int]) -> Any:
            index = []
            for size, names in zip(x.shape, _by_axis(spec, x.ndim), strict=True):
                parts, number = 1, 0
                for name in names:
                    parts, number = parts * self.axes[name], number * self.axes[name] + place[name]
                each = size // parts
                index.append(slice(number * each, (number + 1) * each))
            return x[tuple(index)]

        return _Each(jnp.stack([block(place) for place in self.places((*self.axes,))]))

    def joined(self, x: Any, spec: Any) -> Any:
        """The array of which each device has a block; along other axes, the first device's."""
        if not isinstance(x, _Each):
            return x
        numbers = np.arange(math.prod(self.axes.values())).reshape([*self.axes.values()])
        names = _by_axis(spec, x.stack.ndim - 1)

        def built(dim: int, place: dict[str, int]) -> Any:
            if dim == len(names):
                return x.stack[numbers[tuple(place.get(name, 0) for name in self.axes)]]
            parts = [built(dim + 1, place | own) for own in self.places(names[dim])]
            return parts[0] if len(parts) == 1 else jnp.concatenate(parts, dim)

        return built(0, {})

    def equation(self, eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        """One equation on all devices."""
        name = eqn.primitive.name.removesuffix("_invariant")
        if name in ("pvary", "pcast"):
            return operands
        if name in _COLLECTIVES:
            return [_COLLECTIVES[name](self, eqn.params, x) for x in operands]
        if name == "axis_index":
            place = self.places((*self.axes,))
            return [_Each(jnp.array([p[eqn.params["axis_name"]] for p in place], jnp.int32))]
        if {"axes", "axis_name"} & {*eqn.params} and name[0] == "p" and name != "pad":
            raise NotImplementedError(f"{eqn.primitive.name} over devices")
        if not any(isinstance(x, _Each) for x in operands):
            return bind_again(eqn, operands)
        if any(_COLLECTIVE_NAMES & primitives_of(j) for j in core.jaxprs_in_params(eqn.params)):
            raise NotImplementedError(f"a collective within {eqn.primitive.name}")
        axes = [0 if isinstance(x, _Each) else None for x in operands]
        stacks = [x.stack if isinstance(x, _Each) else x for x in operands]
        found = jax.vmap(lambda *xs: bind_again(eqn, [*xs]), axes)(*stacks)
        return [_Each(x) for x in found]

    def reduced(self, names: Any, x: Any, along: Callable[..., Any], alone: Callable) -> Any:
        """A sum, maximum or minimum over some axes, on every device."""
        names = names if isinstance(names, (tuple, list)) else (names,)
        if not isinstance(x, _Each):
            return alone(x, math.prod(self.axes[name] for name in names))
        sizes = [*self.axes.values()]
        dims = tuple(i for i, name in enumerate(self.axes) if name in names)
        spread = x.stack.reshape(*sizes, *x.stack.shape[1:])
        found = along(spread, axis=dims)
        if len(dims) == len(sizes):
            return found
        kept = jnp.expand_dims(found, dims)
        return _Each(jnp.broadcast_to(kept, spread.shape).reshape(x.stack.shape))

    def gathered(self, params: Any, x: Any) -> Any:
        """What all devices of one axis have, on each."""
        self._whole(params)
        count, dim = math.prod(self.axes.values()), params["all_gather_dimension"]
        parts = list(x.stack) if isinstance(x, _Each) else [x] * count
        return (jnp.concatenate if params["tiled"] else jnp.stack)(parts, dim)

    def scattered(self, params: Any, x: Any) -> Any:
        """Of the sum over one axis, a part on each device."""
        self._whole(params)
        count, dim = math.prod(self.axes.values()), params["scatter_dimension"]
        whole = self.reduced((*self.axes,), x, jnp.sum, lambda x, n: x * n)
        parts = jnp.split(whole, count, dim)
        return _Each(jnp.stack(parts if params["tiled"] else [p.squeeze(dim) for p in parts]))

    def permuted(self, params: Any, x: Any) -> Any:
        """From each device to another; where nothing arrives, 0."""
        self._whole(params)
        count = math.prod(self.axes.values())
        stack = x.stack if isinstance(x, _Each) else jnp.stack([x] * count)
        source = {to: start for start, to in params["perm"]}
        nothing = jnp.zeros_like(stack[0])
        return _Each(
            jnp.stack([stack[source[i]] if i in source else nothing for i in range(count)])
        )

    def _whole(self, params: Any) -> None:
        names = params["axis_name"]
        if len(self.axes) > 1 or params.get("axis_index_groups"):
            raise NotImplementedError(f"a collective over {names} of several axes of devices")


def _by_axis(spec: Any, ndim: int) -> list[tuple[str, ...]]:
    """The mesh axes that each axis of an array is cut along."""
    named = [() if n is None else (n,) if isinstance(n, str) else tuple(n) for n in spec]
    return [*named, *[()] * (ndim - len(named))]


_COLLECTIVES: dict[str, Callable[[_Grid, Any, Any], Any]] = {
    "psum": lambda grid, p, x: grid.reduced(p["axes"], x, jnp.sum, lambda x, n: x * n),
    "pmax": lambda grid, p, x: grid.reduced(p["axes"], x, jnp.max, lambda x, n: x),
    "pmin": lambda grid, p, x: grid.reduced(p["axes"], x, jnp.min, lambda x, n: x),
    "all_gather": _Grid.gathered,
    "reduce_scatter": _Grid.scattered,
    "ppermute": _Grid.permuted,
}
_COLLECTIVE_NAMES = {*_COLLECTIVES, "axis_index", *(f"{n}_invariant" for n in _COLLECTIVES)}
