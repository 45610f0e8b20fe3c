"""Chains of primes p, 2p + 1, 4p + 3, ...: the exponents of one field are the next one's group."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

Array = Any  # of NumPy; results without axes are its scalars
# p = -1 modulo 840: then 2, 3, 5, 7, and so every decimal, are squares modulo p, and -1 is none;
# 2p + 1 is again -1 modulo 840. A square stands for a positive number.
MODULUS = 840
LARGEST = 30  # bits of any prime: products of two fit 64
BABY = 2**18
AT_ONCE = 2**20  # numbers looked up
SMALL = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
PRODUCT = math.prod(SMALL)
FEW = 16  # numbers of which powers are taken faster one by one


def bits(length: int) -> int:
    """All primes of a chain are above 2^bits."""
    return LARGEST - length


@lru_cache(maxsize=8)
def chain(length: int, seed: int = 0) -> tuple["Prime", ...]:
    """So many primes, each twice the last and one more; the seed says which chain."""
    rng = np.random.default_rng(seed)
    while True:
        low = 2 ** bits(length)
        start = int(rng.integers(low, 2 * low)) // MODULUS * MODULUS + MODULUS - 1
        while start < 2 * low:
            found = [2**k * (start + 1) - 1 for k in range(length)]
            if all(map(is_prime, found)):
                return tuple(map(Prime, found))
            start += MODULUS


def is_prime(n: int) -> bool:
    """Miller-Rabin with bases 2, 3, 5, 7, which decides below 3,215,031,751."""
    if math.gcd(n, PRODUCT) > 1:
        return n in SMALL
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        x = pow(base, odd, n)
        if x in (1, n - 1):
            continue
        if not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


@dataclass(frozen=True)
class Prime:
    """The field of p elements; its squares are the powers of g = 4, a group of order (p - 1)/2."""

    p: int

    def power(self, x: Array, n: int) -> Array:
        """x^n elementwise, n >= 0."""
        if np.size(x) <= FEW:
            each = [pow(v, n, self.p) for v in x.ravel().tolist()]
            return np.array(each, np.int64).reshape(x.shape)
        found, square = np.ones_like(x), x
        while n:
            if n & 1:
                found = found * square % self.p
            n >>= 1
            square = square * square % self.p if n else square
        return found

    def root(self, x: Array) -> Array:
        """x^((p + 1)/4), whose square is x, or -x if that is none of a square."""
        return self.power(x, (self.p + 1) // 4)

    def inverse_root(self, x: Array) -> Array:
        """1 / root(x); of 0 it is 0."""
        return self.power(x, (3 * self.p - 5) // 4)

    def inverse(self, x: Array) -> Array:
        """1 / x, by Fermat; of 0 it is 0."""
        return self.power(x, self.p - 2)

    def character(self, x: Array) -> Array:
        """Legendre's symbol: 1 for a square, -1 for none, 0 for 0."""
        found = self.power(x, (self.p - 1) // 2)
        return np.where(found == self.p - 1, -1, found).astype(np.int8)

    def exponential(self, x: Array) -> Array:
        """4^x for exponents modulo (p - 1)/2."""
        low, high = self._powers
        return low[x % BABY] * high[x // BABY] % self.p

    def logarithm(self, x: Array) -> Array:
        """The exponent of squares, by baby steps and giant steps."""
        ladder, order = self._ladder
        step = pow(pow(4, BABY, self.p), -1, self.p)
        giants = _powers_of(step, self.p // 2 // BABY + 2, self.p)
        flat, found = x.ravel(), np.full(x.size, -1, np.int64)
        for start in range(0, len(giants), wide := max(1, AT_ONCE // max(1, x.size))):
            lone = np.flatnonzero(found < 0)
            tried = flat[lone, None] * giants[start : start + wide] % self.p
            at = np.minimum(np.searchsorted(ladder, tried), BABY - 1)
            row, giant = np.nonzero(ladder[at] == tried)
            found[lone[row]] = (start + giant) * BABY + order[at[row, giant]]
            if (found >= 0).all():
                break
        return found.reshape(x.shape) % ((self.p - 1) // 2)

    @cached_property
    def _ladder(self) -> tuple[Array, Array]:
        """Powers in order, and of what exponent each is."""
        low, _ = self._powers
        order = np.argsort(low)
        return low[order], order

    @cached_property
    def _powers(self) -> tuple[Array, Array]:
        step = pow(4, BABY, self.p)
        return _powers_of(4, BABY, self.p), _powers_of(step, self.p // 2 // BABY + 2, self.p)


def _powers_of(base: int, count: int, p: int) -> Array:
    """1, base, base^2, ..."""
    found = np.ones(1, np.int64)
    while len(found) < count:
        factor = pow(base, len(found), p)
        found = np.concatenate([found, found * factor % p])
    return found[:count]
