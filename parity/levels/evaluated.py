"""What one batch gives, part by part: logits, loss, gradients, step, state.

float32: each side against the float64 value, within its rounding bound. float64: the sides against
each other, within twice the bound, since both err. Without a bound, or where it says nothing, by
effective bits; the step then from each side's own gradients, for Adam turns their rounding to more.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from parity.comparison import Comparison, compare_trees
from parity.levels.effective_bits import FLOAT32, RATIO, same_bits, same_in_float64
from parity.levels.level import Judge, Level, Skipped
from parity.levels.pair import Pair
from parity.sides.memory import marked, paired
from parity.sides.reference import room
from parity.sides.side import SIDES, Evaluation
from parity.trees import Arrays

NEARLY, ENOUGH = 4.0, 8  # times as far as the other side, of leaves with so many elements
TWINS, FURTHER = 8, 4.0  # as `curve` has them, for the same reason


def level_of(part: str, asks: str, name: str = "") -> Level:
    """The level that judges one part of the evaluation."""
    return Level(
        name or part,
        asks,
        "rounding bound",
        judge_part(part),
        note=lambda pair, precision: _note(pair, precision, part),
        part=part,
        needs="forward" if part == "logits" else "gradient",
    )


def judge_part(part: str) -> Judge:
    """A part of the evaluation, on a full and on a partial batch, against its rounding bound."""

    def judge(pair: Pair, precision: str) -> list[Comparison]:
        if pair.infer and part != "logits":
            raise Skipped("there are no targets: outputs alone are compared")
        found = _judged(pair, precision, part)
        doubt = not all(c.ok and not c.unjudged for c in found)
        if precision == "float64" and doubt and (why := pair.narrow):
            raise Skipped(why)
        return found

    return judge


def _judged(pair: Pair, precision: str, part: str) -> list[Comparison]:
    if pair.unbounded(precision):
        return _by_bits(pair, part, precision)
    without = _wide(pair, precision, part)
    judge = _by_own_gradients if part == "step" else _by_bits
    found = judge(pair, part, precision, without) if without else []
    wide = {name for name, entirely in without.items() if entirely}
    for batch in pair.batches:
        sides = {s: compared(pair, pair.evaluate(s, precision, batch), part) for s in SIDES}
        expected = pair.expected(precision, batch)
        value, bound = (compared(pair, e, part) for e in (expected.value, expected.bound))
        name = f"{batch}: "
        value, bound, *own = (
            {n: leaf for n, leaf in tree.items() if n not in wide}
            for tree in (value, bound, *(sides[s] for s in SIDES))
        )
        sides = dict(zip(SIDES, own, strict=True))
        if precision == "float64":
            twice = {key: 2 * leaf for key, leaf in bound.items()}
            some = compare_trees(sides["jax"], sides["torch"], twice, sides=SIDES, name=name)
        else:
            within = {key: room(leaf) for key, leaf in bound.items()}
            some = []
            for s in SIDES:
                against = (s, "float64 value")
                some += compare_trees(sides[s], value, within, sides=against, name=name)
            if pair.narrower:
                some += _as_near(value, sides, name)
        both = {f"{name}.{leaf}" for leaf in without}
        found += [replace(c, unjudged=0) if c.name in both else c for c in some]
    return found


def _as_near(value: Arrays, sides: Mapping[str, Arrays], name: str) -> list[Comparison]:
    """In mixed precision: each side as near to the float64 value as the other, to 2 bits.

    The bound of a program that narrows its numbers is wide, and holds for one that doesn't. But two
    programs that narrow the same numbers err alike, over the elements of a leaf.
    """
    found = []
    for leaf, exact in value.items():
        if exact.size >= ENOUGH and all(leaf in side for side in sides.values()):
            own = {s: side[leaf] for s, side in sides.items()}
            label = f"{name}{leaf}: distance from the float64 value, in mixed precision"
            found += same_bits(exact, own, label, ratio=NEARLY)
    return found


def compared(pair: Pair, one: Evaluation, part: str) -> Arrays:
    """The leaves of a part that both sides can have: of a frozen parameter Torch has no gradient,
    and a count that one optimiser keeps is the other's to compute."""
    found = one.part(part)
    if part == "gradients":
        return {name: leaf for name, leaf in found.items() if name not in pair.frozen}
    if part == "step":
        batch = next(iter(pair.batches))
        each = [pair.evaluate(s, "float32", batch).part(part) for s in SIDES]
        return paired(found, each, lambda: pair.idle)
    if part == "state":
        return {name: leaf for name, leaf in found.items() if name in pair.state}
    return found


