"""Bounds of sequences, order, indices and control flow, against both frameworks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from bounded_networks import excess
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from judged import Case, judge, normal, positive

from parity.rounding.bound import UnsupportedPrimitive, bound

X = normal(3, 5)
P = positive(3, 5)
ROWS = np.array([2, 0, 2])
ONES = np.ones((2, 2))

# --- along an axis ---------------------------------------------------------------------------

ALONG = [
    Case("cumsum", partial(jnp.cumsum, axis=1), lambda x: x.cumsum(1), (X,)),
    Case("cumprod", partial(jnp.cumprod, axis=1), lambda x: x.cumprod(1), (P,)),
    Case("cumprod of signs", partial(jnp.cumprod, axis=1), lambda x: x.cumprod(1), (X,)),
    Case(
        "cumprod with a zero",
        partial(jnp.cumprod, axis=0),
        None,
        (np.where(X > 1, 0, X),),
    ),
    Case("cumprod from the end", lambda x: lax.cumprod(x, 1, reverse=True), None, (P,)),
    Case("prod", partial(jnp.prod, axis=1), lambda x: x.prod(1), (X,)),
    Case("prod of all", jnp.prod, torch.prod, (P,)),
    Case("cummax", partial(lax.cummax, axis=1), lambda x: x.cummax(1).values, (X,)),
    Case("cummin", partial(lax.cummin, axis=1), lambda x: x.cummin(1).values, (X,)),
    Case(
        "cumlogsumexp",
        partial(lax.cumlogsumexp, axis=1),
        lambda x: x.logcumsumexp(1),
        (X,),
    ),
    Case(
        "logsumexp with masked entries",
        lambda x, m: jax.nn.logsumexp(jnp.where(m, x, -jnp.inf), axis=1),
        lambda x, m: torch.logsumexp(torch.where(m, x, -torch.inf), 1),
        (X, X < 1),
    ),
    Case(
        "log-softmax with masked entries, one row wholly",
        lambda x, m: jnp.where(
            m.any(1, keepdims=True), jax.nn.softmax(jnp.where(m, x, -1e9), axis=1), 0
        ),
        None,
        (X, (X > 0) & (np.arange(3) > 0)[:, None]),
    ),
    Case("differences", partial(jnp.diff, axis=1), lambda x: x.diff(dim=1), (X,)),
    Case(
        "quantile",
        lambda x: jnp.quantile(x, 0.3, axis=1),
        lambda x: x.quantile(0.3, 1),
        (X,),
    ),
    Case(
        "variance and standard deviation",
        lambda x: (jnp.var(x, ddof=1), jnp.std(x, axis=1, ddof=1)),
        lambda x: (x.var(), x.std(1)),
        (X,),
    ),
    Case(
        "associative scan",
        lambda a, b: lax.associative_scan(
            lambda s, t: (s[0] * t[0], s[1] * t[0] + t[1]), (a, b), axis=1
        )[1],
        None,
        (P, X),
    ),
]

# --- order -----------------------------------------------------------------------------------

ORDER = [
    Case("sort", partial(jnp.sort, axis=1), lambda x: x.sort(1).values, (X,)),
    Case(
        "sort of computed numbers, descending",
        lambda x: jnp.sort(jnp.exp(x), axis=0, descending=True),
        lambda x: x.exp().sort(0, descending=True).values,
        (X,),
    ),
    Case(
        "argsort",
        lambda x: jnp.argsort(jnp.tanh(x)),
        lambda x: x.tanh().argsort(),
        (X,),
        gradient=False,
    ),
    Case(
        "top_k",
        lambda x: lax.top_k(3 * x, 2)[0],
        lambda x: (3 * x).topk(2).values,
        (X,),
    ),
    Case(
        "top_k, its indices",
        lambda x: lax.top_k(3 * x, 2),
        lambda x: tuple((3 * x).topk(2)),
        (X,),
        gradient=False,
    ),
    Case(
        "the entry of the largest",
        lambda x: jnp.take_along_axis(x, jnp.argmax(3 * x, 1)[:, None], 1),
        lambda x: x.gather(1, (3 * x).argmax(1)[:, None]),
        (X,),
    ),
    Case(
        "searchsorted",
        lambda x, y: jnp.searchsorted(jnp.sort(x), 3 * y),
        lambda x, y: torch.searchsorted(x.sort().values, 3 * y),
        (X[0], X[1]),
        gradient=False,
    ),
    Case(
        "mixture of the two best experts",
        lambda x, W: _experts(x, W),
        lambda x, W: _torch_experts(x, W),
        (X, normal(5, 4)),
    ),
]


def _experts(x, W):
    score, which = lax.top_k(x @ W, 2)
    gate = jax.nn.softmax(score)
    return jnp.einsum("nk,nkd->nd", gate, jnp.tanh(W.T[which] * x[:, None]))


def _torch_experts(x, W):
    score, which = (x @ W).topk(2)
    gate = score.softmax(-1)
    return torch.einsum("nk,nkd->nd", gate, torch.tanh(W.T[which] * x[:, None]))


# --- indices ---------------------------------------------------------------------------------


def _torch_set(x, i, y, combine=lambda old, new: new):
    rows = list(x)
    for row, new in zip(i.tolist(), y, strict=True):
        rows[row] = combine(rows[row], new)
    return torch.stack(rows)


INDICES = [
    Case(
        f"take, {mode}",
        partial(jnp.take, axis=0, mode=mode),
        lambda x, i: x[i],
        (X, ROWS),
    )
    for mode in ("fill", "clip", "wrap")
]
INDICES += [
    Case(
        "take with a filled place",
        lambda x, i: x.at[i].get(mode="fill", fill_value=-2.0),
        lambda x, i: torch.cat([x, torch.full((2, 5), -2.0, dtype=x.dtype)])[i],
        (X, ROWS + 2),
    ),
    Case(
        "index add",
        lambda x, i, y: x.at[i].add(y),
        lambda x, i, y: x.index_add(0, i, y),
        (X, ROWS, 2 * X),
    ),
    Case("index set", lambda x, i, y: x.at[i].set(y), _torch_set, (X, ROWS[:2], X[:2])),
    Case(
        "index multiply",
        lambda x, i, y: x.at[i].multiply(y, unique_indices=True),
        partial(_torch_set, combine=torch.mul),
        (X, ROWS[:2], P[:2]),
    ),
    Case(
        "index multiply, twice",
        lambda x, i, y: (3 * x).at[i].multiply(y),
        lambda x, i, y: _torch_set(3 * x, i, y, torch.mul),
        (X, ROWS, P),
        gradient=False,
    ),
    Case(
        "index max and min",
        lambda x, i, y: (x.at[i].max(y), x.at[i].min(y)),
        lambda x, i, y: (_torch_set(x, i, y, torch.maximum), _torch_set(x, i, y, torch.minimum)),
        (X, ROWS, 2 * X),
        gradient=False,
    ),
    Case(
        "segment sum and max",
        lambda x, i: (jax.ops.segment_sum(x, i, 3), jax.ops.segment_max(x, i + 0, 3)),
        None,
        (X, np.array([0, 1, 2])),
    ),
    Case(
        "dynamic slice and update",
        lambda x, i: lax.dynamic_update_slice(
            x, 2 * lax.dynamic_slice(x, (i, np.int32(1)), (2, 3)), (np.int32(0), i)
        ),
        None,
        (X, np.int32(1)),
    ),
    Case(
        "roll, flip, tile, repeat, pad",
        lambda x: (
            jnp.roll(x, 2, 1), jnp.flip(x, 0), jnp.tile(x, (1, 2)), jnp.repeat(x, 2, 0),
            jnp.pad(x, 1, mode="reflect"), jnp.tril(x), x[:, ::-2], jnp.stack([x, x], 1),
        ),
        lambda x: (
            x.roll(2, 1), x.flip(0), x.tile(1, 2), x.repeat_interleave(2, 0),
            torch.nn.functional.pad(x[None, None], (1, 1, 1, 1), mode="reflect")[0, 0], x.tril(),
            x.flip(1)[:, ::2], torch.stack([x, x], 1),
        ),
        (X,),
    ),
    Case(
        "integers",
        lambda i: (
            i // 2, i % 3, -i // 2, i << 2, i**2, jnp.cumsum(i), jnp.cumprod(i + 1),
            jnp.sort(i), jnp.prod(i + 1), jnp.bitwise_xor(i, 5), jnp.bincount(i, length=4),
            jnp.sign(i - 1), jnp.unique(i, size=3), lax.population_count(i), jnp.clip(i, 1),
        ),
        None,
        (ROWS,),
        gradient=False,
    ),
    Case(
        "random numbers of a given key",
        lambda x: (
            x * jax.random.bernoulli(jax.random.key(0), 0.5, x.shape)
            + jax.random.normal(jax.random.key(1), x.shape)
            + jax.random.uniform(jax.random.key(2), x.shape),
            jax.random.permutation(jax.random.key(3), x),
            jax.random.categorical(jax.random.key(4), x),
            jax.random.truncated_normal(jax.random.key(5), -2, 2, (3,)),
            jax.random.randint(jax.random.key(5), (3,), 0, 9),
        ),
        None,
        (X,),
    ),
]  # fmt: skip

# --- control flow and transformations --------------------------------------------------------


@jax.custom_jvp
def _rooted(x):
    return jnp.sqrt(x)


_rooted.defjvp(lambda p, t: (_rooted(*p), t[0] / (2 * _rooted(*p))))


@jax.custom_vjp
def _clipped(x):
    return x * x


_clipped.defvjp(lambda x: (x * x, x), lambda x, g: (jnp.clip(2 * x * g, -1, 1),))


def _newton(x):
    def better(state):
        i, root = state
        return i + 1, (root + x / root) / 2

    return lax.while_loop(lambda state: state[0] < 4, better, (0, x))[1]


def _slope(x):
    return jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 3))(x)


FLOW = [
    Case("fori_loop", lambda x: lax.fori_loop(0, 4, lambda i, s: s * 0.5 + x * i, x), None, (X,)),
    Case("while_loop of a counter", _newton, None, (P,), gradient=False),
    Case(
        "while_loop, mapped, of counters of its own",
        jax.vmap(lambda n, x: lax.while_loop(
            lambda s: s[0] > 0, lambda s: (s[0] - 1, s[1] * 1.1), (n, x))[1]),
        None,
        (ROWS, X),
        gradient=False,
    ),
    Case("cond", lambda x: lax.cond(x[0, 0] > 9, jnp.sin, jnp.cos, x), torch.cos, (X,)),
    Case(
        "switch by an integer",
        lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x),
        lambda i, x: torch.tanh(x),
        (np.int32(2), X),
    ),
    Case(
        "switch, mapped",
        lambda i, x: jax.vmap(lambda i, x: lax.switch(i, [jnp.sin, jnp.cos, jnp.tanh], x))(i, x),
        None,
        (ROWS, X),
    ),
    Case("custom_jvp", _rooted, torch.sqrt, (P,)),
    Case("custom_vjp", _clipped, None, (X,)),
    Case(
        "checkpoint",
        jax.checkpoint(lambda x: jnp.tanh(x @ jnp.ones((5, 2), x.dtype))),
        lambda x: torch.tanh(x @ torch.ones(5, 2, dtype=x.dtype)),
        (X,),
    ),
    Case(
        "stop_gradient",
        lambda x: x * lax.stop_gradient(jnp.tanh(x)),
        lambda x: x * torch.tanh(x).detach(),
        (X,),
    ),
    Case(
        "vmap",
        lambda x, y: jax.vmap(jax.vmap(jnp.dot, (0, None)), (None, 0))(x, y),
        lambda x, y: y @ x.T,
        (X, P),
    ),
    Case(
        "jvp of a gradient",
        lambda x: jax.jvp(_slope, (x,), (jnp.ones_like(x),))[1],
        None,
        (X,),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", ALONG + ORDER + INDICES + FLOW, ids=str)
def test_an_operation_on_sequences_and_its_gradient_stay_within_their_bounds(case):
    judge(case)


# --- what stays uncertain, or is refused ------------------------------------------------------


def test_near_ties_leave_the_order_open_and_the_sorted_numbers_known():
    x = np.float32([3, 1, 1 + 2.0**-23, -2])
    near = bound(lambda x: (jnp.sort(x * 1.1), jnp.argsort(x * 1.1), lax.top_k(x * 1.1, 1)), x)
    values, order, (top, which) = near.bound
    assert np.all(values < 1e-6) and top < 1e-6 and which == 0
    assert order.tolist() == [0, 3, 3, 0]
    exact = bound(lambda x: (jnp.sort(x), jnp.argsort(x)), np.float32([1, 1, 0]))
    assert not exact.bound[0].any() and not exact.bound[1].any()


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_sorted_numbers_moved_by_up_to_their_errors_stay_within_the_bound(data):
    numbers = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 1.0, 1.25, 3.0]), min_size=5, max_size=5)
    x = np.array(data.draw(numbers), np.float32)
    errors = np.array(
        data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=5, max_size=5))
    )
    moved = x + errors * np.array(data.draw(st.lists(st.floats(-1, 1), min_size=5, max_size=5)))
    moved = moved.astype(np.float32)
    found = bound(_ordered, x, input_bounds=(errors,))
    order = np.argsort(moved, stable=True)
    results = moved[order], order, -np.sort(-moved)[:2], np.argsort(-moved, stable=True)[:2]
    assert excess(results, found) <= 1


def _ordered(x):
    return jnp.sort(x), jnp.argsort(x), *lax.top_k(x, 2)


def test_an_index_in_doubt_reads_and_writes_anywhere():
    x = np.float32([1, 1 + 2.0**-23, 7])

    def chosen(x):
        return x[jnp.argmin(x * 1.1)]

    found = bound(jax.value_and_grad(chosen), x)
    (value, g), doubt = found.value, found.bound
    assert value == 1 and 6 <= doubt[0] < 20 and g.tolist() == [1, 0, 0]
    assert np.all((doubt[1] >= 1) & (doubt[1] < 2.1))


@pytest.mark.parametrize(
    "name, fn",
    [
        ("cholesky", jnp.linalg.cholesky),
        ("triangular_solve", lambda x: lax.linalg.triangular_solve(x, x)),
        ("lu", jnp.linalg.inv),
        ("svd", jnp.linalg.svd),
        ("householder_product|geqrf|qr", jnp.linalg.qr),
        ("eigh", jnp.linalg.eigh),
        ("fft", lambda x: jnp.fft.rfft(x).real),
        ("complex", lambda x: jnp.abs(x + 1j)),
        ("of complex numbers", lambda x: x * np.complex64(1j)),
        ("igamma", lambda x: jax.scipy.special.gammainc(x, x)),
    ],
)
def test_what_has_no_rule_is_refused_by_name(name, fn):
    with pytest.raises(UnsupportedPrimitive, match=name):
        bound(fn, np.eye(2, dtype=np.float32) + 1)
