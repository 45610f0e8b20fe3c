"""What both rooms say of arithmetic: its names, which one is in force, who follows it."""

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

NAMES = ("native", "reproducible")
METHODS = ("forward", "loss", "training_step")  # what a training run computes with


class NotReproducible(TypeError):
    """A model that can't train in reproducible arithmetic; lists every reason."""

    def __init__(self, model: Any, reasons: list[str]) -> None:
        self.reasons = tuple(reasons)
        where = f"{type(model).__name__}: cannot train in reproducible arithmetic:"
        super().__init__("\n  ".join([where, *reasons, "Use arithmetic='native'."]))


def checked(arithmetic: Any) -> Any:
    """The argument, unless it is a string that names no arithmetic: ValueError.

    >>> checked("exact")
    Traceback (most recent call last):
    ValueError: arithmetic = 'exact', expected 'native' or 'reproducible'
    """
    if isinstance(arithmetic, str) and arithmetic not in NAMES:
        raise ValueError(f"arithmetic = {arithmetic!r}, expected 'native' or 'reproducible'")
    return arithmetic


def in_force(model: Any, trainer: Any) -> Any:
    """The arithmetic of a run: the trainer's if it has one, else the model's.

    >>> from types import SimpleNamespace as Has
    >>> in_force(Has(arithmetic="native"), Has(arithmetic="reproducible"))
    'reproducible'
    """
    given = getattr(trainer, "arithmetic", None)
    return getattr(model, "arithmetic", NAMES[0]) if given is None else given


def missing(name: str) -> Callable[..., Any]:
    """An operation that an arithmetic doesn't have: called, it raises TypeError.

    >>> missing("tanh")(0.5)
    Traceback (most recent call last):
    TypeError: tanh has no reproducible form, as relu has; use arithmetic='native'
    """

    def refuse(*_: Any) -> Any:
        raise TypeError(f"{name} has no reproducible form, as relu has; use arithmetic='native'")

    return refuse


def any_arithmetic(function: F) -> F:
    """Mark a method, or a layer that is a function, which computes by `self.ops` alone.

    Whatever else it does to a float must be exact in every order and on every device: reshape,
    select, compare. Only marked methods run in reproducible arithmetic: what isn't reproducible
    must not pass for it.

        >>> @any_arithmetic
        ... def flatten(X):
        ...     return X.reshape(len(X), -1)
        >>> is_marked(flatten)
        True
    """
    function.any_arithmetic = True  # type: ignore[attr-defined]
    return function


def is_marked(function: Any) -> bool:
    """Whether a function, or the one that a bound method binds, is marked.

    >>> is_marked(len), is_marked(any_arithmetic(lambda X: X))
    (False, True)
    """
    return getattr(function, "any_arithmetic", False)


def unmarked(model: Any) -> list[str]:
    """A reason for each method of a model that computes by arithmetic of its own.

    >>> print(unmarked(object())[0])
    'forward' is not marked @any_arithmetic; compute by self.ops (linear, relu, ...
    """
    return [
        f"'{name}' is not marked @any_arithmetic; compute by self.ops (linear, relu, "
        "softmax_cross_entropy, mean) and mark it"
        for name in METHODS
        if not is_marked(getattr(model, name, None))
    ]
