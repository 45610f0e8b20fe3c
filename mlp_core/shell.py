"""The book's notebook shell: add_to_class, HyperParameters, ProgressBoard (d2l 3.2).

Framework-free, so both rooms share it. Interfaces follow d2l 1.0.3.
"""

import inspect
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, no_type_check


def add_to_class(Class: type) -> Callable[[Callable], None]:
    """Decorator that adds a function to an existing class as a method of the same name.

    >>> class Model:
    ...     rate = 0.5
    >>> @add_to_class(Model)
    ... def half(self, x):
    ...     return self.rate * x
    >>> Model().half(4)
    2.0
    """

    def wrapper(function: Callable) -> None:
        setattr(Class, function.__name__, function)

    return wrapper


class HyperParameters:
    """Base of every class that keeps its constructor's arguments as attributes.

    >>> class Model(HyperParameters):
    ...     def __init__(self, width, lr=0.1):
    ...         self.save_hyperparameters()
    >>> Model(256).hparams
    {'width': 256, 'lr': 0.1}
    """

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

    `data` maps each label to its points; a point is the mean of `every_n` values drawn. Redrawing
    takes no more than a twentieth of the time: what it leaves out is drawn when the cell ends.

    >>> board = ProgressBoard(xlabel="epoch")
    >>> for x in range(4):
    ...     board.draw(x, x * x, "loss", every_n=2)
    >>> board.data["loss"]
    [Point(x=0.5, y=0.5), Point(x=2.5, y=6.5)]
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
        self._shown: Any = None  # the output of the running cell that holds the picture
        self._resume = 0.0  # when drawing again costs no more than a twentieth
        self._drawing: Any = None

    def draw(self, x: float | int, y: float | int, label: str, every_n: int = 1) -> None:
        """Add the value y at x to the curve `label`; redraw when `every_n` values make a point."""
        pending = self.raw_points.setdefault(label, [])
        line = self.data.setdefault(label, [])
        pending.append(Point(x, y))
        if len(pending) < every_n:
            return
        line.append(Point(*(sum(values) / len(pending) for values in zip(*pending, strict=True))))
        pending.clear()
        if self.display and in_notebook() and time.perf_counter() >= self._resume:
            self._redraw()

    def _redraw(self, last: bool = False) -> None:
        from base64 import b64encode

        from IPython import display, get_ipython

        from mlp_core.drawing import Drawing

        first = self._shown is None
        start = time.perf_counter()
        self._drawing = self._drawing or Drawing(self)
        png = b64encode(self._drawing.png(self.data, last)).decode()
        picture = {"image/png": png, "text/plain": "<ProgressBoard>"}
        width = {"image/png": {"width": int(100 * self.figsize[0])}}
        if first:
            self._shown = display.display(picture, metadata=width, raw=True, display_id=True)
            get_ipython().events.register("post_run_cell", self._end_of_cell)
        else:
            self._shown.update(picture, metadata=width, raw=True)
        now = time.perf_counter()
        # The first time has matplotlib's import in it.
        self._resume = now if first else now + 19 * (now - start)

    def _end_of_cell(self, result: Any = None) -> None:
        """Draw all that there is; what comes in a later cell has a picture there."""
        from IPython import get_ipython

        get_ipython().events.unregister("post_run_cell", self._end_of_cell)
        self._redraw(last=True)
        self._shown, self._resume = None, 0.0


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process. Imports nothing.

    >>> in_notebook()
    False
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and hasattr(ipython, "get_ipython") else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def progress_bar(total: int, unit: str, label: str = "", **options: Any) -> Any:
    """A tqdm bar on stderr; silent where none would be seen: no terminal, or a notebook's board.

    >>> with progress_bar(total=2, unit="step") as bar:  # a file's reader sees nothing
    ...     for _ in range(2):
    ...         _ = bar.update()
    """
    from tqdm import tqdm

    seen = sys.stderr is not None and sys.stderr.isatty() and not in_notebook()
    return tqdm(total=total, unit=unit, desc=label, disable=not seen, leave=False, **options)


def summary(name: str, shapes: Mapping[str, Sequence[int] | None]) -> str:
    """The parameters of a model: names, shapes, how many numbers. A shape of None isn't known yet.

    >>> print(summary("MLP", {"W1": (784, 256), "b1": (256,)}))
    MLP
      W1     784 x 256  200,704
      b1           256      256
      total             200,960
    """
    rows = [
        (key, " x ".join(map(str, shape)) or "()", f"{math.prod(shape):,}")
        if shape is not None
        else (key, "lazy", "?")
        for key, shape in shapes.items()
    ]
    known = sum(math.prod(shape) for shape in shapes.values() if shape is not None)
    more = " so far" * (None in shapes.values())
    rows.append(("total" + more, "", f"{known:,}"))
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = (f"  {a:<{first}}  {b:>{second}}  {c:>{third}}" for a, b, c in rows)
    return "\n".join([name, *lines])


def show_images(
    imgs: Any,
    num_rows: int,
    num_cols: int,
    titles: Sequence[str] | None = None,
    scale: float = 1.5,
) -> Any:
    """Draw images ([n, height, width]) as a grid with titles; returns the matplotlib axes.

    >>> import numpy as np
    >>> len(show_images(np.zeros((4, 28, 28)), 2, 2))
    4
    """
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
