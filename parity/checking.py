"""check and assert_parity: the ladder as a library call on a pair of models."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Literal

from jax_mlp import programs
from mlp_core.checkpoint import CheckpointError, Checkpoints
from mlp_core.resuming import checkpoints
from parity import defaults
from parity.collector import set_aside
from parity.levels.curve import curves
from parity.levels.ladder import LEVELS, climb, named
from parity.levels.level import Level, Result
from parity.levels.pair import Pair
from parity.levels.precision import bits_used
from parity.levels.saved_levels import saved_levels
from parity.levels.verdict import Verdict
from parity.locate.alignment import Alignment, aligned
from parity.locate.divergence import Divergence, locate
from parity.problem import Known, Loss, Problem, Weights
from parity.sides.asked import asked
from parity.sides.guess import Guess
from parity.sides.jax_port import JaxPort
from parity.sides.pairs import guessed, plain_settings, sides_of
from parity.sides.torch_port import TorchPort
from parity.sides.usable import refuse_unusable

LATE = 200  # steps, whose batches are kept to trace the last of them to a line of code


@programs.kept()
@plain_settings()
def check(
    one: Any,
    other: Any,
    data: Any = None,
    *,
    loss: Loss = None,
    optimizer: tuple[Any, Any] | None = None,
    weights: Weights = None,
    state: Mapping[str, str] | None = None,
    mode: Literal["train", "eval"] | None = None,
    known: Iterable[Sequence[str]] = (),
    initial: tuple[Callable[[int], Any], Callable[[int], Any]] | None = None,
    gradient: Callable[..., Any] | None = None,
    kernel: Literal["scan", "fused"] = "scan",
    images: Literal["floats", "bytes"] = "floats",
    accumulate: int = 1,
    epochs: int = defaults.EPOCHS,
    batch_size: int = defaults.BATCH_SIZE,
    seed: int = defaults.SEED,
    lr: float = defaults.LEARNING_RATE,
    certify: bool = defaults.CERTIFY,
    device: str | None = None,
    levels: Sequence[Level | str] = LEVELS,
    pair: str | None = None,
    checkpoint: str | os.PathLike | Checkpoints | None = None,
    resume: bool = False,
    on_start: Callable[[str], None] = lambda what: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> Verdict:
    """Load the Torch model's weights into the JAX model and climb the ladder with both.

    one, other: the models, in either order. Torch's is a torch.nn.Module; JAX's a flax.nnx.Module,
    (flax.linen module, variables), (function, params) with function(params, *inputs) -> outputs and
    params any pytree of arrays, or an equinox.Module. Neither model is changed.
    data: (inputs, targets) or (inputs, targets, validation inputs, validation targets): arrays
    [examples, ...] of float32, integers or booleans. Inputs are one array, a tuple of them
    (positional arguments) or a dict (named ones); targets any tree, or None: then outputs alone are
    compared. Or a folder of Fashion-MNIST, "sample", None to look for it.
    loss: "cross_entropy", "mse", "bce_with_logits", or (Torch's function, JAX's function) of
    (outputs, targets) -> mean; None: the models' own `training_step` or `loss`, else cross-entropy.
    optimizer: (Torch's: parameters -> torch.optim.Optimizer, or (Optimizer, LRScheduler); JAX's: an
    optax transformation); None: the models' own, else plain SGD at rate `lr`. accumulate: batches
    whose gradients make one step.
    weights: a table {path in the JAX model: name in the Torch model} of every parameter, for
    instance {"out.kernel": "head.weight"}, or the other way round, where the weight of an nn.Linear
    is turned to [in, out]; or a function that takes Torch's {name: array}, oriented as in its
    state_dict, and returns JAX's {path: array}, nested or not, by moving its
    elements; "guess" finds one by shapes, names and order, prints it, and refuses where two fit;
    None pairs MLPs by their layers, and equal names. state: such a table of statistics,
    {"bn.mean": "bn.running_mean"}; None pairs those of layers whose parameters are paired.
    mode: "train" or "eval", of both models while they train; None: as they are given.
    known: (level, leaf, reason) of differences that are accepted; level "*" is any, leaf a part of
    the compared leaf's name.
    initial: (seed -> a new Torch model, seed -> a new JAX model), to compare initial weights.
    gradient: JAX's own (params, *inputs, targets) -> (loss, gradients like params), for instance a
    step over devices under shard_map; of a (function, params) alone. None: jax.grad of the loss.
    kernel: what trains JAX's model in float32: "fused", the Pallas kernels of
    jax_mlp.Trainer(kernel="fused"), for the book's models alone; interpreted on a CPU.
    images: what JAX's model gets in float32: "bytes", whose products take three passes of bfloat16,
    of jax_mlp.Trainer(images="bytes"), for the book's models on Fashion-MNIST alone.
    levels: those to climb, or their names: ("logits", "step").
    epochs: length of the training curves. certify: whether every step of them is judged by its own
    rounding bound. device: "cpu", "cuda" or "tpu", where both compute, but Torch on the CPU beside
    a TPU; None: on JAX's default device, and where Torch's model lies. checkpoint: a folder where
    each level's result is kept when it is found; resume: those found there are taken as they are,
    if it is the same question to the same code, and a check that was killed goes on at the level
    where it was. on_start, on_result: called as levels begin and end.

    Compiled programs are kept in the user's cache, unless JAX has a folder for them already. What
    is set globally (disable_jit, x64, strict promotion, default types, gradients off, autocast) has
    no effect while it lasts, and is as it was afterwards: docs/reliability.md.
    Returns a Verdict. Raises CheckpointError for results of another question, or none that is
    whole; TypeError for what is no such model; ValueError if parameters cannot
    be paired or have other shapes, if the outputs have, if inputs aren't finite, if something of
    Torch lies elsewhere than on the CPU or CUDA, or if a model gives different outputs for the same
    inputs.

        >>> verdict = check(theirs, ours, (X, None), weights="guess", levels=["inputs", "logits"])
        >>> print(verdict.brief.splitlines()[0])
        flax.nnx.nn.linear.Linear = torch.nn.modules.linear.Linear: agree
    """
    problem = asked(
        one,
        other,
        data,
        loss=loss,
        optimizer=optimizer,
        mode=mode,
        lr=lr,
        accumulate=accumulate,
        batch_size=batch_size,
        seed=seed,
        weights=weights,
        state=state,
        known=tuple(_known(difference) for difference in known),
        initial=initial,
        gradient=gradient,
        kernel=kernel,
        images=images,
        epochs=epochs,
        certify=certify,
        device=device,
    )
    _check_length(problem)
    place = checkpoints(checkpoint)
    return solve(problem, named(levels), pair, on_start, on_result, place, resume)


def solve(
    problem: Problem,
    levels: Sequence[Level] = LEVELS,
    label: str | None = None,
    on_start: Callable[[str], None] = lambda what: None,
    on_result: Callable[[Result], None] = lambda result: None,
    place: Checkpoints | None = None,
    resume: bool = False,
) -> Verdict:
    """Climb the ladder with both models of a Problem. place, resume: where results are kept, and
    whether to go on from there. Raises as `check` does."""
    if resume and place is None:
        raise CheckpointError("resume: expected checkpoint=FOLDER, to go on from")
    problem = guessed(problem)
    pair = Pair.of(problem, on_start)
    jax, torch = pair.jax["float32"], pair.torch["float32"]
    refuse_unusable(jax, torch)
    pair.chosen = tuple(levels) != LEVELS
    pair.outputs_alone = all(level.needs == "forward" for level in levels)
    before = ("loss", "gradients")  # three numbers a weight less, in each of them
    pair.without_step = all(x.needs == "forward" or x.part in before for x in levels)
    results: list[Result] = []
    with set_aside(), saved_levels(place, resume, problem, pair, levels) as saved:
        for result in climb(pair, levels, saved.before):
            results.append(result)
            if len(results) > len(saved.before):
                saved.save(results, pair)
            on_result(result)
    abouts = {
        side: one.about() | {"bits of products": bits_used(side, results)}
        for side, one in (("jax", jax), ("torch", torch))
    }
    about = abouts | {
        "parameters": {name: list(array.shape) for name, array in pair.params.items()},
        "state": {name: list(array.shape) for name, array in pair.state.items()},
        "batch_size": problem.examples.batch_size,
        "epochs": problem.epochs,
        "seed": problem.examples.seed,
        "certify": problem.certify,
    }
    all_curves = {
        f"{side} {dtype}" if scale == 1.0 else "yardstick": curves(run)
        for (side, dtype, scale), run in pair.runs()
    }
    if isinstance(problem.weights, Guess):
        about["weights were guessed"] = problem.weights.text
    label = label or f"{abouts['jax']['model']} = {abouts['torch']['model']}"
    first = _first_divergence(pair, results)
    apart = _apart(pair, results, first)
    notes = tuple(_notes(problem, pair, results))
    pair.forget()
    return Verdict(label, tuple(results), all_curves, about, first, pair.certified, notes, apart)


@plain_settings()
def align(
    one: Any,
    other: Any,
    data: Any = None,
    *,
    loss: Loss = None,
    optimizer: tuple[Any, Any] | None = None,
    weights: Weights = None,
    state: Mapping[str, str] | None = None,
    mode: Literal["train", "eval"] | None = None,
    known: Iterable[Sequence[str]] = (),
    names: Mapping[str, str] | None = None,
    accumulate: int = 1,
    batch_size: int = defaults.BATCH_SIZE,
    seed: int = defaults.SEED,
    lr: float = defaults.LEARNING_RATE,
    steps: int = 1,
) -> Alignment:
    """Which tensors of a training step both models compute, whatever they are called.

    Takes what `check` does, and aligns the last of some steps: two tensors correspond if they are
    the same numbers within their rounding bound in float64, up to their order. So a port that is
    half finished shows which of Torch's layers are there. known: differences that are no parting.
    accumulate: each batch is taken so often, for one step.
    names: tensors that have a name on both sides, {JAX's: Torch's}: a hint, never needed, by which
    partners of the same numbers are told apart; those of other numbers are said to be. JAX's is a
    name stack (jax.named_scope, a Linen module), a checkpoint_name or what an NNX module sows;
    Torch's a module's path.
    Raises as `check` does; UnsupportedPrimitive for an operation of JAX's without a rounding rule;
    ValueError for a name that isn't there.

        >>> alignment = align(theirs, ours, (X, None), weights="guess")
        >>> print(alignment.parting)
        None
    """
    problem = asked(
        one,
        other,
        data,
        loss=loss,
        optimizer=optimizer,
        mode=mode,
        lr=lr,
        accumulate=accumulate,
        batch_size=batch_size,
        seed=seed,
        weights=weights,
        state=state,
        known=tuple(_known(difference) for difference in known),
    )
    jax, torch = sides_of(problem, "float64")
    refuse_unusable(jax, torch)
    epochs = -(-steps // (jax.examples.steps or steps))
    batches = [*islice(jax.stream(epochs), steps)]
    return aligned(jax, torch, batches, problem.training.infer, problem.known, names)


def assert_parity(one: Any, other: Any, data: Any = None, **options: Any) -> Verdict:
    """`check`, which raises AssertionError with every failed comparison unless all levels agree.

    >>> print(assert_parity(theirs, ours, (X, None), weights="guess", levels=["logits"]).word)
    agree
    """
    verdict = check(one, other, data, **options)
    if not verdict.ok:
        raise AssertionError(str(verdict))
    return verdict


def _first_divergence(pair: Pair, results: Sequence[Result]) -> Divergence | None:
    """The step from the shared weights taken apart, where a level of one batch failed; or the first
    certified step that did."""
    for r in results:
        if (
            r.level.part
            and r.failed
            and not (pair.infer or pair.outputs_alone)
            and not pair.unbounded(r.precision)
        ):
            reference, torch = pair.reference(r.precision), pair.torch[r.precision]
            memory = reference.side.memory()
            for batch in pair.batches.values():
                start = pair.params, pair.state, memory
                if found := locate(reference, torch, *start, (batch, batch), step=0):
                    return found
            return Divergence.said(r.level.name, r.precision, r.failed[0])
    differs = any(r.failed for r in results)
    return pair.certified.divergence if pair.certified and differs else None


def _apart(pair: Pair, results: Sequence[Result], first: Divergence | None) -> Alignment | None:
    """The tensors of a step in which both codes part, in float64, or in float32 where a model has
    constants of it; None where that can't be told."""
    differs = first or any(r.level.part and r.failed for r in results)
    if not differs or (pair.narrow and pair.narrower):
        return None
    jax, torch = pair.sides("float32" if pair.narrow else "float64").values()
    infer = pair.infer or pair.outputs_alone
    runs = [[batch] for batch in pair.batches.values()]
    if first and first.step > LATE:
        pair.remarks.append(f"step {first.step:,} is too late to be traced to a line of code")
        return None
    if first and first.step:
        runs = [[*islice(jax.stream(pair.epochs), first.step + 1)]]
    elif first and first.level == "step":  # what an optimiser doesn't keep, its next step lacks
        runs.append([*islice(jax.stream(pair.epochs), 2)])
    try:
        found = (aligned(jax, torch, batches, infer, pair.known) for batches in runs)
        return next((alignment for alignment in found if alignment.parting), None)
    except Exception as error:  # the verdict stands without it, whatever the models hold
        why = str(error).strip().splitlines() or [type(error).__name__]
        pair.remarks.append(f"where in the code they part was not found: {why[0]}")
        return None


