"""What a traced step changes and can't keep: it runs once, while it is traced, and never again.

`self.k += 1` in a training_step counts to 1, whatever the number of steps; a counter of the trainer
that it reads stays what it was. Both would be other training than what is written, silently.
"""

from collections.abc import Iterable, Mapping
from typing import Any

Noted = dict[str, Any]


class Untraceable(TypeError):
    """A step that reads or changes what a compiled run can't follow; says what, and what to do."""


def noted(values: Iterable[tuple[str, Any]]) -> Noted:
    """{name: value}, of lists, dicts and sets a copy: what is changed in place shows as well."""
    return {name: _copied(value) for name, value in values}


def check_unchanged(step: str, before: Noted, after: Noted, remedy: str) -> None:
    """Refuse a step that bound a name anew, to another value. Raises Untraceable."""
    names = [n for n in after if n not in before or not _same(before[n], after[n])]
    names += [name for name in before if name not in after]
    if names:
        what = ", ".join(f"self.{name}" for name in names)
        raise Untraceable(
            f"{step}: changes {what}, which happens once, when the step is traced, and not at each "
            f"step; {remedy}"
        )


class Counter:
    """A number of a Trainer that changes from step to step, so that no traced step can read it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, trainer: Any, owner: type | None = None) -> Any:
        if trainer is None:
            return self
        if trainer.tape is not None:
            raise Untraceable(
                f"a traced step reads trainer.{self.name}: it would stay {vars(trainer)[self.name]}"
                ", its value when the step is traced; count steps in the model's own state"
            )
        if self.name not in vars(trainer):
            raise AttributeError(f"{type(trainer).__name__}.{self.name}: set by fit")
        return vars(trainer)[self.name]

    def __set__(self, trainer: Any, value: int) -> None:
        vars(trainer)[self.name] = value


def _copied(value: Any, depth: int = 3) -> Any:
    if not depth:
        return value
    if isinstance(value, (list, tuple)):
        return [_copied(v, depth - 1) for v in value]
    if isinstance(value, Mapping):
        return {key: _copied(v, depth - 1) for key, v in value.items()}
    return set(value) if isinstance(value, set) else value


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    # Of anything else, only the same object is sure to be the same value: == of arrays is an array.
    return isinstance(a, (bool, int, float, complex, str, bytes, set)) and (a == b or a != a)
