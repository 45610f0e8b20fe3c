"""Nested dicts, tuples and lists of arrays, and the names of their leaves. NumPy only."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

Tree = Any  # an array, or a dict, tuple or list of trees
NOTHING: Mapping[str, Any] = MappingProxyType({})
Arrays = dict[str, np.ndarray]  # leaves by name: "layers.0.W"
Leaves = dict[str, Any]  # the same, of any framework's arrays, traced or not


def leaves(tree: Tree, single: str = "") -> dict[str, Any]:
    """{dotted name: leaf}. single: the name of a tree that is one leaf. None is no leaf."""
    return dict(_walk(tree, single))


def mapped(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """The same tree, with every leaf replaced by function(leaf)."""
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [mapped(function, value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return None if tree is None else function(tree)


def filled(tree: Tree, new: Iterator[Any]) -> Tree:
    """The same tree, with its leaves taken from `new` in order."""
    return mapped(lambda _: next(new), tree)


def arguments(inputs: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a model is called: a dict holds named arguments, a tuple or list positional ones."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (list, tuple)) else ((inputs,), {})


def only(tree: Tree) -> Any:
    """The one leaf of a tree that has but one; else the tree."""
    found = list(leaves(tree).values())
    return found[0] if len(found) == 1 else tree


def shapes(tree: Tree) -> tuple[Any, ...]:
    """(name, shape, type) of each leaf."""
    return tuple(
        (n, np.shape(x), str(getattr(x, "dtype", type(x)))) for n, x in leaves(tree).items()
    )


def length(tree: Tree) -> int:
    """Examples in a batch: the first axis of its first leaf."""
    return len(next(iter(leaves(tree).values())))


def _walk(tree: Tree, name: str) -> Iterator[tuple[str, Any]]:
    items: Any
    if isinstance(tree, Mapping):
        items = tree.items()
    elif isinstance(tree, tuple) and hasattr(tree, "_fields"):
        items = zip(tree._fields, tree, strict=True)
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        if tree is not None:
            yield name, tree
        return
    for key, value in items:
        yield from _walk(value, f"{name}.{key}" if name else str(key))
