"""What an exercise found: its rows, a table, a sentence, JSON."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from rich import box
from rich.console import Console
from rich.table import Table

from mlp_core.history import History
from parity.config.exercises import Exercise, Setting

CLASSES = 10


@dataclass(frozen=True)
class Row:
    """One value: its runs, seed by seed. n: validation examples."""

    value: str
    setting: Setting
    runs: tuple[History, ...]
    n: int

    @property
    def epochs(self) -> int:
        return min(len(run.epochs) for run in self.runs)

    def curves(self, key: str) -> Float[np.ndarray, "runs epochs"]:
        """A figure of each run after each epoch: val's "loss" or "acc", or "train" loss, its mean
        over the epoch's steps. NaN from the epoch on in which a run diverged."""
        found = np.array([self._curve(run, key) for run in self.runs])
        lost = np.array([[not math.isfinite(v) for v in self._curve(run, "train")]
                         for run in self.runs])  # fmt: skip
        found[np.logical_or.accumulate(lost, axis=1) | ~np.isfinite(found)] = np.nan
        return found

    def _curve(self, run: History, key: str) -> list[float]:
        if key != "train":
            return run.val(key)[: self.epochs]
        steps = np.array(run.train_loss[: self.epochs * run.epochs[0].steps])
        return [float(part.mean()) for part in np.split(steps, self.epochs)]

    @property
    def diverged(self) -> int:
        """Runs with a loss that is no number, or infinite."""
        return int(np.isnan(self.curves("loss")).any(axis=1).sum())

    @property
    def at_chance(self) -> int:
        """Runs no better than guessing: accuracy within 3 standard errors of 1 / classes, or under.

        acc <= p + 3 sqrt(p (1 - p) / n),  p = 1 / classes
        """
        p = 1 / CLASSES
        return int((self.final("acc") <= p + 3 * math.sqrt(p * (1 - p) / self.n)).sum())

    def final(self, key: str) -> Float[np.ndarray, "left"]:
        """The last value of each run that did not diverge."""
        last = self.curves(key)[:, -1]
        return last[~np.isnan(self.curves("loss")).any(axis=1)]

    @property
    def best_epoch(self) -> int | None:
        """The epoch, from 1, with the highest mean accuracy of the runs that did not diverge."""
        left = self.curves("acc")[~np.isnan(self.curves("loss")).any(axis=1)]
        return int(left.mean(axis=0).argmax()) + 1 if len(left) else None

    @property
    def seconds(self) -> float:
        return math.fsum(run.seconds for run in self.runs)

    @property
    def note(self) -> str:
        parts = ((self.diverged, "diverged"), (self.at_chance, "at chance"))
        return ", ".join(f"{n} of {len(self.runs)} {what}" for n, what in parts if n)

    def to_json(self) -> dict[str, Any]:
        figures = {"val_loss": "loss", "val_acc": "acc", "train_loss": "train"}
        return {
            "value": self.value,
            "setting": asdict(self.setting),
            "epochs": self.epochs,
            "best_epoch": self.best_epoch,
            "seconds": round(self.seconds, 3),
            "diverged": self.diverged,
            "at_chance": self.at_chance,
            "seeds": [run.about["hyperparameters"]["seed"] for run in self.runs],
        } | {name: self.curves(key) for name, key in figures.items()}


