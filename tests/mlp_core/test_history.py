import csv
import math

import pytest

from mlp_core.history import Epoch, History


def example():
    return History(
        train_loss=[2.3, 2.1, 1.9, 1.7],
        epochs=[
            Epoch(2, 500, 0.5, {"loss": 1.8, "acc": 0.4}),
            Epoch(2, 500, 0.25, {"loss": 1.6, "acc": 0.5}),
        ],
        compile_seconds=0.7,
        about={"side": "jax"},
    )


def test_json_gives_back_the_same_history(tmp_path):
    history = example()
    assert History.load(history.save(tmp_path / "h.json")) == history


def test_a_diverged_run_is_saved_as_strict_json(tmp_path):
    history = History([math.nan, math.inf], [Epoch(2, 2, 1.0, {"loss": math.nan})])
    path = history.save(tmp_path / "h.json")
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    back = History.load(path)
    assert math.isnan(back.train_loss[0]) and back.train_loss[1] == math.inf
    assert math.isnan(back.val("loss")[0])


def test_csv_has_a_row_a_step_and_validation_at_the_end_of_an_epoch(tmp_path):
    with open(example().save(tmp_path / "h.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["train_loss"] for row in rows] == ["2.3", "2.1", "1.9", "1.7"]
    assert [row["val_acc"] for row in rows] == ["", "0.4", "", "0.5"]
    assert [row["epoch"] for row in rows] == ["1", "1", "2", "2"]


def test_speed_leaves_compilation_out():
    assert example().samples_per_second == pytest.approx(1000 / 0.75)
    assert math.isnan(History().samples_per_second)


def test_plot_writes_a_picture(tmp_path):
    example().plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    History().plot(tmp_path / "empty.svg")
    assert b"<svg" in (tmp_path / "empty.svg").read_bytes()


ONE = '{"epochs": [{"steps": %s, "samples": 1, "seconds": %s, "val": {}}], "train_loss": %s}'


@pytest.mark.parametrize(
    "text",
    [
        ONE % ("1", "1", "[1" + "0" * 400 + "]"),
        ONE % ("1", "1", "[1" + "0" * 5000 + "]"),
        ONE % ('"a"', "1", "[1]"),
        ONE % ("1", "null", "[1]"),
        ONE % ("10000000000000", "1", "[1]"),
        ONE % ("-1", "1", "[1]"),
        ONE.replace('"samples": 1', '"samples": 1' + "0" * 400) % ("1", "1", "[1]"),
        ONE % ("1", "1", '"1"'),
        ONE % ("1", "1", "[true]"),
        ONE % ("1", "1", '["1"]'),
        '{"epochs": [], "train_loss": [], "interrupted": 7}',
        '{"epochs": [], "train_loss": [], "about": 3}',
        '{"epochs": [], "train_loss": [], "compile_seconds": "x"}',
        "[" * 100_000,
    ],
    ids=range(14),
)
def test_a_history_of_other_types_or_lengths_is_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match="bad.json: expected a history that History.save wrote"):
        History.load(tmp_path / "bad.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"epochs": 3}', '{"epochs": [], "x": 1}'])
def test_anything_else_is_refused_with_the_file_named(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ValueError, match="bad.json"):
        History.load(tmp_path / "bad.json")


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=".json or .csv"):
        example().save(tmp_path / "h.xml")
