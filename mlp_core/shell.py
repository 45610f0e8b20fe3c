"""The book's notebook shell: add_to_class, HyperParameters, ProgressBoard (d2l 3.2).

Framework-free, so both rooms share it. Interfaces follow d2l 1.0.3.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, no_type_check


def add_to_class(Class: type) -> Callable[[Callable], None]:
    """Decorator that adds a function to an existing class as a method of the same name."""

    def wrapper(function: Callable) -> None:
        setattr(Class, function.__name__, function)

    return wrapper


class HyperParameters:
    """Base of every class that keeps its constructor's arguments as attributes."""

    _never_saved: tuple[str, ...] = ("self",)

    if TYPE_CHECKING:  # attributes are made at run time

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    @no_type_check  # a checker's wrapper would put its own frame between this one and the caller's
    def save_hyperparameters(self, ignore: Sequence[str] = ()) -> None:
        """Store the arguments of the calling method as attributes, and all of them in `hparams`.

        ignore: names to leave out. Names that begin with an underscore are left out too.
        """
        frame = inspect.currentframe()
        assert frame is not None and frame.f_back is not None
        # As in the book: every local of the caller, so a name assigned before the call too.
        found = inspect.getargvalues(frame.f_back).locals
        left_out = {*ignore, *self._never_saved}
        self.hparams = {
            name: value
            for name, value in found.items()
            if name not in left_out and not name.startswith("_")
        }
        for name, value in self.hparams.items():
            setattr(self, name, value)


class Point(NamedTuple):
    x: float | int
    y: float | int


class ProgressBoard(HyperParameters):
    """Curves that grow while a model trains: drawn in a notebook, only collected elsewhere.

    `data` maps each label to its points; a point is the mean of `every_n` values drawn.
    """

    def __init__(
        self,
        xlabel: str | None = None,
        ylabel: str | None = None,
        xlim: Sequence[float] | None = None,
        ylim: Sequence[float] | None = None,
        xscale: str = "linear",
        yscale: str = "linear",
        ls: Sequence[str] = ("-", "--", "-.", ":"),
        colors: Sequence[str] = ("C0", "C1", "C2", "C3"),
        fig: Any = None,
        axes: Any = None,
        figsize: tuple[float, float] = (3.5, 2.5),
        display: bool = True,
    ) -> None:
        self.save_hyperparameters()
        self.fig = fig
        self.raw_points: dict[str, list[Point]] = {}
        self.data: dict[str, list[Point]] = {}

    def draw(self, x: float | int, y: float | int, label: str, every_n: int = 1) -> None:
        """Add the value y at x to the curve `label`; redraw when `every_n` values make a point."""
        pending = self.raw_points.setdefault(label, [])
        line = self.data.setdefault(label, [])
        pending.append(Point(x, y))
        if len(pending) < every_n:
            return
        line.append(Point(*(sum(values) / len(pending) for values in zip(*pending, strict=True))))
        pending.clear()
        if self.display and in_notebook():
            self._redraw()

    def _redraw(self) -> None:
        from IPython import display
        from matplotlib import pyplot as plt

        if self.fig is None:
            self.fig = plt.figure(figsize=self.figsize)
        axes = self.axes or self.fig.gca()
        axes.cla()
        styles = zip(self.data.items(), self.ls, self.colors, strict=False)
        for (label, line), ls, color in styles:
            axes.plot([p.x for p in line], [p.y for p in line], ls=ls, color=color, label=label)
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel, xscale=self.xscale, yscale=self.yscale)
        if self.xlim:
            axes.set_xlim(self.xlim)
        if self.ylim:
            axes.set_ylim(self.ylim)
        axes.legend()
        display.display(self.fig)
        display.clear_output(wait=True)


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process. Imports nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and hasattr(ipython, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def progress_bar(total: int, unit: str, label: str = "", **options: Any) -> Any:
    """A tqdm bar on stderr; silent where none would be seen: no terminal, or a notebook's board."""
    from tqdm import tqdm

    seen = sys.stderr is not None and sys.stderr.isatty() and not in_notebook()
    return tqdm(total=total, unit=unit, desc=label, disable=not seen, leave=False, **options)


def show_images(
    imgs: Any,
    num_rows: int,
    num_cols: int,
    titles: Sequence[str] | None = None,
    scale: float = 1.5,
) -> Any:
    """Draw images ([n, height, width]) as a grid with titles; returns the matplotlib axes."""
    import numpy as np
    from matplotlib import pyplot as plt

    figsize = (num_cols * scale, num_rows * scale)
    figure, grid = plt.subplots(num_rows, num_cols, figsize=figsize, squeeze=False)
    axes = grid.flatten()
    for i, (ax, img) in enumerate(zip(axes, imgs, strict=False)):
        ax.imshow(np.asarray(img))
        ax.set_axis_off()
        if titles is not None:
            ax.set_title(titles[i])
    return axes