def spread(values: np.ndarray) -> float:
    """The standard deviation over seeds; NaN of a single one."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def apart(a: Row, b: Row) -> tuple[float, float]:
    """(mean accuracy of a less that of b, half of its 95% confidence interval over seeds).

        t(0.975, df) sqrt(u + v),   u = var(a) / len(a),   v = var(b) / len(b)

    df: Welch's. The half is NaN where either has a single run. Source: Welch 1947.
    """
    from scipy import stats

    x, y = a.final("acc"), b.final("acc")
    u, v = (spread(z) ** 2 / len(z) for z in (x, y))
    half = 0.0
    if u + v:  # not for runs that are all alike
        df = (u + v) ** 2 / (u**2 / (len(x) - 1 or 1) + v**2 / (len(y) - 1 or 1))
        half = float(stats.t.ppf(0.975, df)) * math.sqrt(u + v)
    return float(x.mean() - y.mean()), half


@dataclass(frozen=True)
class Outcome:
    """All rows of an exercise. interrupted: rows may have fewer epochs than were asked for."""

    exercise: Exercise
    rows: tuple[Row, ...]
    about: dict[str, Any]
    interrupted: bool = False

    @property
    def ranked(self) -> list[Row]:
        """Rows with a run that did not diverge, from the highest mean accuracy down."""
        left = [row for row in self.rows if len(row.final("acc"))]
        return sorted(left, key=lambda row: -row.final("acc").mean())

    @property
    def answer(self) -> str:
        """What the measured figures say."""
        if not self.ranked:
            return "Every run diverged."
        best, noun = self.ranked[0], self.exercise.noun
        parts = [f"Best {noun}: {best.value}, accuracy {_mean(best.final('acc'))}"]
        differences = {row.value: apart(best, row) for row in self.ranked[1:]}
        close = [value for value, (by, error) in differences.items() if by <= error]
        if close:
            parts.append(f"not told apart from it by {len(best.runs)} seeds: {', '.join(close)}")
        if (worst := self.ranked[-1].value) not in (best.value, *close):
            parts.append(f"worst: {worst}, {_difference(*differences[worst])} lower")
        parts += [f"{row.value}: {row.note}" for row in self.rows if row.note]
        return "; ".join(parts) + "." + self._more(best)

    def _more(self, best: Row) -> str:
        """What is asked in particular."""
        name = self.exercise.name
        if name == "joint":
            # The expected largest of K normal errors is below sqrt(2 ln K) standard errors.
            p, K = float(best.final("acc").mean()), len(self.rows)
            excess = math.sqrt(2 * math.log(max(K, 1)) * p * (1 - p) / best.n)
            return (
                f" Chosen out of {K} by the validation set itself, so this figure is optimistic, "
                f"by up to {excess:.2g}: judge the choice on images that did not make it."
            )
        if name in ("depth", "bottleneck") and self.rows[0] in self.ranked:
            first = self.rows[0]
            changes = []
            for row in self.rows[1:]:
                if row in self.ranked:
                    by, error = apart(row, first)
                    what = "gains" if by > error else "loses" if -by > error else "changes nothing"
                    certain = what != "changes nothing"
                    changes.append(
                        f"{row.value} {what}" + certain * f" {_difference(abs(by), error)}"
                    )
            return f" Against {first.value}: {'; '.join(changes)}." if changes else ""
        return ""

    def table(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column(self.exercise.noun)
        for name in ("loss", "accuracy", "best epoch", "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for row in self.rows:
            loss, acc = (_mean(row.final(key)) for key in ("loss", "acc"))
            epoch = "" if row.best_epoch is None else str(row.best_epoch)
            style = "bold" if self.ranked and row is self.ranked[0] else "red" if row.note else ""
            table.add_row(row.value, loss, acc, epoch, f"{row.seconds:.1f}", row.note, style=style)
        return table

    def print(self, console: Console) -> None:
        console.print(self.exercise.question, style="bold", highlight=False)
        console.print(self.table())
        console.print(self.answer, highlight=False, markup=False)
        if self.interrupted:
            done = min((row.epochs for row in self.rows), default=0)
            console.print(f"Interrupted: after {done} or more epochs.", style="bold red")
        console.print()

    def to_json(self) -> dict[str, Any]:
        return {
            "question": self.exercise.question,
            "answer": self.answer,
            "interrupted": self.interrupted,
            "about": self.about,
            "rows": [row.to_json() for row in self.rows],
        }


def _mean(values: np.ndarray) -> str:
    if not len(values):
        return "-"
    error = f" +- {spread(values):.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{error}"


def _difference(by: float, error: float) -> str:
    return f"{by:.4f}" + (f" +- {error:.4f}" if math.isfinite(error) else "")
