"""The benchmark: what a figure says, and the command from end to end on small sizes."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parity.cli import main
from parity.config import BenchConfig
from parity.studies.bench import run as bench
from parity.studies.bench import workers
from parity.studies.bench.timing import Row, Size, figure

seconds = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40)
SMALL = ["bench", "--data", "sample", "--width", "8", "--rounds", "2"]


@given(seconds)
def test_an_interval_holds_its_median(values):
    f = figure(values)
    assert min(values) <= f.low <= f.median <= f.high <= max(values)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for n in (6, 9, 25):
        draws = rng.exponential(size=(2000, n))
        held = sum(f.low <= np.log(2) <= f.high for f in map(figure, draws.tolist()))
        assert held / 2000 >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 2000), n


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_measurements_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="expected finite ones"):
        figure(values)


def test_a_figure_that_scatters_is_not_printed():
    assert str(figure([1.0, 1.01, 0.99] * 5)) == "1"
    assert str(figure([1.0, 2.0, 0.5] * 5)) == "0.5..2"


def test_too_few_rounds_show_a_range_however_close_they_are():
    assert not figure([1.0] * 5).steady and figure([1.0] * 6).steady


def test_operations_of_the_books_network():
    assert Size().flops == 2 * 60_000 * (2 * 784 * 256 + 3 * 256 * 10)
    deep = Size(width=32, depth=3, examples=1)
    assert deep.flops == 2 * (2 * 784 * 32 + 2 * 3 * 32 * 32 + 3 * 32 * 10)


@given(width=st.integers(1, 8192), depth=st.integers(1, 8), batch=st.integers(1, 16384))
def test_an_epoch_is_cut_to_whole_batches(width, depth, batch):
    examples = bench._examples(width, depth, batch)
    assert examples == 60_000 or examples % batch == 0 and examples >= min(60_000, 4 * batch)


def test_a_share_of_the_floor_is_taken_round_by_round():
    def row(name, values):
        return Row(name, Size(), tuple(values), 0.0, 0, None, {}, "cpu")

    floor = row("floor", [1.0, 10.0, 2.0, 4.0, 3.0, 1.0])  # the machine slows down and recovers
    twice = row("own", [2 * s for s in floor.seconds])
    assert twice.share(floor) == figure([0.5] * 6)


@pytest.mark.slow
def test_the_command_measures_and_draws(tmp_path, capsys):
    rows = ["floor", "jax scratch", "torch mlp"]
    assert main([*SMALL, "--rows", *rows, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "of floor" in out and "784-8-10, batch 256" in out
    found = json.loads((tmp_path / "bench.json").read_text())
    assert [row["name"] for row in found["rows"]] == rows
    for row in found["rows"]:
        assert len(row["seconds"]) == 2 and min(row["seconds"]) > 0 and row["host_bytes"] > 1e7
    assert found["peak_flops_per_second"] > 0 and not found["missing"]
    for name in ("rows.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_row_that_cannot_run_is_named_with_the_reason(tmp_path, capsys):
    if importlib.util.find_spec("keras"):
        pytest.skip("Keras is installed, so its row runs")
    code = main([*SMALL, "--rows", "floor", "keras on jax", "--out", str(tmp_path)])
    assert code == 0
    assert "keras on jax: not measured: keras is not installed" in capsys.readouterr().out


def test_a_run_that_measured_nothing_does_not_end_well(tmp_path):
    assert main([*SMALL, "--rows", "jax fused", "--out", str(tmp_path)]) == 2


def test_an_unknown_row_is_refused(tmp_path, capsys):
    assert main([*SMALL, "--rows", "jax scrtch", "--out", str(tmp_path / "no")]) == 2
    assert "'jax scratch'" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_a_device_that_is_not_there_is_named(tmp_path, capsys):
    if importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is installed")
    assert main([*SMALL, "--device", "tpu", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "on --device tpu: device: 'tpu', but JAX" in said and "finds none here" in said


def test_a_torch_row_does_not_run_on_the_cpu_among_those_of_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("Torch finds a GPU")
    options = {"data": "sample", "precision": "highest", "device": "cuda"}
    with workers.Worker("torch plain loop", Size(examples=256), **options) as worker:
        worker.load()
        with pytest.raises(workers.Missing, match="^device: 'cuda', but Torch .* finds none here"):
            worker.warm_up()


def test_an_interrupt_keeps_the_rounds_so_far(monkeypatch):
    taken = workers.Worker.round

    def twice(self):
        if self.name == "floor" and len(self.seconds) == 2:
            raise KeyboardInterrupt
        return taken(self)

    monkeypatch.setattr(workers.Worker, "round", twice)
    config = dataclasses.replace(BenchConfig(), rows=("floor",), width=(8,), data="sample")
    found = bench.run(config, tell=lambda text: None)
    assert found.interrupted and [len(row.seconds) for row in found.rows] == [2]


class Alone:
    """A worker of which no other may be there."""

    there = 0

    def __init__(self, name, size, **options):
        self.name, self.seconds = name, []

    def __enter__(self):
        Alone.there += 1
        assert Alone.there == 1
        return self

    def __exit__(self, *exception):
        Alone.there -= 1

    load = warm_up = lambda self: None

    def round(self):
        self.seconds.append(1.0)

    def row(self):
        return Row(self.name, Size(), tuple(self.seconds), 0.0, 0, None, {}, "TPU v5 lite")


def test_rows_on_a_tpu_are_measured_one_after_the_other(monkeypatch):
    monkeypatch.setattr(workers, "Worker", Alone)
    monkeypatch.setattr(bench, "_peak", lambda options, tell: (1.0, "TPU v5 lite"))
    config = dataclasses.replace(BenchConfig(), rows=("floor", "jax mlp"), rounds=2)
    found = bench.run(config, tell=lambda text: None)
    assert [(row.name, len(row.seconds)) for row in found.rows] == [("floor", 2), ("jax mlp", 2)]
    assert found.to_json()["interleaved"] is False
