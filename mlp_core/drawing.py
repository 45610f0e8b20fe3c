"""The picture of a ProgressBoard, for a few milliseconds: a training must not wait for it."""

import functools
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np


@functools.cache
def can_draw() -> bool:
    """Whether there is matplotlib to draw with; where there isn't, says so, once."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:  # one for another NumPy too
        from mlp_core.fetch import say

        say(f"pictures are left out: {error}; pip install matplotlib adds them")
        return False
    return True


class Drawing:
    """Curves over a background that is kept: axes and legend are drawn anew only when a curve joins
    or leaves what they show. 4 ms a picture, where drawing everything took 66 (processor time).
    """

    def __init__(self, board: Any) -> None:
        """board: its labels, limits, styles, and a figure or axes if it was given any."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.board = board
        figure = board.axes.figure if board.axes else board.fig
        if figure is None:
            figure = Figure(board.figsize, dpi=144)
            figure.subplots_adjust(left=0.16, bottom=0.2, right=0.96, top=0.95)
        self.figure = board.fig = figure
        agg = hasattr(figure.canvas, "copy_from_bbox") and hasattr(figure.canvas, "buffer_rgba")
        self.canvas = figure.canvas if agg else FigureCanvasAgg(figure)
        self.axes = board.axes or figure.gca()
        self.lines: dict[str, Any] = {}
        self.background: Any = None

    def png(self, data: Mapping[str, Sequence[Any]], last: bool = False) -> bytes:
        """The curves {label: [(x, y), ...]}. last: limits as narrow as they are; else with room."""
        from PIL import Image

        curves = {label: np.array(points, float).reshape(-1, 2) for label, points in data.items()}
        if last or curves.keys() != self.lines.keys() or not self._fits(curves):
            self._draw_axes(curves, last)
        else:
            self.canvas.restore_region(self.background)
        for label, points in curves.items():
            if label in self.lines:
                self.lines[label].set_data(points.T)
                self.axes.draw_artist(self.lines[label])
        picture = BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())
        Image.fromarray(pixels).convert("RGB").save(picture, "png", compress_level=1)
        return picture.getvalue()

    def _fits(self, curves: Mapping[str, np.ndarray]) -> bool:
        """Whether all finite points lie within the axes as they were drawn."""
        low, high = np.sort([self.axes.get_xlim(), self.axes.get_ylim()], axis=1).T
        points = np.concatenate([*curves.values()])
        points = points[np.isfinite(points).all(axis=1)]
        fixed = [bool(self.board.xlim), bool(self.board.ylim)]  # what the user cut off is cut off
        return bool((((low <= points) & (points <= high)) | fixed).all())

    def _draw_axes(self, curves: Mapping[str, np.ndarray], last: bool) -> None:
        board, axes = self.board, self.axes
        axes.cla()
        styles = zip(curves.items(), board.ls, board.colors, strict=False)
        self.lines = {
            # Animated: left out of the background.
            label: axes.plot(*points.T, ls=ls, color=color, label=label, animated=True)[0]
            for (label, points), ls, color in styles
        }
        axes.set(xlabel=board.xlabel, ylabel=board.ylabel, xscale=board.xscale, yscale=board.yscale)
        if not last:
            axes.margins(x=0.2, y=0.2)
            lowest = min(np.nanmin(points[:, 1], initial=0) for points in curves.values())
            if board.yscale == "linear" and lowest >= 0:  # losses and accuracies stay above 0
                axes.set_ylim(bottom=0)
        if board.xlim:
            axes.set_xlim(board.xlim)
        if board.ylim:
            axes.set_ylim(board.ylim)
        axes.legend(loc="upper right")
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)
