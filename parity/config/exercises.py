"""The book's exercises on this network: what each varies. Source: the exercises of d2l 5.2."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from mlp_core import activations
from parity.config.numbers import FLOAT32
from parity.exits import Refused


class ValueMissed(Refused, ValueError):
    """A value that an exercise can't take."""


@dataclass(frozen=True)
class Setting:
    """What a value makes of the network. sigma: spread of the initial weights; None: the model's
    own."""

    hiddens: tuple[int, ...]
    lr: float
    activation: str = "relu"
    sigma: float | None = None


@dataclass(frozen=True)
class Exercise:
    """One exercise. change: of the value and the setting without it, the setting with it.

    ordered: whether the values are steps of one quantity.
    """

    name: str
    question: str
    noun: str
    values: tuple[str, ...]
    expected: str
    change: Callable[[str, Setting], Setting]
    ordered: bool = False

    def settings(self, values: Sequence[str], base: Setting) -> dict[str, Setting]:
        """The setting of each value. Raises ValueMissed."""
        found = {}
        for value in values or self.values:
            try:
                found[value] = self.change(value, base)
            except ValueError:
                message = f"{self.name}: '{value}', expected {self.expected}"
                raise ValueMissed(message) from None
        return found


def widths(value: str) -> tuple[int, ...]:
    """The widths in "256-64"."""
    found = tuple(int(part) for part in value.split("-"))
    if min(found) < 1:
        raise ValueError(value)
    return found


def number(value: str) -> float:
    found = float(value)
    if not 0 <= found <= FLOAT32:
        raise ValueError(value)
    return found


def _layers(value: str, base: Setting) -> Setting:
    return replace(base, hiddens=widths(value))


def _rate(value: str, base: Setting) -> Setting:
    return replace(base, lr=number(value))


def _both(value: str, base: Setting) -> Setting:
    layers, _, rate = value.partition("@")
    return replace(base, hiddens=widths(layers), lr=number(rate))


def _activation(value: str, base: Setting) -> Setting:
    activations.check_activation(value)
    return replace(base, activation=value)


def _spread(value: str, base: Setting) -> Setting:
    return replace(base, sigma=number(value))


LAYERS = "widths of hidden layers, such as 256 or 256-64"
# A grid, and not as many random points: runs of one architecture are trained and compiled together.
GRID = tuple(
    f"{layers}@{lr}"
    for layers, lr in product(("64", "256", "64-64", "256-256"), ("0.03", "0.1", "0.3", "0.5"))
)

EXERCISES = {
    exercise.name: exercise
    for exercise in (
        Exercise(
            "width",
            "How does the width of the hidden layer change the result?",
            "width",
            ("8", "32", "128", "256", "512", "1024"),
            LAYERS,
            _layers,
            ordered=True,
        ),
        Exercise(
            "depth",
            "What does an added hidden layer change?",
            "network",
            ("256", "256-256", "256-256-256"),
            LAYERS,
            _layers,
            ordered=True,
        ),
        Exercise(
            "bottleneck",
            "Why is it a bad idea to insert a layer with a single neuron?",
            "network",
            ("256", "256-1", "256-2", "256-1-256"),
            LAYERS,
            _layers,
        ),
        Exercise(
            "lr",
            "Which learning rate gives the best result?",
            "learning rate",
            ("0.003", "0.01", "0.03", "0.1", "0.3", "1", "3"),
            "a number from 0 to 3.4e38",
            _rate,
            ordered=True,
        ),
        Exercise(
            "joint",
            "What is the best result over learning rate, width and depth together?",
            "choice",
            GRID,
            "WIDTHS@RATE, such as 256-64@0.1",
            _both,
        ),
        Exercise(
            "activation",
            "Which activation works best?",
            "activation",
            activations.NAMES,
            "one of " + ", ".join(activations.NAMES),
            _activation,
        ),
        Exercise(
            "spread",
            "How do differently spread initial weights change the result?",
            "spread",
            ("0", "0.0001", "0.001", "0.01", "0.1", "1"),
            "a number from 0 to 3.4e38",
            _spread,
            ordered=True,
        ),
    )
}
