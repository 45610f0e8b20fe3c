"""Degrees of the rational functions that a program computes, as bounds that its operations give.

What is drawn has degree 1, and so has what an exponential, a logarithm, a root or a function
without a law gives: these count as elements of their own.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Any, NamedTuple

Group = int  # the elements of a tensor that something was divided by


class Degree(NamedTuple):
    """Of each element of a tensor, N / product of all denominators. excess: at most the degree of N
    less that of the denominators; below: {group: how often each of its elements is one}."""

    excess: int
    below: Mapping[Group, int]


ZERO, ONE = Degree(0, {}), Degree(1, {})


@dataclass
class Degrees:
    """Of one evaluation. sizes: {group: the degrees of its elements together}. passed: those of
    values that were exchanged for others, together: a difference could be lost in each."""

    sizes: list[int] = field(default_factory=list)
    passed: int = 0
    keys: dict[Any, Group] = field(default_factory=dict)

    def under(self, below: Mapping[Group, int]) -> int:
        """The degree of the denominators."""
        return sum(n * self.sizes[group] for group, n in below.items())

    def inverse(self, a: Degree, count: int, key: Any) -> Degree:
        """D / N. count: elements; key: equal for what both sides divide by."""
        above = a.excess + self.under(a.below)
        if above <= 0:
            return Degree(-a.excess, {})
        group = self.keys.setdefault(key, len(self.sizes))
        if group == len(self.sizes):
            self.sizes.append(0)
        self.sizes[group] = max(self.sizes[group], count * above)
        return Degree(-a.excess, {group: 1})

    def of_difference(self, a: Degree, b: Degree) -> int:
        """The degree of the numerator of a - b."""
        whole = added(a, b)
        return max(1, whole.excess + self.under(whole.below)) + self.passed


def added(*each: Degree) -> Degree:
    """Of a sum; and of numbers that were put side by side."""
    below = {id(one.below): one.below for one in each}
    return Degree(max(one.excess for one in each), _merged(below.values(), max))


def multiplied(*each: Degree) -> Degree:
    """Of a product."""
    return Degree(sum(one.excess for one in each), _merged((one.below for one in each), add))


def _merged(
    each: Iterable[Mapping[Group, int]], both: Callable[[int, int], int]
) -> Mapping[Group, int]:
    """All groups; of one that several have, what `both` makes of the numbers."""
    first, *others = [one for one in each if one] or [ZERO.below]
    if not others:  # nearly always: nothing is copied
        return first
    merged = dict(first)
    for one in others:
        for group, n in one.items():
            merged[group] = both(merged[group], n) if group in merged else n
    return merged


def power(a: Degree, n: int) -> Degree:
    """Of a^n, n >= 0."""
    return Degree(a.excess * n, {group: m * n for group, m in a.below.items()})