def _wide(pair: Pair, precision: str, part: str) -> dict[str, bool]:
    """The leaves whose bound says nothing, for a deep model amplifies its worst case: wherever it
    is wider than all values of the part, or in float64 than one rounding of them to float32.

    False: it says something of some elements alone, as that an unused row of a table has a gradient
    of 0. These are held against their bound too.
    """
    if pair.without_float64 or pair.narrow:  # no float64 values to be near to
        return {}
    share, found = {"float64": FLOAT32}.get(precision, 1.0), dict[str, bool]()
    for batch in pair.batches:
        expected = pair.expected(precision, batch)
        value, bound = (compared(pair, e, part) for e in (expected.value, expected.bound))
        most = share * max(float(np.abs(leaf).max(initial=0.0)) for leaf in value.values())
        for name, leaf in bound.items():
            if np.min(leaf, initial=np.inf) > most:
                found.setdefault(name, True)
            elif np.isinf(leaf).any() or (leaf.any() and leaf[leaf > 0].min() > most):
                found[name] = False
    return found


def _by_own_gradients(
    pair: Pair, part: str, precision: str, only: Collection[str]
) -> list[Comparison]:
    """Each side's step from its own gradients, within the rounding bound of the optimiser alone."""
    reference, found = pair.reference(precision), []
    memory = reference.side.memory()
    for batch in pair.batches:
        of_jax = pair.evaluate("jax", precision, batch).gradients
        for s in SIDES:
            one = pair.evaluate(s, precision, batch)
            own = compared(pair, one, part)
            gradients = reference.side.typed(of_jax | one.gradients)
            b = reference.update(pair.params, gradients, memory)
            value, limit = (params | marked(kept) for params, kept in (b.value, b.bound))
            names = [name for name in own if name in only and name in value]
            found += compare_trees(
                {name: own[name] for name in names},
                {name: value[name] for name in names},
                {name: room(limit[name]) for name in names},
                sides=(s, "its gradients' step"),
                name=f"{batch}: ",
            )
    return found


def _by_bits(pair: Pair, part: str, precision: str, only: Collection[str] = ()) -> list[Comparison]:
    found = []
    # The side that is wide in float64 has the value; what a narrow one gives is no nearer to it.
    wide = "torch" if pair.narrow and [*pair.narrow_in_float64] == ["jax"] else "jax"
    for batch in pair.batches:
        exact, own = (
            {s: compared(pair, pair.evaluate(s, p, batch), part) for s in SIDES}
            for p in ("float64", "float32")
        )
        for leaf, value in exact[wide].items():
            if only and leaf not in only:
                continue
            name = f"{batch}: .{leaf}"
            float64, float32 = ({s: tree[s][leaf] for s in SIDES} for tree in (exact, own))
            if precision == "float64":
                found.append(same_in_float64(float64, float32, name))
            else:
                label = f"{name}: distance from the float64 value"
                mixed = pair.narrower and value.size >= ENOUGH  # see _as_near
                judged = same_bits(value, float32, label, ratio=NEARLY if mixed else RATIO)
                if part in _TURNED and not all(c.ok for c in judged) and not (mixed or pair.narrow):
                    # A ReLU's sign that rounding turns on one side outweighs all other rounding.
                    far = pair.strayed(batch, part, TWINS, RATIO * FLOAT32).get(leaf, 0.0)
                    judged = same_bits(value, float32, label, allowed=FURTHER * far)
                found += judged
    return found


_TURNED = ("logits", "loss", "gradients")


def _note(pair: Pair, precision: str, part: str) -> str:
    """The share of the probabilistic bound that was used, and the kinks that the bounds allow for.

    Above 1 rounding alone is an unlikely reason: suspicious, if still no proof.
    """
    turned = ""
    if precision == "float32" and any(pair.has_strayed(batch) for batch in pair.batches):
        turned = (
            f"; a ReLU's sign may have turned: as far off as {TWINS} float64 evaluations are, of "
            f"weights off by up to {RATIO:.0f} roundings of float32"
        )
    if why := pair.unbounded(precision):
        return f"judged by effective bits, for there is no rounding bound: {why}{turned}"
    if without := _wide(pair, precision, part):
        how = "from each side's own gradients" if part == "step" else "by effective bits"
        named = ", ".join(sorted(without))
        return f"judged {how}, for the bound says nothing: {named}{turned}"
    if precision == "float64":
        return ""
    share, kinks = 0.0, Counter[str]()
    for batch in pair.batches:
        expected = pair.expected(precision, batch)
        value, likely = (compared(pair, e, part) for e in (expected.value, expected.likely))
        for s in SIDES:
            own = compared(pair, pair.evaluate(s, precision, batch), part)
            share = max([share, *(c.margin for c in compare_trees(own, value, likely))])
        kinks.update(expected.kinks)
    said = f"{share:.2g} of the probabilistic bound" + ("; SUSPICIOUS" * (share > 1))
    if part == "gradients":
        places = "".join(f", {count} at {place}" for place, count in kinks.items())
        said += f"; {kinks.total()} signs within rounding of 0, either is allowed{places}"
        if pair.frozen:
            said += f"; frozen, so without a gradient in Torch: {', '.join(sorted(pair.frozen))}"
    return said
