from mlp_core.shell import HyperParameters, ProgressBoard, add_to_class, in_notebook


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
