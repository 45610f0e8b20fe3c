"""Where both frameworks meet: both sides of a problem under shared names, and the book's pairs."""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import flax.nnx as nnx
import torch

import jax_mlp
import torch_mlp
import torch_mlp.checkpoint
from jax_mlp import keys
from parity.problem import Examples, Problem, Training
from parity.sides.guess import Guess, guess
from parity.sides.jax_models import as_module, turned_weights
from parity.sides.jax_settings import plain_jax
from parity.sides.jax_side import JaxSide
from parity.sides.side import Evaluation, Pullback, Run, Side
from parity.sides.torch_data import TorchData
from parity.sides.torch_settings import plain_torch
from parity.sides.torch_side import TorchSide
from parity.sides.torch_trainer import TorchTrainer, torch_threads
from parity.sides.weights import pair_names, pair_state
from parity.trees import Arrays

__all__ = [
    "Arrays",
    "Evaluation",
    "Examples",
    "JaxSide",
    "Pullback",
    "Run",
    "Side",
    "TorchData",
    "TorchSide",
    "TorchTrainer",
    "Training",
    "arguments_needed",
    "book_models",
    "book_pair",
    "guess_of",
    "guessed",
    "made",
    "paired",
    "plain_settings",
    "sides_of",
    "torch_with",
    "torch_threads",
]


@contextlib.contextmanager
def plain_settings() -> Iterator[None]:
    """While it lasts, neither framework has what its user set globally: a verdict is on models."""
    with plain_jax(), plain_torch():
        yield


def sides_of(problem: Problem, dtype: str) -> tuple[JaxSide, TorchSide]:
    """Both sides at a precision, under shared names, both with Torch's weights and state.

    Raises ValueError if parameters can't be paired.
    """
    weights = guessed(problem).weights
    move = weights if callable(weights) else None
    theirs = TorchSide(
        problem.torch, problem.examples, dtype, problem.training, move, problem.device
    )
    mode = problem.training.mode
    given = problem.torch.training if mode is None else mode == "train"
    turn = move is None  # a function of arrays makes them as JAX's model holds them
    ours = JaxSide(
        problem.jax, problem.examples, dtype, problem.training, given, turn, problem.device
    )
    table = weights if isinstance(weights, Mapping) else None
    paired(ours, theirs, table, problem.state)
    ours.load(theirs.params(), theirs.state())
    return ours, theirs


def guessed(problem: Problem) -> Problem:
    """The problem with the weights that it asks to guess, printed once; any other as it is.

    Raises ValueError as `guess` does.
    """
    if problem.weights != "guess":
        return problem
    found = guess_of(problem)
    print(f"weights were guessed; to keep them, pass weights=\n{found.text}", file=sys.stderr)
    return replace(problem, weights=found)


def guess_of(problem: Problem) -> Guess:
    """Which parameter of one model is which of the other's. Raises ValueError as `guess` does."""
    theirs = TorchSide(problem.torch, problem.examples)
    ours = JaxSide(problem.jax, problem.examples, turn=False)
    shapes = {name: array.shape for name, array in ours.params().items()}
    turned = turned_weights(as_module(problem.jax))
    return guess(shapes, theirs.own_shapes, theirs.kinds, turned)


def paired(
    ours: JaxSide,
    theirs: TorchSide,
    table: Mapping[str, str] | None = None,
    state: Mapping[str, str] | None = None,
) -> None:
    """Give both sides the same names. table, state: {name in JAX: name in Torch}, or turned round.

    Raises ValueError, with what there is on both sides, if it isn't clear which is which.
    """
    pairs = pair_names(ours.params(), theirs.params(), table)
    statistics = pair_state(ours.state(), theirs.state(), pairs, theirs.origins, state)
    ours.call(*({own[0]: name for name, own in p.items()} for p in (pairs, statistics)))
    theirs.call(*({own[1]: name for name, own in p.items()} for p in (pairs, statistics)))


def made(make: Callable[..., Any], seed: int) -> Any:
    """What a class or a function makes that takes no argument, or NNX's `rngs` alone.

    Torch's global generator is at `seed` meanwhile, and then left as it was.
    Raises TypeError, with their names, for one that needs more arguments.
    """
    needed = arguments_needed(make)
    if more := [name for name in needed if name != "rngs"]:
        wanted = "expected no argument; name a function that gives them"
        raise TypeError(f"it needs {', '.join(more)}, {wanted}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(rngs=nnx.Rngs(seed)) if needed else make()


def arguments_needed(make: Callable[..., Any]) -> list[str]:
    """Names of those that have no default."""
    free = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    if inspect.isclass(make):  # the metaclass of NNX's takes anything, and hands it on
        parameters = [*inspect.signature(make.__init__).parameters.values()][1:]
    else:
        parameters = [*inspect.signature(make).parameters.values()]
    return [p.name for p in parameters if p.default is p.empty and p.kind not in free]


def book_pair(
    kind: str,
    hiddens: Sequence[int],
    lr: float,
    seed: int,
    inputs: int = 784,
    outputs: int = 10,
    sigma: float | None = None,
    activation: str = "relu",
) -> tuple[nnx.Module, torch.nn.Module]:
    """(JAX model, Torch model) of inputs-hiddens-outputs: "scratch" or "mlp", as d2l 5.2 builds
    them. sigma: the spread of normal initial weights; None: the models' own initial weights.

    The Torch model has the weights that torch.manual_seed(seed) gives it; Torch's global generator
    is left as it was.
    """
    options: dict[str, Any] = {"activation": activation}
    if sigma is not None:
        options["sigma"] = sigma
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "scratch":
            sizes = inputs, outputs, hiddens
            ours = jax_mlp.MLPScratch(*sizes, lr, **options)
            return ours, torch_mlp.MLPScratch(*sizes, lr, **options)
        theirs = torch_mlp.MLP(outputs, hiddens, lr, **options)
        theirs(torch.zeros(1, inputs))  # lazy layers draw their weights now, under the seed
        return jax_mlp.MLP(outputs, hiddens, lr, inputs, **options), theirs


def torch_with(kind: str, weights: Any, activation: str) -> torch.nn.Module:
    """The book's Torch model of a kind with these Weights."""
    inputs, *hiddens, outputs = weights.sizes
    _, model = book_pair(kind, hiddens, 0.1, 0, inputs, outputs, activation=activation)
    torch_mlp.checkpoint.set_weights(model, weights)
    return model


def book_models(
    kind: str, hiddens: Sequence[int], lr: float, **options: Any
) -> tuple[Callable[[int], Any], Callable[[int], Any]]:
    """(seed -> JAX model, seed -> Torch model) of 784-hiddens-10; see book_pair."""

    def jax_model(seed: int) -> Any:
        kept = keys._seed, keys._drawn
        jax_mlp.manual_seed(seed)
        try:
            return book_pair(kind, hiddens, lr, seed, **options)[0]
        finally:  # the user's stream goes on where it was
            keys._seed, keys._drawn = kept

    return jax_model, lambda seed: book_pair(kind, hiddens, lr, seed, **options)[1]
