import base64
import json

import pytest
from matplotlib.figure import Figure

from mlp_core import shell
from mlp_core.drawing import Drawing
from mlp_core.shell import HyperParameters, ProgressBoard, add_to_class, in_notebook, summary


def test_add_to_class_adds_a_method_to_objects_that_exist():
    class A:
        pass

    a = A()

    @add_to_class(A)
    def double(self, x):
        return 2 * x

    assert a.double(4) == 8


def test_save_hyperparameters_keeps_arguments_but_the_ignored():
    class B(HyperParameters):
        def __init__(self, a, b, c=3, _hidden=4):
            self.save_hyperparameters(ignore=["c"])

    b = B(1, b=2)
    assert (b.a, b.b) == (1, 2)
    assert not hasattr(b, "c") and not hasattr(b, "_hidden")
    assert b.hparams == {"a": 1, "b": 2}


def test_each_constructor_of_a_hierarchy_saves_its_own():
    class Base(HyperParameters):
        def __init__(self, a=1):
            self.save_hyperparameters()

    class Derived(Base):
        def __init__(self, b):
            super().__init__()
            self.save_hyperparameters()

    d = Derived(5)
    assert (d.a, d.b, d.hparams) == (1, 5, {"b": 5})


def test_board_averages_every_n_points_and_draws_nothing_outside_a_notebook():
    board = ProgressBoard()
    for x in range(6):
        board.draw(x, 10 * x, "train_loss", every_n=3)
    board.draw(1, 0.5, "val_acc")
    assert board.data == {"train_loss": [(1, 10), (4, 40)], "val_acc": [(1, 0.5)]}
    assert board.fig is None and not in_notebook()


class Kernel:
    """What a board asks of a notebook: an output that can be replaced, and the end of a cell."""

    def __init__(self, monkeypatch, cost):
        self.pictures, self.outputs, self.callbacks, self.now = [], 0, [], 0.0
        display = pytest.importorskip("IPython.display")
        monkeypatch.setattr(shell, "in_notebook", lambda: True)
        monkeypatch.setattr(shell.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr("IPython.get_ipython", lambda: self)
        monkeypatch.setattr(display, "display", self.display)
        monkeypatch.setattr(
            "mlp_core.drawing.Drawing.png", lambda _, data, last: self.draw(data, cost)
        )
        self.events = self

    def draw(self, data, cost):
        self.now += cost
        return json.dumps({label: len(line) for label, line in data.items()}).encode()

    def display(self, picture, **_):
        self.outputs += 1
        self.update(picture)
        return self

    def update(self, picture, **_):
        self.pictures.append(json.loads(base64.b64decode(picture["image/png"])))

    def register(self, event, function):
        self.callbacks.append(function)

    def unregister(self, event, function):
        self.callbacks.remove(function)

    def end_cell(self):
        for function in [*self.callbacks]:
            function(None)


def test_a_board_redraws_for_a_twentieth_of_the_time_and_shows_all_when_the_cell_ends(monkeypatch):
    kernel, board = Kernel(monkeypatch, cost=1.0), ProgressBoard()
    for x in range(100):
        kernel.now += 1
        board.draw(x, x, "loss")
    drawn = len(kernel.pictures)
    assert 3 <= drawn <= 2 + 100 / 20 and kernel.pictures[0] == {"loss": 1}
    kernel.end_cell()
    assert kernel.pictures[-1] == {"loss": 100} and len(kernel.pictures) == drawn + 1
    assert kernel.outputs == 1 and not kernel.callbacks


def test_a_board_has_a_new_picture_in_the_next_cell(monkeypatch):
    kernel, board = Kernel(monkeypatch, cost=0.0), ProgressBoard()
    board.draw(0, 1, "loss")
    kernel.end_cell()
    board.draw(1, 1, "loss")
    assert kernel.outputs == 2 and kernel.pictures == [{"loss": 1}, {"loss": 1}, {"loss": 2}]


def test_a_board_is_drawn_into_axes_that_it_is_given():
    figure = Figure()
    axes = figure.add_subplot()
    board = ProgressBoard(xlabel="epoch", xlim=[0.0, 3.0], axes=axes)
    board.draw(1, 2, "loss")
    assert Drawing(board).png(board.data).startswith(b"\x89PNG")
    assert axes.get_xlabel() == "epoch" and axes.get_xlim() == (0, 3)
    assert axes.lines[0].get_xydata().tolist() == [[1, 2]]


def test_axes_are_drawn_anew_only_for_what_they_do_not_show(monkeypatch):
    board = ProgressBoard(xlim=[0.0, 9.0])
    drawing, drawn = Drawing(board), []
    draw_axes = Drawing._draw_axes
    monkeypatch.setattr(Drawing, "_draw_axes", lambda *given: (drawn.append(1), draw_axes(*given)))
    pictures = [drawing.png({"loss": [(0, 2.0), (1, y)]}) for y in (1.0, 1.5, 0.1)]
    assert len(drawn) == 1 and len(set(pictures)) == 3
    drawing.png({"loss": [(0, 2.0), (1, -1.0)]})
    assert len(drawn) == 2, "-1 was below the axes"
    drawing.png({"loss": [(0, 2.0), (1, -1.0)], "acc": [(1, 0.5)]})
    assert len(drawn) == 3, "a curve joined"
    drawing.png({"loss": [(0, 2.0), (1, float("nan")), (12, 1.0)], "acc": [(1, 0.5)]})
    assert len(drawn) == 3, "neither a NaN nor what lies beyond a given limit can be shown"


def test_a_summary_counts_what_is_known():
    told = summary("Net", {"W": (3, 4), "scale": (), "lazy.weight": None})
    assert told.splitlines()[-1].split() == ["total", "so", "far", "13"]
    assert "3 x 4" in told and "lazy" in told