def _notes(problem: Problem, pair: Pair, results: Sequence[Result]) -> Iterable[str]:
    """What a reader must know to read the verdict rightly."""
    jax, torch = pair.jax["float32"], pair.torch["float32"]
    assumed = [
        s
        for s, side in (("JAX", jax), ("Torch", torch))
        if isinstance(side.model, (JaxPort, TorchPort)) and side.model.assumes_cross_entropy
    ]
    if assumed and not pair.infer:
        lacks = "neither model has" if len(assumed) == 2 else f"the {assumed[0]} model lacks"
        yield f"cross-entropy was assumed: no loss= was given, and {lacks} one of its own"
    if problem.training.kernel == "fused":
        yield (
            "float32 losses, gradients, steps and runs of JAX are those of fused kernels; its "
            "logits, its float64 and every bound are those of the model's own formula"
        )
    if problem.training.images == "bytes":
        yield (
            "formula checked: float32 products of images in JAX are those of bytes K by W in three "
            "parts of bfloat16, (K W) / 255, within the bound of that; its float64, probes and "
            "identity are those of (K / 255) W"
        )
    if isinstance(problem.weights, Guess):
        yield "weights were guessed: the table was printed, and is in about['weights were guessed']"
    failed = [c.name for r in results if r.level.part == "step" for c in r.failed]
    failed = [name.rpartition(": ")[2].removeprefix(".") for name in failed]
    if still := sorted(pair.frozen & set(failed)):
        own = sorted({one for name in still for one in torch.own_names(name)})
        yield (
            f"frozen in Torch: {', '.join(own)}; JAX's step changes it otherwise: freeze it there "
            "too, by jax.lax.stop_gradient or an optimiser that leaves it out"
        )
    for s, side in (("jax", jax), ("torch", torch)):
        if lone := sorted(set(side.all_state()) - set(pair.state)):
            yield f"{s}: state without a partner, not compared: {', '.join(lone)}"
    reasons = {why for r in results for _, why in r.known}
    for known in problem.known:
        if known.reason not in reasons:
            yield f"a known difference was not seen: {known.level} {known.leaf} ({known.reason})"
    yield from dict.fromkeys(pair.remarks)
    for what in pair.unexercised:
        yield f"not exercised by the data: {what}"


def _known(given: Sequence[str]) -> Known:
    """Raises ValueError for what is no (level, leaf, reason)."""
    if isinstance(given, str) or len(given) != 3 or not all(isinstance(x, str) for x in given):
        raise ValueError(f"known: {given!r}, expected (level, leaf, reason)")
    if not any(fnmatchcase(level.name, given[0]) for level in LEVELS):
        raise ValueError(f"known: no level '{given[0]}'; there are {[x.name for x in LEVELS]}")
    return Known(*given)


def _check_length(problem: Problem) -> None:
    """Raises ValueError where no epoch, or no whole step, would be trained."""
    epochs, accumulate = problem.epochs, problem.training.accumulate
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs: {epochs!r}, expected 1 or more")
    if accumulate > (batches := epochs * (problem.examples.steps or accumulate)):
        raise ValueError(f"accumulate: {accumulate} batches a step, and {batches} in all epochs")
