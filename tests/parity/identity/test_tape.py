"""Torch's steps are recorded once: what a tape plays is what Torch gives, whatever is drawn."""

import jax
import numpy as np
import optax
import pytest
import torch
from small import LABELS, Net, X, port

from parity.identity.contest import Contest
from parity.identity.field import Algebra
from parity.identity.number import BadDraw, Field
from parity.identity.prove import prove
from parity.identity.torch_step import TorchSteps
from parity.problem import Examples, Problem, Training
from parity.sides.pairs import sides_of


def sides(torch_model, jax_model, inputs=X, optimizer=None, loss=None):
    names = {name: name for name in jax_model[1]}
    training = Training(loss, optimizer)
    problem = Problem(torch_model, jax_model, Examples((inputs, LABELS), 8), training, names)
    return sides_of(problem, "float64")


def contest(torch_model, jax_model, inputs=X, **how):
    return Contest(*sides(torch_model, jax_model, inputs, **how), inputs, LABELS, False)


def adam():
    return (lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
            optax.adamw(1e-2, weight_decay=0.1))  # fmt: skip


def parts(seen):
    """{(where, part, name): residues} of Torch's side."""
    return {
        (where, part, name): {k: v.tolist() for k, v in x.parts.items()}
        for where, _, theirs in seen
        for part, fields in theirs.items()
        for name, x in fields.items()
        if isinstance(x, Field)
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_a_tape_gives_what_torch_gives_for_another_draw_and_other_labels(seed):
    recorded = contest(Net(torch.tanh), port(jax.numpy.tanh), optimizer=adam())
    recorded.evaluated(Algebra(0))
    assert [*recorded.tapes] == [None] and len(recorded.tapes[None]) == 2
    anew = contest(Net(torch.tanh), port(jax.numpy.tanh), optimizer=adam())
    for one in (recorded, anew):
        one.on_rows(seed)
    played = parts(recorded.evaluated(Algebra(seed)))
    assert played == parts(anew.evaluated(Algebra(seed)))
    assert {part for _, part, _ in played} == {"loss", "outputs", "gradients", "step", "memory"}


def test_torch_runs_once_for_all_draws(monkeypatch):
    recorded, run = [], TorchSteps._recorded

    def counted(self, given):
        recorded.append(1)
        return run(self, given)

    monkeypatch.setattr(TorchSteps, "_recorded", counted)
    proof = prove(*sides(Net(), port(), optimizer=adam()), X, LABELS)
    assert proof.verdict == "identical" and proof.trials >= 3
    assert len(recorded) == 2  # the first and the second step


IDS = np.random.default_rng(0).integers(0, 5, (24, 4)).astype(np.int64)


class Looked(torch.nn.Module):
    """Bags of embeddings; `pick` makes logits of ids and what they look up."""

    def __init__(self, pick):
        super().__init__()
        self.a, self.pick = torch.nn.Embedding(5, 3), pick

    def forward(self, ids):
        return self.pick(ids, self.a(ids))


def looked(pick):
    """JAX's port."""
    call = lambda p, ids: pick(ids, p["a.weight"][ids])  # noqa: E731
    return call, {"a.weight": np.zeros((5, 3), np.float32)}


def mean(ids, E):
    return E.mean(1)


def masked(ids, E):
    m = (ids != 0)[..., None]
    return (E * m).sum(1) / (m.sum(1) + 1)


@pytest.mark.parametrize(
    ("theirs", "ours", "bound"),
    [
        (mean, mean, False),
        (masked, masked, False),
        # Python reads a number; floats that ids alone give; a shape that depends on them.
        (lambda ids, E: E.mean(1) * (2 if int(ids.max()) < 9 else 3),
         lambda ids, E: 2 * mean(ids, E), True),
        (lambda ids, E: (E * ids[..., None].double().cos()).sum(1),
         lambda ids, E: (E * jax.numpy.cos(ids[..., None] * 1.0)).sum(1), True),
        (lambda ids, E: E.sum(1) + 0 * E[ids == 0].sum(),
         lambda ids, E: E.sum(1), True),
    ],
    ids=["ids", "a mask", "Python reads", "floats of ids", "a shape of ids"],
)  # fmt: skip
def test_integers_of_the_batch_are_others_in_another_draw(theirs, ours, bound):
    ours, theirs = sides(Looked(theirs), looked(ours), IDS)
    assert prove(ours, theirs, IDS, LABELS).verdict == "identical"
    one = Contest(ours, theirs, IDS, LABELS, False)
    for draw in range(6):
        one.on_rows(draw)
        try:
            one.evaluated(Algebra(draw))
        except BadDraw:  # a tape that didn't fit
            assert bound and one.bound and not one.tapes
    assert one.bound == bound
    assert set(one.tapes) == ({0, 1, 2, 3} if bound else {None})


def test_a_fault_that_ids_show_is_different():
    ours, theirs = sides(Looked(masked), looked(mean), IDS)
    assert prove(ours, theirs, IDS, LABELS).verdict == "different"
